"""Pairs that lie in a folder as picture files: listed in a table, or in two folders under the same names.

A row that cannot be read is an `Unread`. A set is known by the content of all files that its rows name.
"""

import csv
import io
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from dsd.errors import UserError
from dsd.io.inputs import first_problem, read_jsonl, read_text, regular_file
from dsd.runs.identity import fingerprint
from dsd.train.data.sources import Caption, Picture, RawPair, Unread, digest, read_or_reason, reason_of

TABLES = ("metadata.jsonl", "metadata.csv", "metadata_all.jsonl")  # looked for in this order
CAPTIONS = "captions.jsonl"
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")


@dataclass(frozen=True)
class FilePair:
    """A pair of picture files."""

    source: Path
    target: Path
    caption: str  # of the target
    instruction: str


class FilePairs:
    """Pairs of picture files by position. UserError where there is none."""

    def __init__(self, rows: Sequence[FilePair | Unread], where: str | Path) -> None:
        if not rows:
            raise UserError(f"data.path={where}: no pairs in it")
        self.rows = rows
        contents = contents_of([file for row in rows if isinstance(row, FilePair) for file in (row.source, row.target)])
        self.fingerprint = digest(
            [
                [row.reason]
                if isinstance(row, Unread)
                else [contents[row.source], contents[row.target], row.caption, row.instruction]
                for row in rows
            ]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def block(self, positions: range) -> Iterator[RawPair | Unread]:
        for position in positions:
            row = self.rows[position]
            yield row if isinstance(row, Unread) else read_or_reason(partial(self._pair, row))

    @staticmethod
    def _pair(row: FilePair) -> RawPair:
        source, target = (Picture(regular_file(file).read_bytes()) for file in (row.source, row.target))
        return RawPair(source, target, row.caption, row.instruction or row.caption)


def contents_of(files: Sequence[Path]) -> dict[Path, str]:
    """Name the content of each file; "" for one that is missing, so that the set is another when it is put back."""

    def content(file: Path) -> str:
        try:
            return fingerprint(regular_file(file))
        except (UserError, OSError):
            return ""

    distinct = list(dict.fromkeys(files))
    with ThreadPoolExecutor(8) as pool:  # reading and hashing release the lock
        return dict(zip(distinct, pool.map(content, distinct), strict=True))


class TableRow(BaseModel, strict=True):
    """A row of a table of pairs."""

    source: str = Field(min_length=1)
    target: str = Field(min_length=1)
    caption: Caption | None
    instruction: Caption | None


def listed(tables: Sequence[Path], folder: Path, names: Mapping[str, str | None]) -> FilePairs:
    """Read pairs from tables. File names are relative to `folder`; `names` maps the parts of a pair to columns.

    UserError where a table cannot be read, or where no row has one of the columns.
    """
    rows = [row for table in tables for row in rows_of_table(table)]
    known = list(dict.fromkeys(key for _, row in rows if isinstance(row, dict) for key in row))
    for part in ("source", "target", "caption"):
        if known and names[part] not in known:
            columns = ", ".join(map(str, known))
            raise UserError(f"{tables[0]}: no column {names[part]!r}; its columns: {columns}; map one: data.{part}=")
    return FilePairs([file_pair(where, row, folder, names) for where, row in rows], folder)


def rows_of_table(table: Path) -> list[tuple[str, Any]]:
    """Read (place in the table, row) of JSON lines, a CSV table or the one object of a JSON file."""
    text = read_text(table)
    if table.suffix == ".csv":
        try:
            rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        except csv.Error as error:
            raise UserError(f"{table}: not a CSV table ({error})") from error
        return [(f"{table.name}, row {number}", row) for number, row in enumerate(rows, 1)]
    parts = [text] if table.suffix == ".json" else text.split("\n")
    return [(f"{table.name}:{number}", loaded_json(part)) for number, part in enumerate(parts, 1) if part.strip()]


def loaded_json(text: str) -> Any:
    """Parse JSON; an `Unread` where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return Unread(f"not JSON ({reason_of(error)})")


def file_pair(where: str, row: Any, folder: Path, names: Mapping[str, str | None]) -> FilePair | Unread:
    """Check a row of a table."""
    if not isinstance(row, dict):
        return Unread(f"{where}: {row.reason if isinstance(row, Unread) else 'no JSON object'}")
    try:
        found = TableRow.model_validate({part: row.get(name) for part, name in names.items()})
        files = inside(folder, found.source), inside(folder, found.target)
    except ValidationError as error:
        return Unread(f"{where}: {first_problem(error)}")
    except UserError as error:
        return Unread(f"{where}: {error}")
    return FilePair(*files, found.caption or "", found.instruction or "")


def inside(folder: Path, name: str) -> Path:
    """Find a file by its name in a table. UserError where the name leads out of the folder."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise UserError(f"{name}: leads out of the folder; file names count from the folder of the set")
    return folder / name


class CaptionRow(BaseModel, strict=True):
    """A line of captions.jsonl."""

    file_name: str
    caption: Caption
    instruction: Caption = ""


def side_by_side(folder: Path) -> FilePairs:
    """Read pairs of `source/` and `target/`, files of the same name, hidden ones and folders left out.

    Captions come from captions.jsonl (file_name, caption and, if wanted, instruction), or from target/<name>.txt.
    UserError where there are no captions at all.
    """
    sources, targets = (pictures_in(folder / side) for side in ("source", "target"))
    captions = captions_of(folder / CAPTIONS)
    if not captions and not any(file.with_suffix(".txt").is_file() for file in targets.values()):
        raise UserError(
            f"data.path={folder}: no captions; give {CAPTIONS} (lines of file_name and caption), or a text file beside "
            "each target: target/a.txt for target/a.png"
        )
    rows: list[FilePair | Unread] = []
    for name in sorted({**sources, **targets}):
        if name not in sources or name not in targets:
            there, absent = ("source", "target") if name in sources else ("target", "source")
            rows.append(Unread(f"{there}/{name}: no picture of that name in {absent}/"))
        else:
            rows.append(captioned(sources[name], targets[name], captions.get(name)))
    return FilePairs(rows, folder)


def captioned(source: Path, target: Path, told: CaptionRow | None) -> FilePair | Unread:
    """Find the caption of a pair."""
    if told is not None:
        return FilePair(source, target, told.caption, told.instruction)
    beside = target.with_suffix(".txt")
    if not beside.is_file():
        return Unread(f"target/{target.name}: no caption in {CAPTIONS}, and no target/{beside.name}")
    try:
        return FilePair(source, target, read_text(beside).strip(), "")
    except UserError as error:
        return Unread(str(error).replace(str(beside), f"target/{beside.name}"))  # the same wherever the folder lies


def pictures_in(folder: Path) -> dict[str, Path]:
    """List the pictures of a folder by name; names with accents are one, however the file system writes them."""
    files = [f for f in folder.iterdir() if not f.name.startswith(".") and f.suffix.lower() in ENDINGS and f.is_file()]
    return {unicodedata.normalize("NFC", file.name): file for file in files}


def captions_of(file: Path) -> dict[str, CaptionRow]:
    """Read captions by the picture's file name; none where there is no such file. UserError names a wrong line."""
    if not file.exists():
        return {}
    example = '{"file_name": "a.png", "caption": "a room, light from the left"}'
    rows = (row for _, row in read_jsonl(file, CaptionRow, example=example))
    return {unicodedata.normalize("NFC", row.file_name): row for row in rows}
