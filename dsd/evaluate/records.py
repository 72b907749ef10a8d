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
    stored = undecoded(expected)
    for column in image_columns(expected):
        rows = rows.cast_column(column, stored[column])
    return decoded_when_used(rows, f"{folder / name}")


def image_columns(columns: Features) -> list[str]:
    """List the columns that hold a picture or a list of pictures."""
    stored = ImageFeature(decode=False)
    return [
        name for name, kind in columns.items() if kind in (ImageFeature(), List(ImageFeature()), stored, List(stored))
    ]


def undecoded(columns: Features) -> Features:
    """The same columns with pictures as bytes and path."""
    stored, pictures = ImageFeature(decode=False), image_columns(columns)
    lists = [name for name in pictures if columns[name] != ImageFeature()]
    return Features({**columns, **dict.fromkeys(pictures, stored), **dict.fromkeys(lists, List(stored))})


def decoded_when_used(rows: Dataset, where: str, files: bool = False) -> Dataset:
    """Decode pictures when their turn comes; with `files` also those that are stored by their path alone."""
    images = image_columns(rows.features)
    return rows.with_transform(partial(_decoded, where, images, files)) if images else rows


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


def _decoded(where: str, images: Sequence[str], files: bool, batch: Batch) -> dict[str, Sequence[Any]]:
    """Decode the pictures of a batch of rows."""
    return {
        name: [_picture(cell, f"{where}: a picture of column {name}", files) for cell in values]
        if name in images
        else values
        for name, values in batch.items()
    }


def _picture(cell: Any, where: str, files: bool) -> Any:
    """Decode the bytes of a picture, or of a list of them. One of a stage that has a path alone lies elsewhere."""
    if isinstance(cell, list):
        return [_picture(one, where, files) for one in cell]
    if files and cell["bytes"] is None:
        return read_picture(Path(cell["path"] or ""))
    return read_picture((cell or {}).get("bytes") or b"", where)
