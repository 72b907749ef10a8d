"""How good the judge and the selection were, against the recogniser's word."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsd.bootstrap import estimate, share, unit_weights
from dsd.evaluate.sheets import Sheet, same_subject

PairKey = tuple[int, int, int]  # grid, first panel < second panel


@dataclass(frozen=True)
class Judged:
    """An unordered panel pair of a "same" sheet that the judge was shown."""

    grid: int
    said_same: bool  # the judge
    kept: bool  # the selection, in either direction
    is_same: bool  # the recogniser: the truth here
    similarity: float | None


def reason_class(rejection: str) -> str:
    """ "low confidence: 0.312, the bound is 0.5" -> "low confidence"."""
    return rejection.split(":", 1)[0].strip()


def pair_key(row: Mapping[str, Any]) -> PairKey:
    """Of a Pair: the same for both directions."""
    first, second = sorted((row["reference_panel"], row["target_panel"]))
    return row["grid"], first, second


def join(
    verdicts: Iterable[Mapping[str, Any]], kept: set[PairKey], left_out: set[PairKey], sheets: Mapping[int, Sheet]
) -> list[Judged]:
    """Verdicts of "same" sheets with what became of them and the truth.

    Without those that a cheap filter gave, and without pairs left out for whom they show, not for how alike: both say
    nothing of judging.
    """
    return [
        Judged(
            row["grid"],
            row["same"],
            (row["grid"], row["first"], row["second"]) in kept,
            same_subject(*(sheets[row["grid"]].readings[row[panel]] for panel in ("first", "second"))),
            json.loads(row["scores"]).get("similarity"),
        )
        for row in verdicts
        if not row["defect"]
        and sheets[row["grid"]].relation == "same"
        and (row["grid"], row["first"], row["second"]) not in left_out
    ]


def measure_curation(judged: Sequence[Judged], num_resamples: int, rng: np.random.Generator) -> dict[str, Any]:
    """Precision and recall of `kept`, of the judge's `same`, and of similarity alone, at two thresholds.

    Similarity alone keeps what is at or above a threshold: the one with the best F1 (chosen on these very pairs, which
    flatters it), and the highest one that recalls as much as the judge. Units are sheets.
    """
    truth = np.array([pair.is_same for pair in judged], bool)
    said_same = np.array([pair.said_same for pair in judged], bool)
    _, unit = np.unique([pair.grid for pair in judged], return_inverse=True)
    weights = unit_weights(rng, int(unit.max(initial=-1)) + 1, num_resamples)

    def count(chosen: np.ndarray) -> np.ndarray:
        return np.bincount(unit, chosen, minlength=weights.shape[1])

    def quality(chosen: np.ndarray) -> dict[str, Any]:
        hits = count(chosen & truth)
        return {
            "precision": estimate(share(weights, hits, count(chosen)), int(chosen.sum())),
            "recall": estimate(share(weights, hits, count(truth)), int(truth.sum())),
        }

    found = {
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
