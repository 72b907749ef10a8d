"""Ask the judge about every pair of panels of a range of grids. This is slow; its answers are kept beside the grids."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from datasets import Dataset
from PIL import Image

from dsd.curation.grids import picture_of
from dsd.curation.judge import Judge, Judgement, Refusal
from dsd.curation.quality import quality
from dsd.curation.seams import Cutter
from dsd.curation.selection import Bounds
from dsd.errors import UserError
from dsd.io.records import Verdict
from dsd.models.embeddings import Features
from dsd.runs.shards import Failure, Shard

Panel = tuple[int, int]  # grid, panel
PairKey = tuple[int, int, int]  # grid, first panel < second panel


@dataclass(frozen=True)
class Unanswered(Failure):
    """A pair that the judge has not answered for now."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """Two panels of a grid, first < second."""

    grid: int
    first: int
    second: int
    first_image: Image.Image
    second_image: Image.Image
    fault: str = ""  # what is wrong with the grid as a whole

    @property
    def panels(self) -> tuple[Panel, Panel]:
        return (self.grid, self.first), (self.grid, self.second)


@dataclass(frozen=True)
class Inspection:
    """How panels are inspected: cut, scored at no cost, and shown to the judge."""

    cut: Cutter
    judge: Judge
    features: Features | None = None  # gives every pair a similarity
    prefilter: Bounds = field(default_factory=Bounds)  # a pair outside is not shown to the judge
    describe_rejected: bool = True  # captions and instructions also for pairs that the judge rejects


def judge_grids(
    shard: Shard, grids: Dataset, inspection: Inspection, batch_size: int, bar: Any
) -> Iterator[Verdict | Failure]:
    """Yield a verdict for every pair of panels of grids shard.start..stop-1 (rows of `grids`), in order.

    A pair whose grid has another layout than asked for, or that is outside the prefilter's bounds, is not shown to the
    judge. A pair that the judge refuses is a failure with its reason, and so is a grid whose picture is damaged.
    """
    for start in range(shard.start, shard.stop, batch_size):
        rows = grids.select(range(start, min(start + batch_size, shard.stop)))
        yield from judge_batch(rows, inspection)
        bar.update(len(rows))


def judge_batch(grids: Iterable[Mapping[str, Any]], inspection: Inspection) -> Iterator[Verdict | Failure]:
    """Judge the pairs of a few grids at once."""
    whole, damaged = readable(grids)
    yield from damaged
    panels, pairs = cut_batch(whole, inspection.cut)
    scores = free_scores(inspection.features, panels, pairs)
    faults = {pair: pair.fault or inspection.prefilter.broken_by(scores[pair]) for pair in pairs}
    asked = [pair for pair in pairs if not faults[pair]]
    said = inspection.judge.judge([p.first_image for p in asked], [p.second_image for p in asked])
    answers = dict(zip(asked, said, strict=True))
    texts = describe(inspection, panels, answers)
    for pair in pairs:
        yield record(pair, answers.get(pair), texts, scores[pair], faults[pair])


def readable(grids: Iterable[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Failure]]:
    """Decode the pictures of grids; a grid whose picture is damaged is a failure."""
    whole: list[Mapping[str, Any]] = []
    damaged: list[Failure] = []
    for grid in grids:
        try:
            whole.append({**grid, "image": picture_of(grid)})
        except UserError as error:
            damaged.append(Failure({"grid": grid["index"]}, f"failed: {error}"))
    return whole, damaged


def cut_batch(grids: Iterable[Mapping[str, Any]], cut: Cutter) -> tuple[dict[Panel, Image.Image], list[Candidate]]:
    """Cut grids into panels, and list all unordered pairs of panels of each grid: 6 of a 2x2 grid."""
    panels: dict[Panel, Image.Image] = {}
    pairs: list[Candidate] = []
    for grid in grids:
        index, found = grid["index"], cut(grid["image"], grid["layout"])
        panels |= {(index, number): panel for number, panel in enumerate(found.panels)}
        numbered = combinations(enumerate(found.panels), 2)
        pairs += [Candidate(index, i, j, first, second, found.fault) for (i, first), (j, second) in numbered]
    return panels, pairs


def free_scores(
    features: Features | None, panels: Mapping[Panel, Image.Image], pairs: Sequence[Candidate]
) -> dict[Candidate, dict[str, float]]:
    """Score pairs without a judge: the quality of the worse panel and, by the embedding's name, their similarity."""
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


def describe(
    inspection: Inspection, panels: Mapping[Panel, Image.Image], answers: Mapping[Candidate, Judgement | Refusal]
) -> dict[Any, str | Refusal]:
    """Write captions, by panel, and instructions, by (pair, number of the target's panel)."""
    judge, pairs, described = inspection.judge, list(answers), dict(panels)
    if not inspection.describe_rejected:
        pairs = [pair for pair, answer in answers.items() if isinstance(answer, Judgement) and answer.same]
        described = {panel: panels[panel] for pair in pairs for panel in pair.panels}
    captions = judge.caption(list(described.values()))
    firsts, seconds = [p.first_image for p in pairs], [p.second_image for p in pairs]
    to_first, to_second = judge.instruct(seconds, firsts), judge.instruct(firsts, seconds)
    return {
        **dict(zip(described, captions, strict=True)),
        **{(pair, pair.first): text for pair, text in zip(pairs, to_first, strict=True)},
        **{(pair, pair.second): text for pair, text in zip(pairs, to_second, strict=True)},
    }


def record(
    pair: Candidate,
    answer: Judgement | Refusal | None,
    texts: Mapping[Any, str | Refusal],
    scores: Mapping[str, float],
    fault: str,
) -> Verdict | Failure:
    """Make the stored record of an answer; `fault` says why the judge was not asked."""
    key = {"grid": pair.grid, "first": pair.first, "second": pair.second}
    said = [texts.get(name, "") for name in (*pair.panels, (pair, pair.first), (pair, pair.second))]
    for refusal in (answer, *said):
        if isinstance(refusal, Refusal):
            return (Unanswered if refusal.unanswered else Failure)(key, str(refusal))
    if answer is None:
        answer = Judgement("", "", "", False, "", {})
    assert isinstance(answer, Judgement)
    return Verdict(
        **key,
        same=answer.same,
        reason=answer.reason,
        common_subject=answer.common_subject,
        first_description=answer.reference_description,
        second_description=answer.target_description,
        first_caption=str(said[0]),
        second_caption=str(said[1]),
        first_instruction=str(said[2]),
        second_instruction=str(said[3]),
        scores=json.dumps({name: round(float(value), 5) for name, value in {**scores, **answer.scores}.items()}),
        defect=fault,
    )


def judged_swapped(
    keys: Sequence[PairKey], grids: Dataset, cut: Cutter, judge: Judge
) -> tuple[dict[PairKey, bool], int]:
    """Ask about pairs with the second panel first: whether they show one subject.

    Refused pairs are left out. Also returns how many pairs have no answer for now.
    """
    row_of = {index: row for row, index in enumerate(grids["index"])}
    asked = [key for key in keys if key[0] in row_of]
    rows = {grid: grids[row_of[grid]] for grid in {key[0] for key in asked}}
    panels = {grid: cut(picture_of(row), row["layout"]).panels for grid, row in rows.items()}
    answers = judge.judge([panels[g][second] for g, _, second in asked], [panels[g][first] for g, first, _ in asked])
    said = {key: a.same for key, a in zip(asked, answers, strict=True) if isinstance(a, Judgement)}
    return said, sum(isinstance(a, Refusal) and a.unanswered for a in answers)
