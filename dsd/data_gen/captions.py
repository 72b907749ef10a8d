"""Read captions that grid prompts begin with: a text file, JSONL, Parquet, or a set on the hub.

A language model that writes prompts without them collapses onto a few favourites (the paper takes LAION's captions).
"""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from dsd.data_gen.near_duplicates import without_near_duplicates
from dsd.errors import UserError
from dsd.io.inputs import read_text, regular_file

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
    if not Path(path).exists() and not _is_file_name(path):
        return distinct(_hub_column(path, column, split, num), path, near_duplicates)
    file = regular_file(path, f"{KEY}.path")
    if file.suffix == ".parquet":
        return distinct(_parquet_column(path, column, num), path, near_duplicates)
    texts = _json_column(path, column) if file.suffix in (".jsonl", ".json") else read_text(file).split("\n")
    return distinct(islice(texts, num), path, near_duplicates)


def distinct(texts: Iterable[object], path: str, near_duplicates: float | None) -> list[str]:
    """Drop empty texts, texts that differ from an earlier one in case, space or punctuation alone, and near ones."""
    seen, kept = set(), []
    for given in texts:
        if given is not None and not isinstance(given, str):
            raise UserError(f"{KEY}.path={path}: {str(given)[:60]!r} is no text")
        text = " ".join((given or "").encode("utf-8", "replace").decode().split())
        bare = "".join(c for c in text.casefold() if c.isalnum())
        if bare and bare not in seen:
            seen.add(bare)
            kept.append(text)
    if not kept:
        raise UserError(f"{KEY}.path={path}: no captions in it")
    return kept if near_duplicates is None else without_near_duplicates(kept, near_duplicates)


def _is_file_name(path: str) -> bool:
    """Tell a file's name from the name of a set on the hub ("user/name")."""
    return Path(path).suffix in (".txt", ".jsonl", ".json", ".parquet") or path.startswith((".", "/", "~"))


def _json_column(path: str, column: str) -> Iterator[object]:
    """Read one column of JSON lines, or of a JSON file that holds a list of objects."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        rows: Any = [(1, row) for row in _json(text, path)]
    else:
        rows = ((n, _json(line, f"{path}:{n}")) for n, line in enumerate(text.split("\n"), 1) if line.strip())
    for number, row in rows:
        if not isinstance(row, dict):
            raise UserError(f"{KEY}.path={path}:{number}: not a JSON object; each line is {{{column!r}: ...}}")
        _check_column(path, column, row)
        yield row[column]


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{KEY}.path={where}: not JSON ({error})") from error


def _parquet_column(path: str, column: str, num: int | None) -> list[object]:
    """Read one column of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        _check_column(path, column, file.schema_arrow.names)
        batches = file.iter_batches(columns=[column])
        return list(islice((value for batch in batches for value in batch.column(0).to_pylist()), num))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{KEY}.path={path}: cannot be read: {str(error).strip().splitlines()[0]}") from error


def _hub_column(path: str, column: str, split: str, num: int | None) -> list[object]:
    """Read one column of a set on the hub."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        rows = load_dataset(path, split=split, streaming=True)
        first = next(iter(rows), None)
        if first is not None:
            _check_column(path, column, first)
        return [row[column] for row in islice(rows, num)]
    except (OSError, ValueError, DatasetNotFoundError) as error:
        what = "neither a file nor a set on the hub that can be read"
        raise UserError(f"{KEY}.path={path}: {what}: {str(error).strip().splitlines()[0]}") from error


def _check_column(path: str, column: str, columns: Iterable[str]) -> None:
    known = list(columns)
    if column not in known:
        raise UserError(f"{KEY}.column={column}: no such column in {path}; its columns: {', '.join(known)}")
