"""Work of n items for `scale.py`, a subject each: what is prepared beforehand, and what is measured.

Pictures are 8 pixels wide and tensors 8 numbers long: what grows here is the bookkeeping, not the drawing.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from dsd.curation.grids import read_grids
from dsd.curation.pairs import PairWriter
from dsd.curation.report import sheet_of, steps, write_report
from dsd.curation.seams import exact
from dsd.curation.selection import Selection
from dsd.data_gen.prompts_ahead import PromptsAhead
from dsd.io.records import Grid, Pair, Verdict, features
from dsd.pipeline.jobs import jsonl_jobs
from dsd.runs.manifest import write_manifest
from dsd.runs.shards import Shard, pending_shards, read_failures, read_shards, read_stats, write_shard
from dsd.toybox.prompts import ToyboxPrompts
from dsd.train.checkpoint import TrainState, checkpoints, save_checkpoint
from dsd.train.data.cache import A_SEGMENT, caption_key, chunks
from dsd.train.data.sampling import epoch_order
from dsd.train.data.sources import curated
from dsd.train.data.store import Store
from dsd.train.data.table import blocks, make_table, read_table
from dsd.train.journal import append, forget_after

Work = Callable[[], dict[str, float]]  # what is measured; it returns what else it found, such as bytes
A_SHARD = 256  # items
PAIRS = 12  # of a 2 x 2 grid, both directions


@dataclass(frozen=True)
class Subject:
    """A kind of work at three sizes."""

    name: str
    sizes: tuple[int, int, int]
    make: Callable[[Path, int], Work]
    memory: str  # why its memory grows, "" where it is flat
    time: str = ""  # why its time grows faster than the work, "" where it does not


def shards_of(folder: Path, name: str, num: int, size: int = A_SHARD) -> list[Shard]:
    """List all shards of n items."""
    return pending_shards(folder, name, num, size)


def prompts(folder: Path, num: int) -> Work:
    """Ask for n prompts, a shard at a time."""
    prompt_at = ToyboxPrompts("2x2", "same", 0)

    def work() -> dict[str, float]:
        shards = [range(start, min(start + A_SHARD, num)) for start in range(0, num, A_SHARD)]
        ahead = PromptsAhead(prompt_at, shards)
        for shard in shards:
            ahead(shard)
        return {}

    return work


def make_files(folder: Path, name: str, num: int) -> None:
    """Write the empty files of n shards and their stats: what planning and resuming look at."""
    told = json.dumps({"rows": A_SHARD, "failed": {}, "bytes": 0, "seconds": 1.0})
    (folder / name).mkdir(parents=True)
    for shard in shards_of(folder, name, num * A_SHARD):
        shard.path.touch()
        (folder / f"{shard.path.stem}.stats.json").write_text(told)


def grids(folder: Path, num: int) -> Work:
    """Plan n shards of grids, all but one there already; sum their stats; write the manifest."""
    make_files(folder, "grids", num)
    last = max((folder / "grids").iterdir())
    last.unlink()

    def work() -> dict[str, float]:
        assert len(shards_of(folder, "grids", num * A_SHARD)) == 1
        read_stats(folder, "grids")
        read_failures(folder, "grids")
        return {"bytes": write_manifest(folder, "data_gen", {"grids": num}).stat().st_size}

    return work


def array(folder: Path, num: int) -> Work:
    """Let each of n tasks plan its part of n shards, and look whether the others are done."""
    make_files(folder, "grids", num)

    def work() -> dict[str, float]:
        for task in range(num):
            pending_shards(folder, "grids", num * A_SHARD, A_SHARD, task, num)
            pending_shards(folder, "grids", num * A_SHARD, A_SHARD)
        return {}

    return work


def panels(index: int) -> Image.Image:
    """Make a sheet of 2 x 2 panels of 8 pixels, each of another colour."""
    colours = [[index % 256, index // 256 % 256, panel * 60] for panel in range(4)]
    return Image.fromarray(np.array(colours, np.uint8).reshape(2, 2, 3).repeat(8, 0).repeat(8, 1))


def verdicts_of(index: int) -> Iterator[Verdict]:
    """Judge the six pairs of a grid: four kept, two not."""
    for first in range(4):
        for second in range(first + 1, 4):
            same = first + second != 3
            yield Verdict(index, first, second, same, "alike", "critter", "a", "b", f"caption {index} {first}",
                          f"caption {index} {second}", "turn it", "turn it", '{"confidence": 0.9}', "")  # fmt: skip


def make_verdicts(folder: Path, num_pairs: int) -> int:
    """Write the grids and verdicts of n pairs; return how many grids they are."""
    num = -(-num_pairs // PAIRS)
    for shard in shards_of(folder, "grids", num):
        rows = (
            Grid(i, panels(i), "a prompt", "2x2", ["a"] * 4, "critter", "same", i, 16, 16, "")
            for i in range(shard.start, shard.stop)
        )
        write_shard(shard, rows, features(Grid))
    for shard in shards_of(folder, "verdicts", num):
        found = (verdict for i in range(shard.start, shard.stop) for verdict in verdicts_of(i))
        write_shard(shard, found, features(Verdict))
    return num


def pairs(folder: Path, num: int) -> Work:
    """Select n pairs of stored verdicts and write them."""
    num_grids = make_verdicts(folder, num)
    writer = PairWriter(read_grids(folder), folder, exact, Selection(), 1, "")

    def work() -> dict[str, float]:
        for shard in shards_of(folder, "pairs", num_grids):
            writer.write(shard)
        return {"bytes": float(sum(file.stat().st_size for file in (folder / "pairs").iterdir()))}

    return work


def pair_rows(num: int) -> Iterator[dict[str, Any]]:
    """Make n pairs, all of one picture."""
    picture = panels(1).crop((0, 0, 8, 8))
    for index in range(num):
        row = dict.fromkeys(Pair.__dataclass_fields__, "")
        numbers = dict.fromkeys(("grid", "reference_panel", "target_panel", "seed"), index)
        told = {"caption": f"caption {index}", "scores": "{}", "verdict_same": True, "kept": True}
        yield {**row, **numbers, **told, "image": picture, "conditioning": picture}


def make_pairs(folder: Path, num: int) -> None:
    """Write what dsd-curate leaves: shards of n pairs, some rejected ones, a manifest."""
    for shard in shards_of(folder, "pairs", num, 8192):
        write_shard(shard, pair_rows(shard.stop - shard.start), features(Pair))
    (shard,) = shards_of(folder, "rejected", 64)
    write_shard(shard, ({**row, "kept": False, "rejection": "low score: 0.1"} for row in pair_rows(64)), features(Pair))
    write_manifest(folder, "curation", {"pairs": num})


def table(folder: Path, num: int) -> Work:
    """Make and read the table of n pairs for training, and shuffle ten epochs of it."""
    make_pairs(folder, num)
    source = curated(str(folder))

    def work() -> dict[str, float]:
        make_table(source, folder / "cache", blocks(source), shown=False)
        found = read_table(source, folder / "cache", [(8, 8)], blocks(source))
        for epoch in range(10):
            epoch_order((len(found),), 0, 16, epoch)
        return {}

    return work


def report(folder: Path, num: int) -> Work:
    """Write the report of n pairs and its contact sheet."""
    make_pairs(folder, num)
    kept, rejected = read_shards(folder, "pairs"), read_shards(folder, "rejected")

    def work() -> dict[str, float]:
        done = steps({"grids": num}, [], rejected.select_columns(["rejection"]).rename_column("rejection", "defect"),
                     [], rejected, num)  # fmt: skip
        write_report(folder / "report.html", done, {}, {}, kept, rejected)
        sheet_of(kept, rejected).save(folder / "overview.png")
        return {"bytes": float((folder / "report.html").stat().st_size)}

    return work


def jobs(folder: Path, num: int) -> Work:
    """Read a file of n jobs over eight pictures, and take each in its turn."""
    for number in range(8):
        panels(number).save(folder / f"{number}.png")
    rows = (json.dumps({"reference": f"{number % 8}.png", "prompt": f"prompt {number}"}) for number in range(num))
    (folder / "jobs.jsonl").write_text("\n".join(rows))

    def work() -> dict[str, float]:
        listed = jsonl_jobs(str(folder / "jobs.jsonl"))
        assert len({listed[position].name for position in range(num)}) == num
        return {}

    return work


def captions(folder: Path, num: int) -> Work:
    """Store the embeddings of n captions, open the store again, read each once."""
    names = [caption_key(f"caption {number}") for number in range(num)]

    def work() -> dict[str, float]:
        store = Store(folder / "text", torch.float32)
        for part in chunks(names, A_SEGMENT):
            store.add({name: torch.zeros(8) for name in part})
        again = Store(folder / "text", torch.float32)
        for part in chunks(names, A_SEGMENT):
            again.rows(part)
        return {"files": float(len(os.listdir(folder / "text")))}

    return work


def kept_checkpoints(folder: Path, num: int) -> Work:
    """Write n checkpoints of which three stay, ten logged lines before each; resume from the last one."""
    weight = nn.Parameter(torch.zeros(8, 8))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.ones(8, 8)
    optimizer.step()

    def work() -> dict[str, float]:
        states = {"w": dict(optimizer.state[weight])}
        for step in range(1, num + 1):
            for line in range(10):
                append(folder / "metrics.jsonl", {"step": 10 * step + line, "loss": 0.5})
            save_checkpoint(folder / "checkpoints", TrainState(step), {"w": weight.data}, {}, states, [{}], keep=3)
        forget_after(folder / "metrics.jsonl", 10 * num)
        return {"files": float(len(checkpoints(folder / "checkpoints")))}

    return work


SUBJECTS = (  # the quick ones first
    Subject(
        "grids: planning and resuming, in shards",
        (100, 1_000, 10_000),
        grids,
        "a path for each shard",
        "names are sorted",
    ),
    Subject("array: all tasks plan", (10, 100, 1_000), array, "a path for each shard", "each of n tasks lists n files"),
    Subject("checkpoints", (10, 100, 1_000), kept_checkpoints, "the log's lines are read at once to resume"),
    Subject("cached captions", (1_000, 10_000, 100_000), captions, "the index of keys is held"),
    Subject("jobs", (1_000, 10_000, 100_000), jobs, "the list of jobs is held"),
    Subject("prompts", (100, 1_000, 10_000), prompts, ""),
    Subject("report and contact sheet, by pairs", (1_000, 10_000, 100_000), report, ""),
    Subject("pairs: table and order for training", (1_000, 10_000, 100_000), table, "its keys and captions are held"),
    Subject("pairs: selection and writing", (1_000, 10_000, 100_000), pairs, ""),
)
