"""Asks the judge about every pair of panels of a range of grids. Slow; its answers are kept beside the grids."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from datasets import Dataset
from PIL import Image
from tqdm import tqdm

from dsd.curation.defects import defect
from dsd.pictures import cut
from dsd.records import Verdict
from dsd.shards import Failure, Shard
from dsd.vlm import Judge, Refusal
from dsd.vlm import Verdict as Judged

Panel = tuple[int, int]  # grid, panel


@dataclass(frozen=True, eq=False)
class Candidate:
    """Two panels of a grid, first < second."""

    grid: int
    first: int
    second: int
    first_image: Image.Image
    second_image: Image.Image

    @property
    def panels(self) -> tuple[Panel, Panel]:
        return (self.grid, self.first), (self.grid, self.second)


def candidates(grid: int, panels: list[Image.Image]) -> list[Candidate]:
    """All unordered pairs: 6 for a 2x2 sheet."""
    return [Candidate(grid, i, j, panels[i], panels[j]) for i, j in combinations(range(len(panels)), 2)]


def judge_grids(
    shard: Shard, grids: Dataset, judge: Judge, batch_size: int, describe_rejected: bool, bar: tqdm
) -> Iterator[Verdict | Failure]:
    """Yield a verdict for every pair of panels of grids shard.start..stop-1 (rows of `grids`), in order.

    A pair with a defective panel never reaches the judge. A pair that the judge refuses is a failure with its reason.
    Captions and instructions are asked for all pairs, or only for those that the judge calls the same subject.
    """
    for start in range(shard.start, shard.stop, batch_size):
        rows = grids.select(range(start, min(start + batch_size, shard.stop)))
        pairs: list[Candidate] = []
        panels: dict[Panel, Image.Image] = {}
        for row in rows:
            cells = cut(row["image"], row["layout"])
            panels |= {(row["index"], number): cell for number, cell in enumerate(cells)}
            pairs += candidates(row["index"], cells)
        defects = {panel: defect(image) for panel, image in panels.items()}
        sound = [p for p in pairs if not any(defects[panel] for panel in p.panels)]
        answers = judge.judge([p.first_image for p in sound], [p.second_image for p in sound])
        answer_of = dict(zip(sound, answers, strict=True))
        told = [p for p, a in answer_of.items() if describe_rejected or (not isinstance(a, Refusal) and a.same)]
        texts = describe(judge, panels if describe_rejected else {n: panels[n] for p in told for n in p.panels}, told)
        for pair in pairs:
            yield record(pair, answer_of.get(pair), texts.get, next(filter(None, map(defects.get, pair.panels)), ""))
        bar.update(len(rows))


def describe(judge: Judge, panels: Mapping[Panel, Image.Image], pairs: Sequence[Candidate]) -> dict[Any, str | Refusal]:
    """Captions by panel, and by (pair, target's panel) the instruction that makes the target of the other panel."""
    captions = judge.caption(list(panels.values()))
    firsts, seconds = [p.first_image for p in pairs], [p.second_image for p in pairs]
    to_first, to_second = judge.instruct(seconds, firsts), judge.instruct(firsts, seconds)
    return {
        **dict(zip(panels, captions, strict=True)),
        **{(pair, pair.first): text for pair, text in zip(pairs, to_first, strict=True)},
        **{(pair, pair.second): text for pair, text in zip(pairs, to_second, strict=True)},
    }


def record(
    pair: Candidate, answer: Judged | Refusal | None, text: Callable[[Any, str], str | Refusal], fault: str
) -> Verdict | Failure:
    """What is kept of an answer; `fault` is a defect of a panel, for which the judge was not asked."""
    key = pair.grid, pair.first, pair.second
    keys = [*pair.panels, (pair, pair.first), (pair, pair.second)]
    texts = [text(name, "") for name in keys]
    for refusal in (answer, *texts):
        if isinstance(refusal, Refusal):
            return Failure({"grid": pair.grid, "first": pair.first, "second": pair.second}, str(refusal))
    said = [str(t) for t in texts]
    if answer is None:
        return Verdict(*key, False, "", "", "", "", said[0], said[1], "", "", "{}", fault)
    assert isinstance(answer, Judged)
    return Verdict(
        *key,
        same=answer.same,
        reason=answer.reason,
        common_subject=answer.common_subject,
        first_description=answer.reference_description,
        second_description=answer.target_description,
        first_caption=said[0],
        second_caption=said[1],
        first_instruction=said[2],
        second_instruction=said[3],
        scores=json.dumps({name: round(float(value), 5) for name, value in answer.scores.items()}),
        defect="",
    )
