"""Agreement of raters: Krippendorff's alpha and rank correlations, with intervals by resampling units.

M raters, N ratings of U units (a subject with all its pictures, a grid with all its pairs); R resamples.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import krippendorff
import numpy as np
from scipy.stats import kendalltau, spearmanr

from dsd.metrics.intervals import Estimate, estimate, unit_weights

Level = Literal["nominal", "ordinal", "interval"]
RANKINGS = ("accuracy", "kendalltau", "spearmanr", "footrule_distance", "top1_accuracy", "bottom1_accuracy")


def alpha(
    ratings: np.ndarray, units: Sequence[object], level: Level, num_resamples: int, rng: np.random.Generator
) -> Estimate:
    """Krippendorff's alpha of ratings (M, N), nan where a rater did not rate. `n` counts what two or more rated."""
    unit = np.unique([str(name) for name in units], return_inverse=True)[1]
    weights = unit_weights(rng, int(unit.max(initial=-1)) + 1, num_resamples)
    shared = int(((~np.isnan(ratings)).sum(axis=0) >= 2).sum())
    return estimate(alpha_samples(ratings, unit, weights, level), shared)


def alpha_samples(ratings: np.ndarray, unit: np.ndarray, weights: np.ndarray, level: Level) -> np.ndarray:
    """Alpha in every resample, (1 + R,), of ratings (M, N) whose units are numbered (N,); weights (1 + R, U)."""
    ratings = np.asarray(ratings, float)
    values = np.unique(ratings[~np.isnan(ratings)])
    counts = np.stack([(ratings == value).sum(axis=0) for value in values], axis=1) if len(values) else None
    if counts is None:
        return np.full(len(weights), np.nan)
    return np.array([alpha_of(np.repeat(counts, row[unit].astype(int), axis=0), values, level) for row in weights])


def alpha_of(counts: np.ndarray, values: np.ndarray, level: Level) -> float:
    """Alpha from how often each of the values (V,) was given to each item, (N, V); nan where it is not defined."""
    used = counts.sum(axis=0) > 0
    if used.sum() < 2 or not (counts.sum(axis=1) >= 2).any():
        return float("nan")
    with np.errstate(invalid="ignore", divide="ignore"):
        found = krippendorff.alpha(value_counts=counts[:, used], value_domain=values[used], level_of_measurement=level)
    return float(found)


def table_of(raters: Sequence[Mapping[str, float]]) -> tuple[np.ndarray, list[str]]:
    """Put raters' ratings by item in one table: (M, N), nan where a rater has none, and the items' names."""
    items = sorted({item for ratings in raters for item in ratings})
    return np.array([[ratings.get(item, np.nan) for item in items] for ratings in raters]), items


def ranking_agreement(scores: Sequence[float], best_first: Sequence[int]) -> dict[str, float]:
    """Compare a ranking by scores (C,) with people's, by ConsistencyRank-Bench's numbers.

    `best_first` lists the candidates' positions, the best one first. As in X-GenGroup/PaCo-RL@9761314
    (PaCo-Reward/evaluation/Consistency_Rank/eval.py), tau and rho compare the two lists of positions.
    """
    said, truth = np.argsort(np.asarray(scores), kind="stable")[::-1], np.asarray(best_first)
    place = {int(candidate): rank for rank, candidate in enumerate(said)}
    return {
        "accuracy": float((said == truth).mean()),
        "kendalltau": float(kendalltau(said, truth).statistic),
        "spearmanr": float(spearmanr(said, truth).statistic),
        "footrule_distance": float(sum(abs(place[int(c)] - rank) for rank, c in enumerate(truth))),
        "top1_accuracy": float(said[0] == truth[0]),
        "bottom1_accuracy": float(said[-1] == truth[-1]),
    }


def mean_of(values: Sequence[float], units: Sequence[object], num_resamples: int, rng: np.random.Generator) -> Estimate:
    """Mean of values (N,), units resampled."""
    unit = np.unique([str(name) for name in units], return_inverse=True)[1]
    weights = unit_weights(rng, int(unit.max(initial=-1)) + 1, num_resamples)
    sums, counts = np.bincount(unit, np.asarray(values, float)), np.bincount(unit)
    with np.errstate(invalid="ignore"):
        return estimate(weights @ sums / (weights @ counts), len(values))
