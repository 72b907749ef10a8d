"""Measure how many pairs a second dsd-curate handles, with a provider that answers at once, and its memory.

    python scripts/bench/curation.py --num_pairs 50000

Grids have 2x2 panels of --size pixels; every question goes through the pool, the limits and the cache on disk.
"""

from dsd.runs.command import quiet

if __name__ == "__main__":
    quiet()  # before the libraries are imported

# isort: split
import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image
from tqdm import tqdm

from dsd.chat import Question, Reply
from dsd.chat.service import Limits, Service
from dsd.curation.judging import Inspection, judge_grids
from dsd.curation.seams import exact
from dsd.curation.vlm_judge import VLMJudge
from dsd.io.files import write_json
from dsd.io.records import Verdict, features
from dsd.runs.manifest import versions
from dsd.runs.shards import Shard, write_shard

YES = json.dumps({
    "common_subject": "a critter", "first_description": "red", "second_description": "red", "parts": [],
    "reason": "alike", "same": True,
})  # fmt: skip
PAIRS = 6  # of a 2x2 grid


class Instant:
    """A provider without latency."""

    model = "instant"

    def ask(self, question: Question) -> Reply:
        return Reply(YES if question.answer else "a critter on the beach", 1000, 100)


def resident_mb() -> float:
    """Measure the memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def make_grids(num: int, size: int) -> Dataset:
    """Make grids of one picture with a number in a corner of every panel; they are made as they are read."""
    layout, blank = "2x2", Dataset.from_dict({"index": list(range(num))})
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
    picture = noise.resize((2 * size, 2 * size), Image.Resampling.BICUBIC)

    def draw(index: int) -> Image.Image:
        numbered = picture.copy()
        for panel in range(4):
            at = panel % 2 * size, panel // 2 * size
            numbered.putpixel(at, (index % 256, index // 256 % 256, index // 65536))
        return numbered

    def transform(batch: dict[str, Any]) -> dict[str, Any]:
        images = [draw(index) for index in batch["index"]]
        return {"index": batch["index"], "image": images, "layout": [layout] * len(images)}

    return blank.with_transform(transform)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_pairs", type=int, default=6000)
    parser.add_argument("--size", type=int, default=64, help="pixels of a panel")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--output", default="outputs/bench/curation.json")
    arguments = parser.parse_args()
    rows_per_shard = 64
    num = -(-arguments.num_pairs // PAIRS)
    grids, memory, rates = make_grids(num, arguments.size), [], []
    with tempfile.TemporaryDirectory() as folder, tqdm(total=num * PAIRS, unit="pair", mininterval=5) as bar:
        service = Service(Instant(), Path(folder) / "answers.sqlite", Limits(concurrency=arguments.concurrency))
        inspection = Inspection(exact, VLMJudge(service, "judge", "caption", "instruct"), describe_rejected=False)
        silent = tqdm(disable=True)
        for start in range(0, num, rows_per_shard):
            shard = Shard(0, start, min(start + rows_per_shard, num), Path(folder) / "verdicts" / f"v-{start}.parquet")
            began = time.monotonic()
            done = write_shard(shard, judge_grids(shard, grids, inspection, 16, silent), features(Verdict))
            rates.append(done / (time.monotonic() - began))
            memory.append(resident_mb())
            bar.update(done)
    half = len(memory) // 2
    report = {
        "dsd": versions()["dsd"], "pairs": num * PAIRS, "size": arguments.size,
        "pairs_a_second": float(np.median(rates)),
        "calls": service.ledger["calls"], "memory_mb_first_half": max(memory[: half or 1]),
        "memory_mb_second_half": max(memory[half:]),
    }  # fmt: skip
    write_json(arguments.output, report)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
