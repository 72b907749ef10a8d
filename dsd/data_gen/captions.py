"""Read captions that grid prompts begin with: a text file, JSONL, Parquet, or a set on the hub.

A language model that writes prompts without them collapses onto a few favourites (the paper takes LAION's captions).
"""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from dsd.data_gen.near_duplicates import without_near_duplicates
from dsd.errors import UserError
from dsd.io.inputs import read_text

FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}  # by suffix; the name that `datasets` gives it
KEY = "prompts.captions"


def captions(
    path: str,
    column: str = "caption",
    split: str = "train",
    num: int | None = None,
    near_duplicates: float | None = 0.8,
) -> list[str]:
    """Read the captions of `path`, without duplicates.

    `path` is a .jsonl, .json or .parquet file (its `column`), any other file (one caption a line), or a set on the hub
    (the `column` of its `split`, streamed). `num` reads that many rows. Of captions that share `near_duplicates` of
    their words (Jaccard) the first is kept.
    """
    file = Path(path)
    if not file.is_file() and _is_file_name(path):
        raise UserError(f"{KEY}.path={path}: no such file")
    if file.is_file() and file.suffix not in FORMATS:
        lines = read_text(file, f"{KEY}.path").splitlines()
        return distinct(islice(lines, num), path, near_duplicates)
    return distinct(_column(path, column, split, num), path, near_duplicates)


def distinct(texts: Iterable[object], path: str, near_duplicates: float | None) -> list[str]:
    """Drop empty texts, texts that differ from an earlier one in case, space or punctuation alone, and near ones."""
    seen, kept = set(), []
    for given in texts:
        text = " ".join(str(given or "").split())
        bare = "".join(c for c in text.casefold() if c.isalnum())
        if bare and bare not in seen:
            seen.add(bare)
            kept.append(text)
    if not kept:
        raise UserError(f"{KEY}.path={path}: no captions in it")
    return kept if near_duplicates is None else without_near_duplicates(kept, near_duplicates)


def _is_file_name(path: str) -> bool:
    """Tell a file's name from the name of a set on the hub ("user/name")."""
    return Path(path).suffix in (*FORMATS, ".txt") or path.startswith((".", "/", "~"))


def _column(path: str, column: str, split: str, num: int | None) -> list[Any]:
    """Read one column of a file or of a set on the hub."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    kind = FORMATS.get(Path(path).suffix)
    try:
        if kind is not None:
            rows = load_dataset(kind, data_files=path, split="train", streaming=True)
        else:
            rows = load_dataset(path, split=split, streaming=True)
        first = next(iter(rows), None)
        if first is not None and column not in first:
            raise UserError(f"{KEY}.column={column}: no such column in {path}; its columns: {', '.join(first)}")
        return [row[column] for row in islice(rows, num)]
    except (OSError, ValueError, DatasetNotFoundError) as error:
        what = "cannot be read" if kind is not None else "neither a file nor a set on the hub that can be read"
        raise UserError(f"{KEY}.path={path}: {what}: {str(error).strip().splitlines()[0]}") from error
