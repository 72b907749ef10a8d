"""Confidence intervals by resampling whole units: a reference with all its jobs, a grid with all its panel pairs.

The parts of a unit are not independent (one odd subject spoils all its jobs), so whole units are drawn, never parts.
Percentile bootstrap, 95 %. Where nothing varies (every job is right), the interval has no width; read n beside it.

R resamples, U units.
"""

import math
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike

LEVEL = (2.5, 97.5)


class Estimate(TypedDict):
    """A number with its 95 % interval; null where it is not defined (a share of nothing)."""

    value: float | None
    low: float | None
    high: float | None
    n: int  # what was counted: jobs, panels, pairs


def unit_weights(rng: np.random.Generator, num_units: int, num_resamples: int) -> np.ndarray:
    """Draw how often each unit counts in each resample, (1 + R, U).

    Row 0 is the sample itself. A statistic of the rows is therefore its estimate, then its bootstrap distribution.
    """
    if num_units == 0:
        return np.zeros((1 + num_resamples, 0))
    drawn = rng.multinomial(num_units, np.full(num_units, 1 / num_units), size=num_resamples)
    return np.concatenate([np.ones((1, num_units)), drawn])


def share(weights: np.ndarray, hits: ArrayLike, counts: ArrayLike) -> np.ndarray:
    """Divide hits by counts: (1 + R, U) weights, (U, ...) hits and (U, ...) counts of each unit -> (1 + R, ...)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        rates: np.ndarray = weights @ np.asarray(hits, float) / (weights @ np.asarray(counts, float))
    return rates


def estimate(distribution: np.ndarray, n: int) -> Estimate:
    """Convert a distribution (1 + R,), in the order of `unit_weights`, to an estimate with its interval."""
    finite = distribution[1:][np.isfinite(distribution[1:])]
    low, high = np.percentile(finite, LEVEL) if len(finite) else (math.nan, math.nan)
    value, low, high = (round(float(x), 4) if math.isfinite(x) else None for x in (distribution[0], low, high))
    return Estimate(value=value, low=low, high=high, n=n)
