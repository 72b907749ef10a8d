"""Captions that grid prompts begin with: a text file, JSONL, Parquet, or any set that `datasets` loads.

A prompt writer without them collapses onto a few favourites (paper, section 3.1: captions of LAION).
"""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from datasets import load_dataset
from datasets.exceptions import DatasetNotFoundError

from dsd.data_gen.near_duplicates import without_near_duplicates
from dsd.errors import UserError


def text_captions(path: str, near_duplicates: float | None = 0.8) -> list[str]:
    """One caption a line."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"captions.path={path}: no such file")
    try:
        return _cleaned(file.read_text(encoding="utf-8").splitlines(), path, near_duplicates)
    except UnicodeDecodeError as error:
        raise UserError(f"captions.path={path}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def dataset_captions(
    path: str, column: str, split: str = "train", num: int | None = None, near_duplicates: float | None = 0.8
) -> list[str]:
    """A column of a .jsonl or .parquet file, or of a set on the hub (streamed, its first `num` rows)."""
    kind = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}.get(Path(path).suffix)
    try:
        if kind is not None:
            if not Path(path).is_file():
                raise UserError(f"captions.path={path}: no such file")
            rows = load_dataset(kind, data_files=path, split="train", streaming=True)
        else:
            rows = load_dataset(path, split=split, streaming=True)
        first = next(iter(rows), None)
        if first is not None and column not in first:
            raise UserError(f"captions.column={column}: no such column in {path}; its columns: {', '.join(first)}")
        return _cleaned([row[column] for row in islice(rows, num)], path, near_duplicates)
    except (OSError, ValueError, DatasetNotFoundError) as error:
        raise UserError(f"captions.path={path}: cannot be read: {str(error).strip().splitlines()[0]}") from error


def _cleaned(captions: Sequence[object], path: str, near_duplicates: float | None) -> list[str]:
    """Without empty ones, those that differ from an earlier one in case, space or punctuation alone, and near ones."""
    seen, kept = set(), []
    for caption in captions:
        text = " ".join(str(caption or "").split())
        bare = "".join(c for c in text.casefold() if c.isalnum())
        if bare and bare not in seen:
            seen.add(bare)
            kept.append(text)
    if not kept:
        raise UserError(f"captions.path={path}: no captions in it")
    return kept if near_duplicates is None else without_near_duplicates(kept, near_duplicates)
