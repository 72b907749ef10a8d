"""The numbers of all measures together, and their means over jobs and runs.

R resamples.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from dsd.evaluate.scoring import Scored
from dsd.metrics.intervals import share
from dsd.metrics.measure import Scale

Distributions = dict[str, np.ndarray]  # by name: the mean and its resamples, (1 + R,)


@dataclass(frozen=True)
class Names:
    """The numbers of all measures together, and by which of them arms are compared."""

    names: tuple[str, ...]
    parts: tuple[str, ...]
    products: Mapping[str, tuple[str, ...]]
    compared: str
    by_kind: tuple[str, ...] = ()
    lower: tuple[str, ...] = ()  # of which less is better

    @property
    def measured(self) -> tuple[str, ...]:
        """What each picture has, without the products."""
        return tuple(name for name in (*self.names, *self.parts) if name not in self.products)


def all_names(scales: Iterable[Scale]) -> Names:
    """Put scales together. The first one's headline is what arms are compared by."""
    every = list(scales)
    return Names(
        names=tuple(name for scale in every for name in scale.names),
        parts=tuple(name for scale in every for name in scale.parts),
        products={name: factors for scale in every for name, factors in scale.products.items()},
        compared=every[0].headline,
        by_kind=tuple(name for scale in every for name in scale.by_kind),
        lower=tuple(name for scale in every for name in scale.lower),
    )


def run_means(weights: np.ndarray, jobs: Iterable[Scored], units: Mapping[str, int], names: Names) -> Distributions:
    """Mean over jobs of every number, (1 + R,) each; a job without a number does not count for it."""
    return dict(zip(names.measured, share(weights, *sums_of(jobs, units, names)).T))


def sums_of(jobs: Iterable[Scored], units: Mapping[str, int], names: Names) -> tuple[np.ndarray, np.ndarray]:
    """Sum every number over the jobs of each of U units, and count them: twice (U, names.measured)."""
    sums, counts = np.zeros((2, len(units), len(names.measured)))
    for job in jobs:
        sums[units[job.unit]] += [job.scores.get(name, 0.0) for name in names.measured]
        counts[units[job.unit]] += [name in job.scores for name in names.measured]
    return sums, counts


def products(means: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """The products of means."""
    return {name: prod(means[factor] for factor in factors) for name, factors in names.products.items()}


def draw_runs(num_runs: int, num_resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Draw an arm's runs for every resample, (runs, 1 + R). The first column has each run once."""
    drawn = rng.integers(num_runs, size=(num_runs, 1 + num_resamples))
    drawn[:, 0] = range(num_runs)
    return drawn


def over_runs(means: Sequence[Distributions], names: Names, drawn: np.ndarray) -> Distributions:
    """Mean over an arm's runs, (1 + R,) each, the runs as `draw_runs` drew them; and the products of the means."""
    arm = {name: np.take_along_axis(np.stack([run[name] for run in means]), drawn, 0).mean(0) for name in means[0]}
    return arm | products(arm, names)
