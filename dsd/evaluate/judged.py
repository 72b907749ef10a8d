"""How good the judge and the selection were, against the recogniser's word."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from dsd.evaluate.sheets import Sheet, same_subject
from dsd.metrics.intervals import estimate, share, unit_weights

PairKey = tuple[int, int, int]  # grid, first panel < second panel


@dataclass(frozen=True)
class Judged:
    """An unordered panel pair of a "same" sheet."""

    grid: int
    said_same: bool  # the judge
    kept: bool  # the selection, in either direction
    is_same: bool  # the recogniser: the truth here
    similarity: float | None
    shown: bool = True  # to the judge: no cheap filter threw it out
    passes: Mapping[str, bool] = field(default_factory=dict)  # by filter, each by itself


def reason_class(rejection: str) -> str:
    """ "low confidence: 0.312, the bound is 0.5" -> "low confidence"."""
    return rejection.split(":", 1)[0].strip()


def pair_key(row: Mapping[str, Any]) -> PairKey:
    """Of a Pair: the same for both directions."""
    first, second = sorted((row["reference_panel"], row["target_panel"]))
    return row["grid"], first, second


Filter = Callable[[Mapping[str, float]], bool]  # a pair's scores -> whether it passes


def filters(config: Mapping[str, Any]) -> Mapping[str, Filter]:
    """The bounds of a curation's config, each by itself. A pair thrown out before it had a score does not pass."""
    parts = [config.get(part) or {} for part in ("prefilter", "selection")]
    least = [bound for part in parts for bound in (part.get("minimum") or {}).items()]
    most = [bound for part in parts for bound in (part.get("maximum") or {}).items()]
    return {f"{name} ≥ {bound:g}": partial(_within, name, bound, np.inf) for name, bound in least} | {
        f"{name} ≤ {bound:g}": partial(_within, name, -np.inf, bound) for name, bound in most
    }


def _within(name: str, low: float, high: float, scores: Mapping[str, float]) -> bool:
    return name in scores and low <= scores[name] <= high


def join(
    verdicts: Iterable[Mapping[str, Any]],
    kept: set[PairKey],
    left_out: set[PairKey],
    sheets: Mapping[int, Sheet],
    bounds: Mapping[str, Filter],
) -> list[Judged]:
    """Verdicts of "same" sheets with what became of them and the truth.

    Without pairs left out for whom they show, not for how alike: that says nothing of judging.
    """
    found = []
    for row in verdicts:
        key = row["grid"], row["first"], row["second"]
        if sheets[row["grid"]].relation != "same" or key in left_out:
            continue
        scores = json.loads(row["scores"])
        found.append(
            Judged(
                row["grid"],
                row["same"],
                key in kept,
                same_subject(*(sheets[row["grid"]].readings[row[panel]] for panel in ("first", "second"))),
                scores.get("similarity"),
                not row["defect"],
                {name: passes(scores) for name, passes in bounds.items()},
            )
        )
    return found


def measure_curation(every: Sequence[Judged], num_resamples: int, rng: np.random.Generator) -> dict[str, Any]:
    """Precision and recall of `kept`, of the judge's `same`, and of similarity alone, at two thresholds.

    All of that is of pairs that the judge was shown; `filters` are of all pairs, each filter by itself, and all of them
    together. Similarity alone keeps what is at or above a threshold: the one with the best F1 (chosen on these very
    pairs, which flatters it), and the highest one that recalls as much as the judge. Units are sheets.
    """
    judged = [pair for pair in every if pair.shown]
    found = measure_judged(judged, num_resamples, rng)
    count = Quality(every, num_resamples, rng)
    passed = {name: [pair.passes[name] for pair in every] for name in (every[0].passes if every else ())}
    passed |= {"the judge says same": [pair.said_same for pair in every], "all together": [p.kept for p in every]}
    return {**found, "filters": {name: count(np.array(chosen, bool)) for name, chosen in passed.items()}}


class Quality:
    """Precision and recall of chosen pairs, with intervals by resampling sheets."""

    def __init__(self, pairs: Sequence[Judged], num_resamples: int, rng: np.random.Generator) -> None:
        self.truth = np.array([pair.is_same for pair in pairs], bool)
        _, self.unit = np.unique([pair.grid for pair in pairs], return_inverse=True)
        self.weights = unit_weights(rng, int(self.unit.max(initial=-1)) + 1, num_resamples)

    def __call__(self, chosen: np.ndarray) -> dict[str, Any]:
        """(P,) of bool -> their precision and recall."""
        hits = self._count(chosen & self.truth)
        return {
            "precision": estimate(share(self.weights, hits, self._count(chosen)), int(chosen.sum())),
            "recall": estimate(share(self.weights, hits, self._count(self.truth)), int(self.truth.sum())),
        }

    def _count(self, chosen: np.ndarray) -> np.ndarray:
        return np.bincount(self.unit, chosen, minlength=self.weights.shape[1])


def measure_judged(judged: Sequence[Judged], num_resamples: int, rng: np.random.Generator) -> dict[str, Any]:
    """The judge and the selection, over the pairs that the judge was shown."""
    truth = np.array([pair.is_same for pair in judged], bool)
    said_same = np.array([pair.said_same for pair in judged], bool)
    quality = Quality(judged, num_resamples, rng)
    found: dict[str, Any] = {
        "num_pairs": len(judged),
        "num_same": int(truth.sum()),
        "kept": quality(np.array([pair.kept for pair in judged], bool)),
        "verdict_same": quality(said_same),
    }
    if judged and truth.any() and all(pair.similarity is not None for pair in judged):
        similarity = np.array([pair.similarity for pair in judged], float)
        for name, threshold in thresholds(similarity, truth, said_same).items():
            found[f"similarity_{name}"] = {"threshold": round(threshold, 5), **quality(similarity >= threshold)}
    return found


def thresholds(similarity: np.ndarray, truth: np.ndarray, said_same: np.ndarray) -> dict[str, float]:
    """(P,) each -> the threshold with the best F1, and the highest one with at least the judge's recall."""
    order = np.argsort(-similarity)
    last = np.append(np.diff(similarity[order]) != 0, True)  # equal similarities are kept or rejected together
    candidates, kept, hits = similarity[order][last], np.flatnonzero(last) + 1, np.cumsum(truth[order])[last]
    f1 = 2 * hits / (kept + truth.sum())
    enough = hits >= (said_same & truth).sum()
    return {"best_f1": float(candidates[f1.argmax()]), "at_judge_recall": float(candidates[enough.argmax()])}


def count_reasons(rejections: Iterable[str]) -> dict[str, int]:
    """Rejected directed pairs by class of reason, most frequent first."""
    return dict(Counter(map(reason_class, rejections)).most_common())
