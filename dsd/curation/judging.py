"""Asks the judge about every pair of panels of a range of grids. Slow; its answers are kept beside the grids."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from datasets import Dataset
from PIL import Image
from tqdm import tqdm

from dsd.curation.defects import defect
from dsd.pictures import cut
from dsd.records import Verdict
from dsd.shards import Failure, Shard
from dsd.vlm import Judge, Refusal


@dataclass(frozen=True)
class Candidate:
    """Two panels of a grid, first < second."""

    grid: int
    first: int
    second: int
    first_image: Image.Image
    second_image: Image.Image


def candidates(grid: int, panels: list[Image.Image]) -> list[Candidate]:
    """All unordered pairs: 6 for a 2x2 sheet."""
    return [Candidate(grid, i, j, panels[i], panels[j]) for i, j in combinations(range(len(panels)), 2)]


def judge_grids(shard: Shard, grids: Dataset, judge: Judge, batch_size: int, bar: tqdm) -> Iterator[Verdict | Failure]:
    """Yield a verdict for every pair of panels of grids shard.start..stop-1 (rows of `grids`), in order.

    A pair with a defective panel never reaches the judge. A pair that the judge refuses is a failure with its reason.
    """
    for start in range(shard.start, shard.stop, batch_size):
        rows = grids.select(range(start, min(start + batch_size, shard.stop)))
        pairs: list[Candidate] = []
        panels: list[tuple[int, int, Image.Image]] = []
        defects: dict[tuple[int, int], str] = {}
        for row in rows:
            cells = cut(row["image"], row["layout"])
            panels += [(row["index"], i, cell) for i, cell in enumerate(cells)]
            defects |= {(row["index"], i): defect(cell) for i, cell in enumerate(cells)}
            pairs += candidates(row["index"], cells)
        sound = [p for p in pairs if not (defects[p.grid, p.first] or defects[p.grid, p.second])]
        captions = dict(
            zip([(g, i) for g, i, _ in panels], judge.caption([image for _, _, image in panels]), strict=True)
        )
        firsts, seconds = [p.first_image for p in sound], [p.second_image for p in sound]
        answers = zip(
            judge.judge(firsts, seconds), judge.instruct(seconds, firsts), judge.instruct(firsts, seconds), strict=True
        )
        answer_of = dict(zip([(p.grid, p.first, p.second) for p in sound], answers, strict=True))
        for pair in pairs:
            key = pair.grid, pair.first, pair.second
            texts = captions[key[:2]], captions[pair.grid, pair.second]
            if key not in answer_of:
                fault = defects[key[:2]] or defects[pair.grid, pair.second]
                yield Verdict(*key, False, "", "", "", "", *texts, "", "", "{}", fault)
                continue
            verdict, *instructions = answer_of[key]
            if isinstance(verdict, Refusal):
                yield Failure({"grid": pair.grid, "first": pair.first, "second": pair.second}, str(verdict))
                continue
            yield Verdict(
                *key,
                same=verdict.same,
                reason=verdict.reason,
                common_subject=verdict.common_subject,
                first_description=verdict.reference_description,
                second_description=verdict.target_description,
                first_caption=texts[0],
                second_caption=texts[1],
                first_instruction=instructions[0],
                second_instruction=instructions[1],
                scores=json.dumps({name: round(float(value), 5) for name, value in verdict.scores.items()}),
                defect="",
            )
        bar.update(len(rows))
