"""Numbers of whole arms of an experiment, with intervals, and comparisons between arms.

An arm ("student") is one or several runs with different seeds ("student/0", "student/1"). References are drawn anew
for each resample, the same ones for all arms, so that comparisons are paired; an arm's runs are drawn anew as well.

R resamples.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np

from dsd.evaluate.columns import columns_of, measure_columns
from dsd.evaluate.comparisons import asked, compare
from dsd.evaluate.names import Names, all_names, draw_runs, over_runs, products, run_means
from dsd.evaluate.scoring import Scored
from dsd.evaluate.settings import arm_of
from dsd.metrics.intervals import estimate, unit_weights

__all__ = ["all_names", "measure_arms"]


def measure_arms(
    scored: Mapping[str, Sequence[Scored]],
    names: Names,
    num_resamples: int,
    rng: np.random.Generator,
    baseline: str | None = None,
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Estimate the numbers of every arm and the comparisons between arms from the scored jobs of every run."""
    units = {name: i for i, name in enumerate(dict.fromkeys(job.unit for jobs in scored.values() for job in jobs))}
    weights = unit_weights(rng, len(units), num_resamples)
    runs_of: dict[str, dict[str, Sequence[Scored]]] = {}
    for run, jobs in scored.items():
        runs_of.setdefault(arm_of(run), {})[run] = jobs
    drawn = {arm: draw_runs(len(runs), num_resamples, rng) for arm, runs in runs_of.items()}
    columns = columns_of(scored, names)

    arms: dict[str, dict[str, Any]] = {}
    for arm, runs in runs_of.items():
        means = {run: run_means(weights, jobs, units, names) for run, jobs in runs.items()}
        over = over_runs(list(means.values()), names, drawn[arm])
        counts = count_scores([job for jobs in runs.values() for job in jobs], names)
        estimates = {name: estimate(samples, counts[name]) for name, samples in over.items()}
        single = {run: of_run(means[run], names) for run in runs}
        arms[arm] = {
            **{name: estimates[name] for name in names.names},
            "attributes": {name: estimates[name] for name in names.parts},
            "runs": single,
            "deviation": {name: deviation([run[name] for run in single.values()]) for name in names.names},
            "by": measure_columns(runs, columns, names, weights, units, drawn[arm], over),
        }
    comparisons = {
        f"{arm} {sign} {other}": compare(
            (runs_of[arm], drawn[arm]), (runs_of[other], drawn[other]), sign, names, weights, units
        )
        for arm, sign, other in asked(list(runs_of), baseline)
    }
    return arms, comparisons


def count_scores(jobs: Sequence[Scored], names: Names) -> dict[str, int]:
    """Count the jobs that have each number; a product counts as often as its rarest factor."""
    counts = {name: sum(name in job.scores for job in jobs) for name in names.measured}
    return counts | {name: min(counts[factor] for factor in factors) for name, factors in names.products.items()}


def of_run(means: Mapping[str, np.ndarray], names: Names) -> dict[str, float | None]:
    """The numbers of one run by itself, without intervals."""
    values = {name: float(samples[0]) for name, samples in means.items()}
    values |= products(values, names)
    return {name: round(values[name], 4) if isfinite(values[name]) else None for name in names.names}


def deviation(values: Sequence[float | None]) -> float | None:
    """Sample standard deviation over runs; None for a single run."""
    known = [value for value in values if value is not None]
    return round(float(np.std(known, ddof=1)), 4) if len(known) > 1 else None
