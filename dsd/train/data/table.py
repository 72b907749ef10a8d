"""The table of a source: for each pair the names of its pictures by content, both captions, and the target's size.

It is made once, in blocks that processes divide. Afterwards a picture is opened only to be encoded.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field, ValidationError

from dsd.errors import UserError
from dsd.io.files import atomic
from dsd.io.inputs import first_problem, regular_file
from dsd.io.pictures import to_rgb
from dsd.models.settings import MOST_REFERENCES
from dsd.runs.progress import progress
from dsd.train.data.sources import PairSource, RawPair, Unread, reason_of

log = logging.getLogger(__name__)
BLOCK = 256  # pairs: what a kill costs at most
Size = tuple[int, int]  # height and width of a panel in pixels


class TableRow(BaseModel):
    """A row as it is stored."""

    reference: str  # of several, their keys joined by "+"
    number: Annotated[int, Field(ge=1, le=MOST_REFERENCES)] = 1  # of references
    target: str
    description: str
    instruction: str
    negative: str = ""
    height: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]
    fault: str


@dataclass(frozen=True)
class Table:
    """N pairs that can be read."""

    positions: np.ndarray  # (N,) in the source
    references: list[str]  # keys of the pictures
    targets: list[str]
    captions: list[tuple[str, str]]  # description, instruction
    bucket_of: np.ndarray  # (N,) which size and number of references; those of a batch are alike
    num_sizes: int
    negatives: list[str]  # keys of worse targets, "" where there is none
    faults: list[tuple[int, str]]  # position and reason of the pairs that cannot be read

    def __len__(self) -> int:
        return len(self.positions)

    def size_of(self, row: int) -> int:
        """Tell which of the sizes a pair has."""
        return int(self.bucket_of[row]) % self.num_sizes

    def number_of(self, row: int) -> int:
        """Count the references of a pair."""
        return int(self.bucket_of[row]) // self.num_sizes + 1

    @property
    def most_references(self) -> int:
        """The largest number of references of a pair."""
        return int(self.bucket_of.max(initial=0)) // self.num_sizes + 1

    def unchanged(self, row: int, pair: RawPair | Unread) -> RawPair:
        """Return the pair of a row. UserError where its source has changed since the table was made."""
        reason = pair.reason if isinstance(pair, Unread) else "another picture than before"
        if isinstance(pair, RawPair):
            keys = pair.reference_key, pair.target.key, pair.negative.key if pair.negative else ""
            if keys == (self.references[row], self.targets[row], self.negatives[row]):
                return pair
        raise UserError(
            f"pair {self.positions[row]}: {reason}; the pairs were edited after they were first read: "
            "restore them, or choose another cache_dir= and output_dir="
        )


def blocks(source: PairSource) -> list[range]:
    """Divide the positions of a source."""
    return [range(start, min(start + BLOCK, len(source))) for start in range(0, len(source), BLOCK)]


def make_table(source: PairSource, cache_dir: Path, part: Sequence[range], shown: bool) -> None:
    """Look once at every pair of these blocks: names, captions, size, and whether its pictures open."""
    folder = folder_of(source, cache_dir)
    todo = [block for block in part if not is_whole(file_of(folder, block), len(block))]
    with progress(sum(map(len, todo)), "pairs", "pair", shown=shown and bool(todo)) as bar:
        for block in todo:
            with ThreadPoolExecutor(4) as pool:  # decoding releases the lock
                rows = list(pool.map(look, source.block(block)))
            if len(rows) != len(block):
                raise UserError(f"the pairs end after {block.start + len(rows)} of {len(source)}; give data.num=")
            with atomic(file_of(folder, block)) as temporary:
                pq.write_table(pa.Table.from_pylist(rows), temporary)
            bar.update(len(block))


def read_table(source: PairSource, cache_dir: Path, sizes: Sequence[Size], part: Sequence[range]) -> Table:
    """Read these blocks. Each pair is drawn in the size whose proportions are nearest to its target's."""
    folder = folder_of(source, cache_dir)
    rows = [row for block in part for row in read_block(file_of(folder, block), len(block))]
    positions = [position for block in part for position in block]
    sound = [number for number, row in enumerate(rows) if not row.fault]
    chosen = [rows[number] for number in sound]
    return Table(
        positions=np.array([positions[number] for number in sound], int),
        references=[row.reference for row in chosen],
        targets=[row.target for row in chosen],
        captions=[(row.description, row.instruction) for row in chosen],
        bucket_of=nearest(sizes, [(row.height, row.width) for row in chosen])
        + len(sizes) * np.array([row.number - 1 for row in chosen], int),
        num_sizes=len(sizes),
        negatives=[row.negative for row in chosen],
        faults=[(position, row.fault) for position, row in zip(positions, rows, strict=True) if row.fault],
    )


def read_block(file: Path, num: int) -> list[TableRow]:
    """Read the rows of a block. UserError where the file is damaged."""
    remedy = "delete it and run the same command again"
    try:
        rows = [TableRow.model_validate(row) for row in pq.read_table(regular_file(file)).to_pylist()]
    except (ValidationError, pa.ArrowException, OSError, ValueError) as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else reason_of(error)
        raise UserError(f"{file}: damaged ({reason}); {remedy}") from error
    if len(rows) != num:
        raise UserError(f"{file}: damaged ({len(rows)} rows instead of {num}); {remedy}")
    return rows


def is_whole(file: Path, num: int) -> bool:
    """Tell whether a block is there. One that is damaged is made again, and that is said."""
    if not file.exists():
        return False
    try:
        return bool(read_block(file, num))
    except UserError as error:
        log.warning("train: %s", str(error).replace("delete it and run the same command again", "it is made again"))
        return False


def nearest(sizes: Sequence[Size], pictures: Sequence[Size]) -> np.ndarray:
    """Find, for each picture, the size with the nearest proportions: (N,) indices into `sizes`."""
    proportions = np.log([height / width for height, width in sizes])
    shapes = np.log([height / width for height, width in pictures]) if pictures else np.zeros(0)
    places: np.ndarray = np.abs(shapes[:, None] - proportions[None]).argmin(axis=1)
    return places


def left_out(faults: Sequence[tuple[int, str]], shown: int = 3) -> str:
    """Say which pairs are left out and why."""
    named = "; ".join(f"number {position}: {reason}" for position, reason in faults[:shown])
    more = f"; and {len(faults) - shown} more" if len(faults) > shown else ""
    return f"{len(faults)} pairs are left out, such as {named}{more}"


def refuse_useless(table: Table, where: str) -> None:
    """Raise UserError where not one pair can be read."""
    if not len(table):
        position, reason = table.faults[0]
        raise UserError(f"{where}: none of its {len(table.faults)} pairs can be read; pair {position}: {reason}")


def look(pair: RawPair | Unread) -> dict[str, Any]:
    """Make a row of the table."""
    if isinstance(pair, Unread):
        nothing = dict.fromkeys(("reference", "target", "description", "instruction", "negative"), "")
        return {**nothing, "number": 1, "height": 1, "width": 1, "fault": pair.reason}
    row: dict[str, Any] = {
        "reference": pair.reference_key, "number": len(pair.references), "target": pair.target.key,
        "description": pair.description or "",
        "instruction": pair.instruction or "", "negative": pair.negative.key if pair.negative else "",
        "height": 1, "width": 1, "fault": "",
    }  # fmt: skip
    try:
        target = pair.target.open()
        for picture in (
            *(p.open() for p in pair.references),
            target,
            *([pair.negative.open()] if pair.negative else []),
        ):
            to_rgb(picture)  # some open and cannot be converted
        row |= {"height": target.height, "width": target.width}
        if not (pair.description or "").strip():
            row["fault"] = "no caption"
    except UserError as error:
        row["fault"] = str(error)
    except Exception as error:  # Pillow has no common class for what is wrong with a file
        row["fault"] = f"picture cannot be read: {reason_of(error)}"
    return row


def folder_of(source: PairSource, cache_dir: Path) -> Path:
    """Name the folder of a source's table by its fingerprint and its number of pairs."""
    told = json.dumps([source.fingerprint, len(source)])
    return cache_dir / f"table-{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def file_of(folder: Path, block: range) -> Path:
    """Name the file of a block."""
    return folder / f"pairs-{block.start:09d}-{block.stop:09d}.parquet"


def in_blocks(source: PairSource, positions: Sequence[int]) -> Iterator[tuple[int, RawPair | Unread]]:
    """Read the pairs at these ascending positions, neighbours together."""
    runs = np.split(np.asarray(positions, int), np.flatnonzero(np.diff(positions) != 1) + 1) if len(positions) else []
    for run in runs:
        yield from zip(run.tolist(), source.block(range(int(run[0]), int(run[-1]) + 1)), strict=True)
