"""Write and read records in Parquet shards, the unit of resuming and of dividing work.

A stage makes its shards through `dsd.runs.run.Run.make_shards`. A shard is a range of positions, so which process made
it, and after how many interruptions, changes nothing in it. It gets its name only when it is whole. Images are embedded
as PNG, and `output_dir`/grids/ holds nothing but the shards grids-00000-of-00008.parquet ..., so that
`load_dataset("parquet", data_dir="output_dir/grids")` reads them. A record that cannot be made does not stop a stage:
yield a `Failure` in its place. Beside each finished shard, `output_dir`/grids-00000-of-00008.stats.json holds its rows,
failures by reason, bytes and seconds.
"""

import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features
from datasets.exceptions import DatasetGenerationError
from PIL import Image

from dsd.errors import UserError
from dsd.io.files import atomic, remove_all_stale, write_json
from dsd.io.inputs import read_text
from dsd.io.once import Once
from dsd.io.pictures import png

ROWS_PER_GROUP = 64  # held in memory while writing, and what a reader decodes at once
_png = Once(png)  # a panel is in many pairs
_LEFTOVER = re.compile(r"\.tmp-.{8}-.+-(\d{5,})-of-(\d{5,})\.(parquet|stats\.json|failures\.jsonl)")


@dataclass(frozen=True)
class Shard:
    """Positions start..stop-1 of the items, and the file that their records go to."""

    index: int
    start: int
    stop: int
    path: Path


@dataclass(frozen=True)
class Failure:
    """A record that could not be made: what identifies it (JSON values), and the reason."""

    record: Mapping[str, Any]
    reason: str


def pending_shards(
    output_dir: str | Path, name: str, num_items: int, rows_per_shard: int, shard: int = 0, num_shards: int = 1
) -> list[Shard]:
    """List the shards of worker `shard` of `num_shards` that are not on disk yet. No items make one empty shard."""
    folder, total = Path(output_dir) / name, max(1, -(-num_items // rows_per_shard))
    foreign = [f.name for f, _, n in _shard_files(folder, name) if n != total]
    if foreign:
        raise UserError(
            f"{folder / foreign[0]} divides the work otherwise than now (into {total}); "
            "use the number of items and rows per shard of the first run, or another output_dir"
        )
    every = (
        Shard(i, i * rows_per_shard, min((i + 1) * rows_per_shard, num_items), folder / _file_name(name, i, total))
        for i in range(shard, total, num_shards)
    )
    return [s for s in every if not s.path.exists()]


def remove_leftovers(folder: Path, shards: Sequence[Shard]) -> None:
    """Remove what killed writers of these shards, and of records beside them, left half-written in an output folder.

    Only for their sole writer. Each folder is listed once, however many shards there are.
    """
    mine = {shard.index for shard in shards}
    for leftover in [file for pattern in ("", "*/") for file in folder.glob(f"{pattern}.tmp-????????-*")]:
        found = _LEFTOVER.fullmatch(leftover.name)
        if found and int(found[1]) in mine:
            leftover.unlink(missing_ok=True)


def write_shard(shard: Shard, rows: Iterable[Any], features: Features, seconds: float = 0) -> int:
    """Write rows (mappings or dataclass instances) as they come; return how many were written.

    A `Failure` among them goes to `output_dir`/<shard>.failures.jsonl, written before the shard gets its name.
    `seconds` is the time that making the rows has taken so far.
    """
    failures: list[Failure] = []
    began = time.monotonic()
    with atomic(shard.path) as temporary:
        with pq.ParquetWriter(temporary, features.arrow_schema, write_page_checksum=True) as writer:
            kept, count = _keep(rows, failures), 0
            while group := list(islice(kept, ROWS_PER_GROUP)):
                count += _write_group(writer, group, features)
        seconds += time.monotonic() - began
        _write_failures(shard.path, [{**f.record, "reason": f.reason} for f in failures])
        _write_stats(shard.path, temporary, count, Counter(f.reason for f in failures), seconds)
    return count


def write_shard_in_parts(
    shard: Shard, parts_from: Callable[[int], Iterable[tuple[int, list[Any]]]], features: Features
) -> None:
    """Write a shard of expensive rows; finished parts survive a kill.

    `parts_from(position)` yields the rows from `position` on in parts of any length, each with the position after its
    last row. Parts are kept in `output_dir`/parts/ until the shard is whole; a later call goes on after the last whole
    part. A thread encodes and writes a part while the next one is made.
    """
    folder, position = _parts_folder(shard), first_missing(shard)
    remove_all_stale(folder, below=True)
    parts = sorted((folder / "rows").glob("part-*.parquet"))
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        writing: Future[int] | None = None
        for stop, rows in parts_from(position) if position < shard.stop else ():
            if writing:
                writing.result()  # at most one part waits; an error in the thread is raised here
            part = Shard(len(parts), position, stop, folder / "rows" / f"part-{position:09d}-{stop:09d}.parquet")
            parts.append(part.path)
            position, seconds, began = stop, time.monotonic() - began, time.monotonic()
            writing = pool.submit(write_shard, part, rows, features, seconds)
        if writing:
            writing.result()
    failures, stats = read_failures(folder, "part"), read_stats(folder, "part")
    with atomic(shard.path) as temporary:
        with pq.ParquetWriter(temporary, features.arrow_schema, write_page_checksum=True) as writer:
            for path in parts:
                if pq.read_metadata(path).num_rows:  # a first row group without rows would be unreadable
                    writer.write_table(pq.read_table(path))
        _write_failures(shard.path, failures)
        reasons = Counter(failure["reason"] for failure in failures)
        _write_stats(shard.path, temporary, stats["rows"], reasons, stats["seconds"])
    shutil.rmtree(folder)


def first_missing(shard: Shard) -> int:
    """Find the position after the last whole part of a shard; its start where there is none."""
    parts = sorted((_parts_folder(shard) / "rows").glob("part-*.parquet"))
    return int(parts[-1].stem.split("-")[2]) if parts else shard.start


def _parts_folder(shard: Shard) -> Path:
    return shard.path.parents[1] / "parts" / shard.path.stem


def read_shards(input_dir: str | Path, name: str, columns: list[str] | None = None) -> Dataset:
    """Read all rows, memory-mapped and in order of position. UserError where a shard is missing or damaged."""
    folder = Path(input_dir) / name
    found = _shard_files(folder, name)
    if not found:
        raise UserError(f"{folder}: no shards {_file_name(name, 0, 1)} or the like here; run the stage that makes them")
    total = found[0][2]
    missing = sorted(set(range(total)) - {index for _, index, n in found if n == total})
    if missing or len(found) > total:
        problem = (
            f"{_file_name(name, missing[0], total)} is missing" if missing else "shards of two divisions are mixed"
        )
        raise UserError(f"{folder}: {problem}; run the stage that makes it again")
    paths = [path for path, _, _ in found]
    try:
        filled = [path for path in paths if pq.read_metadata(path).num_rows]
        if not filled:  # `from_parquet` refuses a split without rows, and a first file without rows
            schema = pq.read_schema(paths[0])
            empty = Dataset(schema.empty_table())
            return empty if columns is None else empty.select_columns(columns)
        return Dataset.from_parquet([str(path) for path in filled], columns=columns, batch_size=ROWS_PER_GROUP)
    except (pa.ArrowException, OSError, DatasetGenerationError) as error:
        raise UserError(_damaged(paths) or f"{folder}: shards {name!r} cannot be read: {error}") from error


def read_shard(path: Path) -> Iterator[dict[str, Any]]:
    """Read the rows of one shard that holds no images. UserError where it is damaged."""
    try:
        yield from pq.read_table(path, page_checksum_verification=True).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(_damaged([path]) or f"{path} cannot be read: {error}") from error


def read_failures(input_dir: str | Path, name: str) -> list[dict[str, Any]]:
    """Read the failures of all shards, in order of position: each record's values and "reason"."""
    found: list[dict[str, Any]] = []
    for file in sorted(Path(input_dir).glob(f"{name}-*.failures.jsonl")):
        for number, line in enumerate(read_text(file).split("\n"), 1):
            row = _json_object(line, f"{file}:{number}") if line.strip() else None
            if row is not None:
                found.append({"reason": "unknown", **row})
    return found


def read_stats(input_dir: str | Path, name: str) -> dict[str, Any]:
    """Sum rows, bytes and seconds over all shards; the seconds of workers that ran side by side add up."""
    files = sorted(Path(input_dir).glob(f"{name}-*.stats.json"))
    every = [_json_object(read_text(file), str(file)) for file in files]
    keys = ("rows", "bytes", "seconds")
    numbers = [[stats.get(key) for key in keys] for stats in every]
    if any(not isinstance(number, int | float) for row in numbers for number in row):
        raise UserError(f"{input_dir}: the stats of {name!r} are damaged; delete the folder and run the stage again")
    return {key: sum(stats[key] for stats in every) for key in keys}


def _json_object(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error}); delete the folder and run the stage again") from error
    if not isinstance(found, dict):
        raise UserError(f"{where}: not a JSON object; delete the folder and run the stage again")
    return found


def _file_name(name: str, index: int, total: int) -> str:
    return f"{name}-{index:05d}-of-{total:05d}.parquet"


def _shard_files(folder: Path, name: str) -> list[tuple[Path, int, int]]:
    """List (path, index, total) of every shard of that name, in order."""
    pattern = re.compile(re.escape(name) + r"-(\d{5,})-of-(\d{5,})\.parquet")
    matches = ((f, pattern.fullmatch(f.name)) for f in (folder.iterdir() if folder.is_dir() else ()))
    return sorted(((f, int(m[1]), int(m[2])) for f, m in matches if m), key=lambda item: item[1:])


def _keep(rows: Iterable[Any], failures: list[Failure]) -> Iterator[Mapping[str, Any]]:
    for row in rows:
        if isinstance(row, Failure):
            failures.append(row)
        else:
            yield row if isinstance(row, Mapping) else vars(row)


def _write_group(writer: pq.ParquetWriter, group: list[Mapping[str, Any]], features: Features) -> int:
    encoded = [features.encode_example(_embed(row)) for row in group]
    writer.write_table(pa.Table.from_pylist(encoded, schema=features.arrow_schema))
    return len(group)


def _embed(row: Mapping[str, Any]) -> dict[str, Any]:
    """Turn images into bytes: `datasets` would store only the path of an image that was opened from a file."""

    def bare(value: Any) -> Any:
        if isinstance(value, Image.Image):
            return {"bytes": _png(value), "path": None}
        return [bare(item) for item in value] if isinstance(value, list) else value

    return {key: bare(value) for key, value in row.items()}


def _write_failures(path: Path, failures: list[dict[str, Any]]) -> None:
    beside = path.parents[1] / f"{path.stem}.failures.jsonl"
    if not failures:
        return beside.unlink(missing_ok=True)
    with atomic(beside) as temporary:
        rows = (json.dumps(failure, ensure_ascii=False) for failure in failures)
        temporary.write_text("\n".join(rows) + "\n", encoding="utf-8")


def _write_stats(path: Path, written: Path, rows: int, failed: Counter[str], seconds: float) -> None:
    stats = {"rows": rows, "failed": dict(failed.most_common()), "bytes": written.stat().st_size}
    write_json(path.parents[1] / f"{path.stem}.stats.json", {**stats, "seconds": round(seconds, 2)})


def _damaged(paths: list[Path]) -> str:
    """Name the first file that cannot be read, "" where all can."""
    for path in paths:
        try:
            pq.ParquetFile(path, page_checksum_verification=True).read()
        except (pa.ArrowException, OSError) as error:
            first_line = str(error).splitlines()[0]
            return f"{path} is damaged or half-written ({first_line}); delete it and run the stage that made it again"
    return ""
