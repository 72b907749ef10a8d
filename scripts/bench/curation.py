"""Measure how many grids a second dsd-curate's plumbing judges, with a provider that encodes, decodes and waits.

    python scripts/bench/curation.py --latency 2 --concurrency 128
    python scripts/bench/curation.py --latency 2 --concurrency 128 --before ../old   # both trees, in turns

Grids have 2x2 panels of --size pixels and are read from a shard as PNG. Every question goes through the pool, the
limits and the cache on disk; its pictures are encoded for HTTP, and decoded as a server would (--no-decode leaves the
server's part to another machine). All pairs show one subject: 22 questions a grid, the most there can be. Concurrency,
latency and questions set a ceiling, which is reported, too.
"""

from dsd.runs.command import quiet

if __name__ == "__main__":
    quiet()  # before the libraries are imported

# isort: split
import argparse
import base64
import inspect
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from dsd.chat import Question, Reply
from dsd.chat.encoding import data_url
from dsd.chat.limits import Limits
from dsd.chat.service import Service
from dsd.curation.grids import read_grids
from dsd.curation.judging import Inspection, judge_grids
from dsd.curation.seams import exact
from dsd.curation.vlm_judge import VLMJudge
from dsd.io.files import write_json
from dsd.io.records import Grid, Verdict, features
from dsd.runs.manifest import versions
from dsd.runs.shards import Shard, write_shard

YES = json.dumps({
    "common_subject": "a critter", "first_description": "red", "second_description": "red", "parts": [],
    "reason": "alike", "same": True,
})  # fmt: skip
PAIRS, PANELS = 6, 4  # of a 2x2 grid
ROWS_PER_SHARD, BATCH = 64, 16


class Slow:
    """A provider that does with pictures what a client and a server do, and answers after `latency` seconds."""

    model = "slow"

    def __init__(self, latency: float, picture_format: str, decode: bool) -> None:
        self.latency, self.picture_format, self.decode = latency, picture_format, decode
        self.sent = {} if picture_format == "png" else {"picture_format": picture_format}

    def ask(self, question: Question) -> Reply:
        for image in question.images:
            data = base64.b64decode(data_url(image, **self.sent).split(",")[1])
            if self.decode:
                Image.open(BytesIO(data)).load()
        time.sleep(self.latency)
        return Reply(YES if question.answer else "a critter on the beach", 1000, 100)


class Encodes:
    """Counts what Pillow encodes, in any thread."""

    def __init__(self) -> None:
        self.num, self.lock, self.save = 0, threading.Lock(), Image.Image.save

    def __enter__(self) -> "Encodes":
        def save(*arguments: Any, **options: Any) -> None:
            with self.lock:
                self.num += 1
            self.save(*arguments, **options)

        Image.Image.save = save  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        Image.Image.save = self.save  # type: ignore[method-assign]


def resident_mb() -> float:
    """Measure the memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def write_grids(num: int, size: int, folder: Path) -> None:
    """Write grids of one noisy picture with a number in a corner of every panel."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).resize((2 * size, 2 * size), 3)
    pixels = np.clip(np.asarray(smooth) + rng.normal(0, 2, (2 * size, 2 * size, 3)), 0, 255).astype(np.uint8)

    def rows() -> Iterator[Grid]:
        for index in range(num):
            numbered = Image.fromarray(pixels)
            for panel in range(PANELS):
                at = panel % 2 * size, panel // 2 * size
                numbered.putpixel(at, (index % 256, index // 256 % 256, panel))
            yield Grid(index, numbered, "", "2x2", [""] * PANELS, "", "same", 0, 2 * size, 2 * size, "")

    write_shard(Shard(0, 0, num, folder / "grids" / "grids-00000-of-00001.parquet"), rows(), features(Grid))


def judged(shards: list[Shard], grids: Any, inspection: Inspection) -> Iterator[Any]:
    """Yield the verdicts of all shards, by this version of dsd or by an older one, which judged shard by shard."""
    if "shard" in inspect.signature(judge_grids).parameters:
        for shard in shards:
            yield from judge_grids(shard, grids, inspection, BATCH, tqdm(disable=True))  # type: ignore
    else:
        for _, rows in judge_grids(shards, grids, inspection, BATCH):
            yield from rows


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Judge all grids, write the verdicts, and return what it took."""
    num, memory = arguments.num_grids, list[float]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_grids(num, arguments.size, folder)
        grids = read_grids(folder)
        limits = Limits(concurrency=arguments.concurrency)
        chat = Slow(arguments.latency, arguments.picture_format, arguments.decode)
        service = Service(chat, folder / "answers.sqlite", limits)
        inspection = Inspection(exact, VLMJudge(service, "judge", "caption", "instruct"), describe_rejected=False)
        starts = range(0, num, ROWS_PER_SHARD)
        shards = [Shard(0, start, min(start + ROWS_PER_SHARD, num), folder / f"v-{start}.parquet") for start in starts]

        def watched() -> Iterator[Any]:
            for row in judged(shards, grids, inspection):
                if len(memory) < row.grid:
                    memory.append(resident_mb())
                yield row

        verdicts = Shard(0, 0, num, folder / "verdicts" / "verdicts-00000-of-00001.parquet")
        began, work, before = time.monotonic(), time.process_time(), resident_mb()
        with Encodes() as encodes:
            pairs = write_shard(verdicts, watched(), features(Verdict))
        seconds, work = time.monotonic() - began, time.process_time() - work
    calls, half = service.ledger["calls"], len(memory) // 2
    ceiling = arguments.concurrency / arguments.latency / (calls / num) if arguments.latency else None
    return {
        "dsd": versions()["dsd"], "grids": num, "size": arguments.size, "concurrency": arguments.concurrency,
        "latency": arguments.latency, "picture_format": arguments.picture_format, "decode": arguments.decode,
        "grids_a_second": num / seconds, "pairs_a_second": pairs / seconds, "ceiling_grids_a_second": ceiling,
        "cpu_seconds_a_grid": work / num, "questions_a_grid": calls / num, "calls": calls,
        "encodes_a_panel": encodes.num / num / PANELS,
        "memory_mb_before": before, "memory_mb_first_half": max(memory[: half or 1], default=0.0),
        "memory_mb_second_half": max(memory[half:], default=0.0),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
    }  # fmt: skip


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure an older tree and this one in turns, each in processes of its own; return the medians of both."""
    trees = {"before": arguments.before, "after": str(Path(__file__).parents[2])}
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in trees}
    for _ in range(arguments.repeats):
        for side, tree in trees.items():
            report = Path(tempfile.mkdtemp(prefix="dsd-bench-")) / "report.json"
            sent = "png" if side == "before" else arguments.picture_format  # the older one knows only this
            options = {"num_grids": arguments.num_grids, "size": arguments.size, "latency": arguments.latency,
                       "concurrency": arguments.concurrency, "picture_format": sent, "output": report}  # fmt: skip
            flags = [text for key, value in options.items() for text in (f"--{key}", str(value))]
            command = [sys.executable, __file__, *flags, "--decode" if arguments.decode else "--no-decode"]
            subprocess.run(command, env=os.environ | {"PYTHONPATH": tree}, check=True, stdout=subprocess.DEVNULL)
            found[side].append(json.loads(report.read_text()))
    middle = {side: sorted(runs, key=lambda run: run["grids_a_second"])[len(runs) // 2] for side, runs in found.items()}
    rates = [[run["grids_a_second"] for run in found[side]] for side in trees]
    ratios = [after / before for before, after in zip(*rates, strict=True)]
    return {**middle, "ratio": statistics.median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_grids", type=int, default=96)
    parser.add_argument("--size", type=int, default=512, help="pixels of a panel")
    parser.add_argument("--concurrency", type=int, default=128)
    parser.add_argument("--latency", type=float, default=2.0, help="seconds of an answer")
    parser.add_argument("--picture_format", choices=["png", "jpeg"], default="jpeg")
    parser.add_argument("--decode", action=argparse.BooleanOptionalAction, default=True, help="the server's part")
    parser.add_argument("--before", help="folder of an older checkout (git worktree add), measured in turns with this")
    parser.add_argument("--repeats", type=int, default=3, help="of --before")
    parser.add_argument("--output", default="outputs/bench/curation.json")
    arguments = parser.parse_args()
    report = compare(arguments) if arguments.before else measure(arguments)
    write_json(arguments.output, report)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
