"""The table of a source: for each pair the names of its pictures by content, both captions, and the target's size.

It is made once, in blocks that processes divide. Afterwards a picture is opened only to be encoded.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsd.errors import UserError
from dsd.io.files import atomic
from dsd.runs.progress import progress
from dsd.train.data.sources import PairSource, RawPair

BLOCK = 256  # pairs: what a kill costs at most
Size = tuple[int, int]  # height and width of a panel in pixels


@dataclass(frozen=True)
class Table:
    """N pairs that can be read."""

    positions: np.ndarray  # (N,) in the source
    references: list[str]  # keys of the pictures
    targets: list[str]
    captions: list[tuple[str, str]]  # description, instruction
    bucket_of: np.ndarray  # (N,) which of the sizes
    negatives: list[str]  # keys of worse targets, "" where there is none
    faults: list[tuple[int, str]]  # position and reason of the pairs that cannot be read

    def __len__(self) -> int:
        return len(self.positions)

    def canvas_key(self, row: int) -> str:
        """Name the canvas of reference and target."""
        return f"{self.references[row]}{self.targets[row]}"

    def negative_key(self, row: int) -> str:
        """Name the canvas of reference and worse target."""
        return f"{self.references[row]}{self.negatives[row]}"


def blocks(source: PairSource) -> list[range]:
    """Divide the positions of a source."""
    return [range(start, min(start + BLOCK, len(source))) for start in range(0, len(source), BLOCK)]


def make_table(source: PairSource, cache_dir: Path, part: Sequence[range], shown: bool) -> None:
    """Look once at every pair of these blocks: names, captions, size, and whether its pictures open."""
    folder = folder_of(source, cache_dir)
    todo = [block for block in part if not file_of(folder, block).exists()]
    with progress(sum(map(len, todo)), "pairs", "pair", shown=shown and bool(todo)) as bar:
        for block in todo:
            with ThreadPoolExecutor(4) as pool:  # decoding releases the lock
                rows = list(pool.map(look, source.block(block)))
            with atomic(file_of(folder, block)) as temporary:
                pq.write_table(pa.Table.from_pylist(rows), temporary)
            bar.update(len(block))


def read_table(source: PairSource, cache_dir: Path, sizes: Sequence[Size], part: Sequence[range]) -> Table:
    """Read these blocks. Each pair is drawn in the size whose proportions are nearest to its target's."""
    folder = folder_of(source, cache_dir)
    rows = [row for block in part for row in pq.read_table(file_of(folder, block)).to_pylist()]
    positions = [position for block in part for position in block]
    sound = [number for number, row in enumerate(rows) if not row["fault"]]
    chosen = [rows[number] for number in sound]
    return Table(
        positions=np.array([positions[number] for number in sound], int),
        references=[row["reference"] for row in chosen],
        targets=[row["target"] for row in chosen],
        captions=[(row["description"], row["instruction"]) for row in chosen],
        bucket_of=nearest(sizes, [(row["height"], row["width"]) for row in chosen]),
        negatives=[row.get("negative", row.get("rejected", "")) for row in chosen],  # "rejected" in tables of 0.1
        faults=[(position, row["fault"]) for position, row in zip(positions, rows, strict=True) if row["fault"]],
    )


def nearest(sizes: Sequence[Size], pictures: Sequence[Size]) -> np.ndarray:
    """Find, for each picture, the size with the nearest proportions: (N,) indices into `sizes`."""
    proportions = np.log([height / width for height, width in sizes])
    shapes = np.log([height / width for height, width in pictures]) if pictures else np.zeros(0)
    places: np.ndarray = np.abs(shapes[:, None] - proportions[None]).argmin(axis=1)
    return places


def refuse_useless(table: Table, where: str) -> None:
    """Raise UserError where not one pair can be read."""
    if not len(table):
        position, reason = table.faults[0]
        raise UserError(f"{where}: none of its {len(table.faults)} pairs can be read; pair {position}: {reason}")


def look(pair: RawPair) -> dict[str, str | int]:
    """Make a row of the table."""
    row: dict[str, str | int] = {
        "reference": pair.reference.key, "target": pair.target.key, "description": pair.description or "",
        "instruction": pair.instruction or "", "negative": pair.negative.key if pair.negative else "",
        "height": 1, "width": 1, "fault": "",
    }  # fmt: skip
    try:
        pair.reference.open()
        if pair.negative:
            pair.negative.open()
        target = pair.target.open()
        row |= {"height": target.height, "width": target.width}
        if not (pair.description or "").strip():
            row["fault"] = "no caption"
    except Exception as error:  # Pillow has no common class for what is wrong with a file
        row["fault"] = f"picture cannot be read: {error}"
    return row


def folder_of(source: PairSource, cache_dir: Path) -> Path:
    """Name the folder of a source's table by its fingerprint and its number of pairs."""
    told = json.dumps([source.fingerprint, len(source)])
    return cache_dir / f"table-{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def file_of(folder: Path, block: range) -> Path:
    """Name the file of a block."""
    return folder / f"pairs-{block.start:09d}-{block.stop:09d}.parquet"


def in_blocks(source: PairSource, positions: Sequence[int]) -> Iterator[tuple[int, RawPair]]:
    """Read the pairs at these ascending positions, neighbours together."""
    runs = np.split(np.asarray(positions, int), np.flatnonzero(np.diff(positions) != 1) + 1) if len(positions) else []
    for run in runs:
        yield from zip(run.tolist(), source.block(range(int(run[0]), int(run[-1]) + 1)), strict=True)
