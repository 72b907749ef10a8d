"""Open the records that stages left, and check them where they enter: columns, empty values, pictures."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List
from datasets import Image as ImageFeature
from pyarrow import ArrowException
from pydantic import FiniteFloat, TypeAdapter, ValidationError

from dsd.errors import UserError
from dsd.io.inputs import first_problem
from dsd.io.pictures import read_picture
from dsd.io.records import features
from dsd.runs.shards import read_shards

Batch = Mapping[str, Sequence[Any]]
_SCORES = TypeAdapter(dict[str, FiniteFloat])


def open_records(folder: Path, name: str, record: type) -> Dataset:
    """Open shards as rows of a record class; pictures are decoded when their turn comes. UserError says what is wrong.

    `folder` is named with the column that is missing, of another type, or empty somewhere.
    """
    rows, expected = read_shards(folder, name), features(record)
    if missing := sorted(expected.keys() - set(rows.column_names)):
        raise UserError(f"{folder / name}: no column {', '.join(missing)}; run the stage that made it again")
    rows = rows.select_columns(list(expected))
    if rows.features != expected:
        rows = _cast(rows, expected, folder / name)
    for column in expected:
        if rows.data.column(column).null_count:
            raise UserError(f"{folder / name}: empty values in column {column}; run the stage that made it again")
    images = [column for column, kind in expected.items() if kind in (ImageFeature(), List(ImageFeature()))]
    for column in images:
        undecoded = ImageFeature(decode=False)
        rows = rows.cast_column(column, undecoded if expected[column] == ImageFeature() else List(undecoded))
    return rows.with_transform(partial(_decoded, f"{folder / name}", images)) if images else rows


def scores_of(text: str, where: str) -> dict[str, float]:
    """Read the scores of a pair, a JSON object of numbers. UserError names `where`."""
    try:
        return _SCORES.validate_json(text)
    except ValidationError as error:
        raise UserError(f"{where}: scores {text[:60]!r}: {first_problem(error)}; curate again") from error


def _cast(rows: Dataset, expected: Features, where: Path) -> Dataset:
    try:
        return rows.cast(expected)
    except (ArrowException, ValueError, TypeError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise UserError(f"{where}: columns of another type ({first_line}); run the stage that made it again") from error


def _decoded(where: str, images: Sequence[str], batch: Batch) -> dict[str, Sequence[Any]]:
    """Decode the pictures of a batch of rows."""
    return {
        name: [_picture(cell, f"{where}: a picture of column {name}") for cell in values] if name in images else values
        for name, values in batch.items()
    }


def _picture(cell: Any, where: str) -> Any:
    """Decode the bytes of a picture, or of a list of them. One that is stored by its path alone lies elsewhere."""
    if isinstance(cell, list):
        return [_picture(one, where) for one in cell]
    return read_picture((cell or {}).get("bytes") or b"", where)
