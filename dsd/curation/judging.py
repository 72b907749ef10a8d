"""Ask the judge about every pair of panels of a range of grids. This is slow; its answers are kept beside the grids."""

import json
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import combinations
from queue import SimpleQueue
from typing import Any

from datasets import Dataset
from PIL import Image

from dsd.chat.calls import call_off
from dsd.curation.grids import picture_of
from dsd.curation.judge import Judge, Judgement, Refusal, as_futures
from dsd.curation.quality import quality
from dsd.curation.seams import Cutter
from dsd.curation.selection import Bounds
from dsd.errors import UserError
from dsd.geometry import Geometry, size_fault
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
    def key(self) -> dict[str, int]:
        return {"grid": self.grid, "first": self.first, "second": self.second}

    @property
    def panels(self) -> tuple[Panel, Panel]:
        return (self.grid, self.first), (self.grid, self.second)


@dataclass(frozen=True)
class Inspection:
    """How panels are inspected: cut, scored at no cost, and shown to the judge."""

    cut: Cutter
    judge: Judge
    features: Features | None = None  # gives every pair a similarity
    geometries: Sequence[Geometry] = ()  # compare the layouts of every pair's panels
    prefilter: Bounds = field(default_factory=Bounds)  # a pair outside is not shown to the judge
    describe_rejected: bool = True  # captions and instructions also for pairs that the judge rejects


def judge_grids(
    shards: Iterable[Shard], grids: Dataset, inspection: Inspection, batch_size: int
) -> Generator[tuple[int, list[Verdict | Failure]], None, None]:
    """Judge every pair of panels of the grids of some shards (rows of `grids`), a batch of grids at a time.

    Yields the position after a batch and its verdicts, in order; no batch reaches over the end of a shard. Where the
    judge asks a server, every grid is a batch of its own, and no question waits for an unrelated one: the next grids
    are cut and asked about while earlier ones are under way, of which there are at most `judge.grids_in_flight`.

    A pair whose grid has another layout than asked for, or that is outside the prefilter's bounds, is not shown to the
    judge. A pair that the judge refuses is a failure with its reason. So is a grid whose picture is damaged, and, where
    layouts are compared, a pair whose panels have different sizes.
    """
    changed: SimpleQueue[Inquiry] = SimpleQueue()  # an inquiry for every answer of it that has come
    begun: deque[Inquiry] = deque()  # in order, until they are handed on
    under_way: dict[Inquiry, None] = {}  # those with an open question
    most = getattr(inspection.judge, "grids_in_flight", 1)

    def advance(inquiry: Inquiry) -> None:
        if inquiry in under_way and inquiry.advance():
            del under_way[inquiry]

    def ready() -> Iterator[tuple[int, list[Verdict | Failure]]]:
        while begun and begun[0] not in under_way:
            inquiry = begun.popleft()
            yield inquiry.stop, inquiry.rows

    try:
        for batch in batches(shards, batch_size if most == 1 else 1):
            while len(under_way) >= most:
                advance(changed.get())
                yield from ready()
            inquiry = Inquiry(batch, grids, inspection, changed.put)
            begun.append(inquiry)
            under_way[inquiry] = None
            advance(inquiry)
            while not changed.empty():
                advance(changed.get())
            yield from ready()
        while begun:
            advance(changed.get())
            yield from ready()
    finally:
        call_off(future for inquiry in under_way for future in inquiry.futures())


def batches(shards: Iterable[Shard], batch_size: int) -> Iterator[range]:
    """Divide the positions of shards into batches."""
    for shard in shards:
        for start in range(shard.start, shard.stop, batch_size):
            yield range(start, min(start + batch_size, shard.stop))


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


def comparable(pairs: Sequence[Candidate]) -> tuple[list[Candidate], list[Failure]]:
    """Leave out pairs whose panels have different sizes; each is a failure."""
    faults = {pair: size_fault(pair.first_image, pair.second_image) for pair in pairs}
    failures = [
        Failure(pair.key, f"failed: {fault} by geometry=; cut grids by panels=exact")
        for pair, fault in faults.items()
        if fault
    ]
    return [pair for pair, fault in faults.items() if not fault], failures


def free_scores(
    inspection: Inspection, panels: Mapping[Panel, Image.Image], pairs: Sequence[Candidate]
) -> dict[Candidate, dict[str, float]]:
    """Score pairs without a judge: quality of the worse panel, similarity by features=, layouts by geometry=."""
    worth = {name: quality(panel) for name, panel in panels.items()}
    scores = {
        pair: {name: min(worth[panel][name] for panel in pair.panels) for name in worth[pair.panels[0]]}
        for pair in pairs
    }
    if (features := inspection.features) is not None and panels:
        vectors = dict(zip(panels, features(list(panels.values())), strict=True))
        for pair in pairs:
            scores[pair][features.name] = float(vectors[pair.panels[0]] @ vectors[pair.panels[1]])
    firsts, seconds = [pair.first_image for pair in pairs], [pair.second_image for pair in pairs]
    for geometry in inspection.geometries:
        for pair, found in zip(pairs, geometry(firsts, seconds), strict=True):
            scores[pair] |= found
    return scores


class Inquiry:
    """The questions about a few grids, and their answers as they come.

    `changed` is called with the inquiry for every answer that has come, in any thread.
    """

    def __init__(
        self, positions: range, grids: Dataset, inspection: Inspection, changed: Callable[["Inquiry"], None]
    ) -> None:
        self.stop, self.inspection, self.changed = positions.stop, inspection, changed
        self.rows: list[Verdict | Failure] = []  # of this inquiry, once every answer is there
        whole, self.failures = readable(grids.select(positions))
        self.panels, self.pairs = cut_batch(whole, inspection.cut)
        if inspection.geometries:
            self.pairs, unequal = comparable(self.pairs)
            self.failures += unequal
        self.scores = free_scores(inspection, self.panels, self.pairs)
        self.faults = {pair: pair.fault or inspection.prefilter.broken_by(self.scores[pair]) for pair in self.pairs}
        self.texts: dict[Any, Future[str | Refusal]] = {}  # captions by panel, instructions by (pair, target's number)
        shown = [pair for pair in self.pairs if not self.faults[pair]]
        firsts, seconds = [pair.first_image for pair in shown], [pair.second_image for pair in shown]
        self.answers = dict(zip(shown, self._heard(inspection.judge.judge(firsts, seconds)), strict=True))
        self.undecided = list(shown)  # pairs whose answer decides whether they are described
        if inspection.describe_rejected:
            self.undecided = []
            self._describe(self._panels_of(shown), shown)

    def advance(self) -> bool:
        """Ask for the texts of pairs that have just been accepted; return whether every answer is there, in `rows`.

        UserError where a question has shown that no more can be asked.
        """
        for future in self.futures():
            if future.done():
                future.result()
        decided = [pair for pair in self.undecided if self.answers[pair].done()]
        if decided:
            self.undecided = [pair for pair in self.undecided if pair not in decided]
            said = {pair: self.answers[pair].result() for pair in decided}
            same = [pair for pair, answer in said.items() if isinstance(answer, Judgement) and answer.same]
            used = self._panels_of(same)
            self._describe({panel: image for panel, image in used.items() if panel not in self.texts}, same)
        if self.undecided or not all(future.done() for future in self.futures()):
            return False  # an answer may have come since: its own call of `changed` is still ahead
        self._close()
        return True

    def futures(self) -> list[Future[Any]]:
        """List the answers that were asked for so far."""
        return [*self.answers.values(), *self.texts.values()]

    def _panels_of(self, pairs: Sequence[Candidate]) -> dict[Panel, Image.Image]:
        """List the panels of some pairs, each once."""
        return {panel: self.panels[panel] for pair in pairs for panel in pair.panels}

    def _describe(self, panels: Mapping[Panel, Image.Image], pairs: Sequence[Candidate]) -> None:
        """Ask for captions of panels, and for instructions in both directions of pairs."""
        judge, firsts, seconds = self.inspection.judge, [p.first_image for p in pairs], [p.second_image for p in pairs]
        captions = self._heard(judge.caption(list(panels.values())))
        to_first, to_second = self._heard(judge.instruct(seconds, firsts)), self._heard(judge.instruct(firsts, seconds))
        self.texts |= dict(zip(panels, captions, strict=True))
        self.texts |= {(pair, pair.first): text for pair, text in zip(pairs, to_first, strict=True)}
        self.texts |= {(pair, pair.second): text for pair, text in zip(pairs, to_second, strict=True)}

    def _heard(self, answers: Sequence[Any]) -> list[Future[Any]]:
        """Hear of every answer when it comes."""
        futures = as_futures(answers)
        for future in futures:
            future.add_done_callback(lambda _: self.changed(self))
        return futures

    def _close(self) -> None:
        """Make the rows, and let go of the pictures: a finished inquiry may wait for an earlier one."""
        texts = {name: future.result() for name, future in self.texts.items()}
        answers = {pair: future.result() for pair, future in self.answers.items()}
        said = (record(p, answers.get(p), texts, self.scores[p], self.faults[p]) for p in self.pairs)
        self.rows = [*self.failures, *said]
        self.pairs, self.undecided = [], []
        for pictures in (self.panels, self.scores, self.faults, self.texts, self.answers):
            pictures.clear()


def record(
    pair: Candidate,
    answer: Judgement | Refusal | None,
    texts: Mapping[Any, str | Refusal],
    scores: Mapping[str, float],
    fault: str,
) -> Verdict | Failure:
    """Make the stored record of an answer; `fault` says why the judge was not asked."""
    said = [texts.get(name, "") for name in (*pair.panels, (pair, pair.first), (pair, pair.second))]
    for refusal in (answer, *said):
        if isinstance(refusal, Refusal):
            return (Unanswered if refusal.unanswered else Failure)(pair.key, str(refusal))
    if answer is None:
        answer = Judgement("", "", "", False, "", {})
    assert isinstance(answer, Judgement)
    return Verdict(
        **pair.key,
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
    firsts, seconds = [panels[g][first] for g, first, _ in asked], [panels[g][second] for g, _, second in asked]
    futures = as_futures(judge.judge(seconds, firsts))
    try:
        answers = [future.result() for future in futures]
    finally:
        call_off(futures)
    said = {key: a.same for key, a in zip(asked, answers, strict=True) if isinstance(a, Judgement)}
    return said, sum(isinstance(a, Refusal) and a.unanswered for a in answers)
