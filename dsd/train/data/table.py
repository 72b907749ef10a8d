"""The pairs of a source by name: what every picture is called by its content, both captions, and the size.

Made once, in blocks that ranks and shards divide; afterwards no picture is opened but to be encoded.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from dsd.errors import UserError
from dsd.files import atomic
from dsd.train.data.sources import PairSource, RawPair

log = logging.getLogger(__name__)
BLOCK = 256  # pairs: what a kill costs at most
Size = tuple[int, int]  # height and width of a panel in pixels


@dataclass(frozen=True)
class Table:
    """N pairs that can be read."""

    positions: np.ndarray  # (N,) in the source
    references: list[str]  # keys of pictures
    targets: list[str]
    captions: list[tuple[str, str]]  # description, instruction
    bucket_of: np.ndarray  # (N,) which of the sizes
    rejected: list[str]  # keys of worse targets, "" where there is none
    faults: list[tuple[int, str]]  # position and reason of those that cannot be read

    def __len__(self) -> int:
        return len(self.positions)


def blocks(source: PairSource) -> list[range]:
    return [range(start, min(start + BLOCK, len(source))) for start in range(0, len(source), BLOCK)]


def folder_of(source: PairSource, cache_dir: Path) -> Path:
    """The name holds what the source is and how many it has."""
    told = json.dumps([source.fingerprint, len(source)])
    return cache_dir / f"table-{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def make_table(source: PairSource, cache_dir: Path, worker: int, workers: int, show: bool) -> None:
    """Look at every pair of this worker's blocks once: names, captions, sizes, and whether its pictures open."""
    folder = folder_of(source, cache_dir)
    todo = [block for block in blocks(source)[worker::workers] if not file_of(folder, block).exists()]
    num = sum(map(len, todo))
    with tqdm(total=num, desc="pairs", unit="pair", mininterval=1, disable=not (show and todo)) as bar:
        for block in todo:
            with ThreadPoolExecutor(4) as pool:  # decoding releases the lock
                rows = list(pool.map(look, source.block(block)))
            with atomic(file_of(folder, block)) as temporary:
                pq.write_table(pa.Table.from_pylist(rows), temporary)
            bar.update(len(block))


def read_table(
    source: PairSource, cache_dir: Path, sizes: Sequence[Size], only: Sequence[range] | None = None
) -> Table:
    """All blocks, or these. Each pair is drawn in the size whose proportions are nearest to its target's."""
    folder = folder_of(source, cache_dir)
    rows: list[dict] = []
    positions: list[int] = []
    for block in blocks(source) if only is None else only:
        rows += pq.read_table(file_of(folder, block)).to_pylist()
        positions += block
    proportions = np.log([height / width for height, width in sizes])
    sound = [number for number, row in enumerate(rows) if not row["fault"]]
    chosen = [rows[number] for number in sound]
    shapes = np.log([row["height"] / row["width"] for row in chosen]) if chosen else np.zeros(0)
    return Table(
        positions=np.array([positions[number] for number in sound], int),
        references=[row["reference"] for row in chosen],
        targets=[row["target"] for row in chosen],
        captions=[(row["description"], row["instruction"]) for row in chosen],
        bucket_of=np.abs(shapes[:, None] - proportions[None]).argmin(axis=1),
        rejected=[row["rejected"] for row in chosen],
        faults=[(position, row["fault"]) for position, row in zip(positions, rows, strict=True) if row["fault"]],
    )


def any_missing(source: PairSource, cache_dir: Path) -> bool:
    """Whether another shard has not looked at its blocks yet."""
    folder = folder_of(source, cache_dir)
    return any(not file_of(folder, block).exists() for block in blocks(source))


def refuse_useless(table: Table, where: str) -> None:
    """UserError where not one pair can be read."""
    if not len(table):
        position, reason = table.faults[0]
        raise UserError(f"{where}: none of its {len(table.faults)} pairs can be read; pair {position}: {reason}")


def look(pair: RawPair) -> dict[str, str | int]:
    """A row of the table."""
    row: dict[str, str | int] = {
        "reference": pair.reference.key, "target": pair.target.key, "description": pair.description or "",
        "instruction": pair.instruction or "", "rejected": pair.rejected.key if pair.rejected else "",
        "height": 1, "width": 1, "fault": "",
    }  # fmt: skip
    try:
        pair.reference.open()
        if pair.rejected:
            pair.rejected.open()
        target = pair.target.open()
        row |= {"height": target.height, "width": target.width}
        if not (pair.description or "").strip():
            row["fault"] = "no caption"
    except Exception as error:  # Pillow has no common class for what is wrong with a file
        row["fault"] = f"picture cannot be read: {error}"
    return row


def file_of(folder: Path, block: range) -> Path:
    return folder / f"pairs-{block.start:09d}-{block.stop:09d}.parquet"


def in_blocks(source: PairSource, positions: Sequence[int]) -> Iterator[tuple[int, RawPair]]:
    """The pairs at these ascending positions, read block by block where they stand together."""
    runs = np.split(np.asarray(positions, int), np.flatnonzero(np.diff(positions) != 1) + 1) if len(positions) else []
    for run in runs:
        yield from zip(run.tolist(), source.block(range(int(run[0]), int(run[-1]) + 1)), strict=True)
