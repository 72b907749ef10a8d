"""Which judged pairs are kept. Instant: it reads stored verdicts, so thresholds can be swept without a judge."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dsd.errors import UserError
from dsd.records import Verdict


@dataclass(frozen=True)
class Selection:
    """Thresholds on a verdict; a score that a judge does not give is refused when a bound names it."""

    require_same: bool = True
    minimum: dict[str, float] = field(default_factory=dict)  # by score, such as {"confidence": 0.5}
    maximum: dict[str, float] = field(default_factory=dict)  # {"similarity": 0.995}: near-copies teach copying (SynCD)
    exclude: Callable[[Verdict], bool] | None = None  # pairs that must not be learnt from: evaluation subjects

    def rejection(self, verdict: Verdict) -> str:
        """Why a pair is not kept, "" when it is. The reason's class stands before a colon."""
        if verdict.defect:
            return f"{verdict.defect}: not shown to the judge"
        if self.require_same and not verdict.same:
            return f"not the same subject: {verdict.reason}"
        if outside := self.out_of_bounds(json.loads(verdict.scores)):
            return outside
        if self.exclude is not None and self.exclude(verdict):
            return "evaluation subject: kept out of training"
        return ""

    def out_of_bounds(self, scores: Mapping[str, float]) -> str:
        """Which bound a pair's scores break, "" if none."""
        for bounds, sign in ((self.minimum, 1), (self.maximum, -1)):
            for name, bound in bounds.items():
                if name not in scores:
                    given = ", ".join(scores) or "none"
                    raise UserError(f"selection names the score {name!r}; this judge gives {given}")
                if sign * scores[name] < sign * bound:
                    side = "low" if sign > 0 else "high"
                    return f"{side} {name}: {scores[name]:.3f}, the bound is {bound:g}"
        return ""
