"""How often the judge and the selection were right, where a measure knows whether two panels show one subject."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from dsd.errors import UserError
from dsd.evaluate.consistency import ScoredGrid
from dsd.evaluate.records import scores_of
from dsd.io.inputs import first_problem
from dsd.io.records import reason_class
from dsd.metrics.classification import Classification

PairKey = tuple[int, int, int]  # grid, first panel < second panel


@dataclass(frozen=True)
class Judged:
    """Two panels that are meant to go together, without direction."""

    grid: int
    said_same: bool  # by the judge
    kept: bool  # by the selection, in either direction
    is_same: bool  # by the measure, which is the truth here
    similarity: float | None
    shown: bool = True  # to the judge; False where a cheap filter discarded the pair before
    passes: Mapping[str, bool] = field(default_factory=dict)  # by filter, each by itself


def pair_key(row: Mapping[str, Any]) -> PairKey:
    """Name the panels of a Pair, the same for both directions."""
    first, second = sorted((row["reference_panel"], row["target_panel"]))
    return row["grid"], first, second


Filter = Callable[[Mapping[str, float]], bool]  # a pair's scores -> whether it passes


def filters(config: Mapping[str, Any]) -> Mapping[str, Filter]:
    """Make a filter of every bound in a curation's config. A pair that has no such score does not pass."""
    parts = [bounds_of(part, config.get(part) or {}) for part in ("prefilter", "selection")]
    least = [(name, bound) for part in parts for name, bound in part.minimum.items() if bound is not None]
    most = [(name, bound) for part in parts for name, bound in part.maximum.items() if bound is not None]
    return {f"{name} ≥ {bound:g}": partial(_within, name, bound, np.inf) for name, bound in least} | {
        f"{name} ≤ {bound:g}": partial(_within, name, -np.inf, bound) for name, bound in most
    }


class Bounds(BaseModel):
    """The bounds of a filter in a curation's config, by score; None is no bound."""

    minimum: dict[str, float | None] = {}
    maximum: dict[str, float | None] = {}


def bounds_of(part: str, config: Any) -> Bounds:
    """Read the bounds of a part of a curation's config. UserError where it is damaged."""
    try:
        given = (
            {key: value for key, value in config.items() if value is not None} if isinstance(config, dict) else config
        )
        return Bounds.model_validate(given)
    except ValidationError as error:
        raise UserError(f"the config of curated=: {part}: {first_problem(error)}") from error


def _within(name: str, low: float, high: float, scores: Mapping[str, float]) -> bool:
    return name in scores and low <= scores[name] <= high


def join(
    verdicts: Iterable[Mapping[str, Any]],
    kept: set[PairKey],
    left_out: set[PairKey],
    grids: Mapping[int, ScoredGrid],
    bounds: Mapping[str, Filter],
) -> list[Judged]:
    """Join the verdicts on pairs that are meant to go together with what became of the pairs and with the truth.

    Pairs excluded as evaluation subjects (`left_out`) are skipped; they say nothing about the judge.
    """
    found = []
    for row in verdicts:
        key = row["grid"], row["first"], row["second"]
        if not grids[row["grid"]].paired or key in left_out:
            continue
        where = f"verdict on panels {row['first'] + 1} and {row['second'] + 1} of grid {row['grid']}"
        scores, same_subject = scores_of(row["scores"], where), grids[row["grid"]].scores.same_subject
        if (row["first"], row["second"]) not in same_subject:
            raise UserError(f"{where}: the grid has no such panels; curate again")
        found.append(
            Judged(
                row["grid"],
                row["same"],
                key in kept,
                same_subject[row["first"], row["second"]],
                scores.get("similarity"),
                not row["defect"],
                {name: passes(scores) for name, passes in bounds.items()},
            )
        )
    return found


def measure_curation(every: Sequence[Judged], num_resamples: int, rng: np.random.Generator) -> dict[str, Any]:
    """Classify by `kept`, by the judge's `same` and by similarity alone, and by each filter. Units are grids.

    All but the filters are over the pairs that the judge was shown. Filters are over all pairs, each filter by itself
    and all of them together.
    """
    found = measure_judged([pair for pair in every if pair.shown], num_resamples, rng)
    classify = classification(every, num_resamples, rng)
    passed = {name: [pair.passes[name] for pair in every] for name in (every[0].passes if every else ())}
    passed |= {"the judge says same": [pair.said_same for pair in every], "all together": [p.kept for p in every]}
    return {**found, "filters": {name: classify(np.array(chosen, bool)) for name, chosen in passed.items()}}


def classification(pairs: Sequence[Judged], num_resamples: int, rng: np.random.Generator) -> Classification:
    """Compare decisions about these pairs with whether they show one subject."""
    truth = np.array([pair.is_same for pair in pairs], bool)
    return Classification(truth, [pair.grid for pair in pairs], num_resamples, rng)


def measure_judged(judged: Sequence[Judged], num_resamples: int, rng: np.random.Generator) -> dict[str, Any]:
    """Classify by the judge, by the selection, and by similarity alone at two thresholds.

    The threshold with the best F1 is chosen on these very pairs, which flatters it. The other one is the highest that
    recalls as much as the judge.
    """
    classify = classification(judged, num_resamples, rng)
    said_same = np.array([pair.said_same for pair in judged], bool)
    found: dict[str, Any] = {
        "num_pairs": len(judged),
        "num_same": int(classify.truth.sum()),
        "kept": classify(np.array([pair.kept for pair in judged], bool)),
        "verdict_same": classify(said_same),
    }
    if judged and classify.truth.any() and all(pair.similarity is not None for pair in judged):
        similarity = np.array([pair.similarity for pair in judged], float)
        for name, threshold in thresholds(similarity, classify.truth, said_same).items():
            found[f"similarity_{name}"] = {"threshold": round(threshold, 5), **classify(similarity >= threshold)}
    return found


def thresholds(similarity: np.ndarray, truth: np.ndarray, said_same: np.ndarray) -> dict[str, float]:
    """Find two thresholds from (P,) each: the one with the best F1, and the highest one with the judge's recall."""
    order = np.argsort(-similarity)
    last = np.append(np.diff(similarity[order]) != 0, True)  # equal similarities are kept or rejected together
    candidates, kept, hits = similarity[order][last], np.flatnonzero(last) + 1, np.cumsum(truth[order])[last]
    f1 = 2 * hits / (kept + truth.sum())
    enough = hits >= (said_same & truth).sum()
    return {"best_f1": float(candidates[f1.argmax()]), "at_judge_recall": float(candidates[enough.argmax()])}


def count_reasons(rejections: Iterable[str]) -> dict[str, int]:
    """Count rejected directed pairs by class of reason, the most frequent first."""
    return dict(Counter(map(reason_class, rejections)).most_common())
