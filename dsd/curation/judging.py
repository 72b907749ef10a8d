"""Asks the judge about every pair of panels of a range of grids. Slow; its answers are kept beside the grids."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from datasets import Dataset
from PIL import Image
from tqdm import tqdm

from dsd.curation.judge import Judge, Refusal
from dsd.curation.judge import Verdict as Judged
from dsd.curation.quality import quality
from dsd.curation.seams import Cutter
from dsd.curation.selection import Selection
from dsd.models.embeddings import Features
from dsd.records import Verdict
from dsd.runs.shards import Failure, Shard

Panel = tuple[int, int]  # grid, panel
PairKey = tuple[int, int, int]  # grid, first panel < second panel


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


@dataclass(frozen=True)
class Looking:
    """How panels are looked at before and by the judge."""

    cut: Cutter
    judge: Judge
    features: Features | None = None  # gives a score of its own to every pair
    prefilter: Selection = field(default_factory=lambda: Selection(require_same=False))  # bounds on what costs nothing
    describe_rejected: bool = True  # captions and instructions for pairs that the judge says no to


def judge_grids(shard: Shard, grids: Dataset, look: Looking, batch_size: int, bar: tqdm) -> Iterator[Verdict | Failure]:
    """Yield a verdict for every pair of panels of grids shard.start..stop-1 (rows of `grids`), in order.

    A pair of a sheet with another layout, or outside the prefilter's bounds, never reaches the judge. A pair that the
    judge refuses is a failure with its reason.
    """
    for start in range(shard.start, shard.stop, batch_size):
        rows = grids.select(range(start, min(start + batch_size, shard.stop)))
        pairs: list[Candidate] = []
        panels: dict[Panel, Image.Image] = {}
        fault_of: dict[Candidate, str] = {}
        for row in rows:
            found = look.cut(row["image"], row["layout"])
            panels |= {(row["index"], number): cell for number, cell in enumerate(found.images)}
            here = candidates(row["index"], found.images)
            fault_of |= dict.fromkeys(here, found.fault)
            pairs += here
        scores = cheap_scores(look.features, panels, pairs)
        for pair in pairs:
            fault_of[pair] = fault_of[pair] or look.prefilter.out_of_bounds(scores[pair])
        sound = [pair for pair in pairs if not fault_of[pair]]
        answers = look.judge.judge([p.first_image for p in sound], [p.second_image for p in sound])
        answer_of = dict(zip(sound, answers, strict=True))
        told = [p for p, a in answer_of.items() if look.describe_rejected or (isinstance(a, Judged) and a.same)]
        described = panels if look.describe_rejected else {name: panels[name] for p in told for name in p.panels}
        texts = describe(look.judge, described, told)
        for pair in pairs:
            yield record(pair, answer_of.get(pair), texts.get, scores[pair], fault_of[pair])
        bar.update(len(rows))


def judged_swapped(keys: Sequence[PairKey], grids: Dataset, cut: Cutter, judge: Judge) -> dict[PairKey, bool]:
    """What the judge says of these pairs when it sees the second panel first; without those that it refuses."""
    row_of = {index: row for row, index in enumerate(grids["index"])}
    asked = [key for key in keys if key[0] in row_of]
    panels = {g: cut((row := grids[row_of[g]])["image"], row["layout"]).images for g in {key[0] for key in asked}}
    answers = judge.judge([panels[g][second] for g, _, second in asked], [panels[g][first] for g, first, _ in asked])
    return {key: a.same for key, a in zip(asked, answers, strict=True) if isinstance(a, Judged)}


def cheap_scores(
    features: Features | None, panels: Mapping[Panel, Image.Image], pairs: Sequence[Candidate]
) -> dict[Candidate, dict[str, float]]:
    """The quality of every pair's worse panel, and likeness by the embedding's name where there is one."""
    worth = {name: quality(panel) for name, panel in panels.items()}
    scores = {
        pair: {name: min(worth[panel][name] for panel in pair.panels) for name in worth[pair.panels[0]]}
        for pair in pairs
    }
    if features is not None and panels:
        vectors = dict(zip(panels, features(list(panels.values())), strict=True))
        for pair in pairs:
            scores[pair][features.name] = float(vectors[pair.panels[0]] @ vectors[pair.panels[1]])
    return scores


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
    pair: Candidate,
    answer: Judged | Refusal | None,
    text: Callable[[Any, str], str | Refusal],
    scores: dict[str, float],
    fault: str,
) -> Verdict | Failure:
    """What is kept of an answer; `fault` says why the judge was not asked."""
    key = pair.grid, pair.first, pair.second
    keys = [*pair.panels, (pair, pair.first), (pair, pair.second)]
    texts = [text(name, "") for name in keys]
    for refusal in (answer, *texts):
        if isinstance(refusal, Refusal):
            return Failure({"grid": pair.grid, "first": pair.first, "second": pair.second}, str(refusal))
    said = [str(t) for t in texts]
    if answer is None:
        return Verdict(*key, False, "", "", "", "", said[0], said[1], "", "", as_json(scores), fault)
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
        scores=as_json({**scores, **answer.scores}),
        defect="",
    )


def as_json(scores: Mapping[str, float]) -> str:
    return json.dumps({name: round(float(value), 5) for name, value in scores.items()})
