"""Numbers of whole arms of an experiment, with intervals, and comparisons between arms.

An arm ("student") is one or several runs with different seeds ("student/0", "student/1"). References are drawn anew
for each resample, the same ones for all arms, so that comparisons are paired; an arm's runs are drawn anew as well.

R resamples.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any

import numpy as np

from dsd.evaluate.scoring import Scored
from dsd.evaluate.settings import arm_of
from dsd.metrics.intervals import Estimate, estimate, share, unit_weights
from dsd.metrics.measure import Scale

CURATED = ("curated", "student")  # either name means the student on the pairs that curation kept
COMPARISONS = (("student", "/", "text_only"), ("student", "-", "uncurated"), ("student", "/", "oracle"))


@dataclass(frozen=True)
class Names:
    """The numbers of all measures together, and by which of them arms are compared."""

    names: tuple[str, ...]
    parts: tuple[str, ...]
    products: Mapping[str, tuple[str, ...]]
    compared: str

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
    )


def measure_arms(
    scored: Mapping[str, Sequence[Scored]],
    names: Names,
    num_resamples: int,
    rng: np.random.Generator,
    baseline: str | None = None,
) -> tuple[dict[str, Any], dict[str, Estimate]]:
    """Estimate the numbers of every arm and the comparisons between arms from the scored jobs of every run."""
    units = {name: i for i, name in enumerate(dict.fromkeys(job.unit for jobs in scored.values() for job in jobs))}
    weights = unit_weights(rng, len(units), num_resamples)
    means = {run: run_means(weights, jobs, units, names) for run, jobs in scored.items()}
    runs_of: dict[str, list[str]] = {}
    for run in scored:
        runs_of.setdefault(arm_of(run), []).append(run)

    distributions = {arm: over_runs([means[run] for run in runs], names, rng) for arm, runs in runs_of.items()}
    arms: dict[str, dict[str, Any]] = {}
    for arm, runs in runs_of.items():
        counts = count_scores([job for run in runs for job in scored[run]], names)
        estimates = {name: estimate(samples, counts[name]) for name, samples in distributions[arm].items()}
        arms[arm] = {
            **{name: estimates[name] for name in names.names},
            "attributes": {name: estimates[name] for name in names.parts},
            "runs": {run: of_run(means[run], names) for run in runs},
        }
    compared = {arm: samples[names.compared] for arm, samples in distributions.items()}
    return arms, compare(compared, {arm: row[names.compared]["n"] for arm, row in arms.items()}, baseline)


def run_means(
    weights: np.ndarray, jobs: Sequence[Scored], units: Mapping[str, int], names: Names
) -> dict[str, np.ndarray]:
    """Mean over jobs of every number, (1 + R,) each; a job without a number does not count for it."""
    sums, counts = np.zeros((2, len(units), len(names.measured)))
    for job in jobs:
        sums[units[job.unit]] += [job.scores.get(name, 0.0) for name in names.measured]
        counts[units[job.unit]] += [name in job.scores for name in names.measured]
    return dict(zip(names.measured, share(weights, sums, counts).T))


def count_scores(jobs: Sequence[Scored], names: Names) -> dict[str, int]:
    """Count the jobs that have each number; a product counts as often as its rarest factor."""
    counts = {name: sum(name in job.scores for job in jobs) for name in names.measured}
    return counts | {name: min(counts[factor] for factor in factors) for name, factors in names.products.items()}


def of_run(means: Mapping[str, np.ndarray], names: Names) -> dict[str, float | None]:
    """The numbers of one run by itself, without intervals."""
    values = {name: float(samples[0]) for name, samples in means.items()}
    values |= products(values, names)
    return {name: round(values[name], 4) if isfinite(values[name]) else None for name in names.names}


def products(means: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """The products of means."""
    return {name: prod(means[factor] for factor in factors) for name, factors in names.products.items()}


def over_runs(
    means: Sequence[Mapping[str, np.ndarray]], names: Names, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Mean over an arm's runs, (1 + R,) each, the runs drawn anew for every resample; and the products of the means."""
    size = len(next(iter(means[0].values())))
    drawn = rng.integers(len(means), size=(len(means), size))
    drawn[:, 0] = range(len(means))
    arm = {name: np.take_along_axis(np.stack([run[name] for run in means]), drawn, 0).mean(0) for name in means[0]}
    return arm | products(arm, names)


def compare(
    compared: Mapping[str, np.ndarray], counts: Mapping[str, int], baseline: str | None = None
) -> dict[str, Estimate]:
    """Compare one number (1 + R,) between arms: {"student / oracle": ...}.

    With a baseline, every other arm minus the baseline; without one, the curated student by COMPARISONS.
    """
    student = next((name for name in CURATED if name in compared), None)
    asked = [(student, sign, other) for _, sign, other in COMPARISONS if student and other in compared]
    if baseline is not None:
        asked = [(arm, "-", baseline) for arm in compared if arm != baseline]
    comparisons = {}
    for arm, sign, other in asked:
        with np.errstate(invalid="ignore", divide="ignore"):
            ours, theirs = compared[arm], compared[other]
            samples = ours / theirs if sign == "/" else ours - theirs
        comparisons[f"{arm} {sign} {other}"] = estimate(samples, min(counts[arm], counts[other]))
    return comparisons
