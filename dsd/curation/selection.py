"""Decide which judged pairs are kept. This reads stored verdicts: thresholds can be swept without a judge."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dsd.curation.judge import Judge
from dsd.errors import UserError
from dsd.io.records import Verdict
from dsd.runs.messages import did_you_mean


@dataclass(frozen=True)
class Bounds:
    """Least and greatest values of scores by name; None is no bound."""

    minimum: Mapping[str, float | None] = field(default_factory=dict)  # such as {"confidence": 0.5}
    maximum: Mapping[str, float | None] = field(default_factory=dict)  # near-copies teach copying (SynCD)

    def __iter__(self) -> Iterator[tuple[str, int, float]]:
        """Yield (score, sign, bound); the sign is 1 for a minimum and -1 for a maximum."""
        for bounds, sign in ((self.minimum, 1), (self.maximum, -1)):
            yield from ((name, sign, bound) for name, bound in bounds.items() if bound is not None)

    def broken_by(self, scores: Mapping[str, float]) -> str:
        """Say which bound these scores break, "" if none. A score that was not given breaks its bound."""
        for name, sign, bound in self:
            side = "low" if sign > 0 else "high"
            if name not in scores:
                return f"no {name}: this score was not given, the bound is {bound:g}"
            if sign * scores[name] < sign * bound:
                return f"{side} {name}: {scores[name]:.3f}, the bound is {bound:g}"
        return ""


class Exclusion(Protocol):
    """Says of a verdict that its pair must not be learnt from, such as pairs of evaluation subjects."""

    judge: type[Judge]  # whose verdicts it can read

    def __call__(self, verdict: Verdict) -> bool: ...


@dataclass(frozen=True)
class Selection:
    """What makes a judged pair a training pair."""

    require_same: bool = True
    bounds: Bounds = field(default_factory=Bounds)
    exclude: Exclusion | None = None

    def rejection(self, verdict: Verdict) -> str:
        """Say why a pair is not kept, "" when it is. The class of the reason stands before a colon."""
        if verdict.defect:
            return f"{verdict.defect}: not shown to the judge"
        if self.require_same and not verdict.same:
            return f"not the same subject: {verdict.reason}"
        if broken := self.bounds.broken_by(json.loads(verdict.scores)):
            return broken
        if self.exclude is not None and self.exclude(verdict):
            return "evaluation subject: kept out of training"
        return ""

    def check_judge(self, judge: type[Judge]) -> None:
        """Raise UserError where `exclude` cannot read the verdicts of this judge."""
        wanted = getattr(self.exclude, "judge", None)
        if self.exclude is None or (isinstance(wanted, type) and issubclass(judge, wanted)):
            return
        reads = (
            f"reads verdicts of {wanted.__name__}"
            if isinstance(wanted, type)
            else "does not say whose verdicts it reads"
        )
        raise UserError(
            f"selection.exclude: {type(self.exclude).__name__} {reads}, but the judge is {judge.__name__}; "
            "choose selection.exclude=null"
        )


def check_scores(
    key: str, bounds: Bounds, known: Sequence[str], elsewhere: Callable[[], Mapping[str, str]] = dict
) -> None:
    """Raise UserError where bounds of the setting `key` name a score that is not in `known`.

    `elsewhere` tells which setting would give a score that nobody gives here.
    """
    for name, sign, _ in bounds:
        if name in known:
            continue
        side, remedies = "minimum" if sign > 0 else "maximum", elsewhere()
        near = did_you_mean(name, list(dict.fromkeys([*known, *remedies])))
        remedy = f" without {remedies[name]}" if name in remedies else near
        raise UserError(f"{key}.{side}.{name}: no such score{remedy}; the scores here are {', '.join(known)}")
