"""Numbers by category of subject or kind of prompt, and the two ways in which papers put them together.

DreamBench++ averages over pictures (yuangpeng/dreambench_plus@df0b960, `benchmarking.py`). Others print the plain mean
of the columns. With 45 animals, 20 humans and 65 objects the two differ, so both are given and named.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from dsd.evaluate.names import Names, over_runs, run_means
from dsd.evaluate.scoring import Scored
from dsd.metrics.intervals import Estimate, estimate

Runs = Mapping[str, Sequence[Scored]]


def column_of(name: str, job: Scored, names: Names) -> str:
    """The column of a job's number: its kind of prompt, or its category of subject."""
    return job.kind if name in names.by_kind else job.category


def columns_of(runs: Runs, names: Names) -> dict[str, list[str]]:
    """List the columns of every number, in the order in which they come; only numbers that have several."""
    found = {}
    for name in names.names:
        if name not in names.products:
            columns = dict.fromkeys(column_of(name, job, names) for jobs in runs.values() for job in jobs)
            if len(there := [column for column in columns if column]) > 1:
                found[name] = there
    return found


def measure_columns(
    runs: Runs, columns: Mapping[str, Sequence[str]], names: Names, weights: np.ndarray, units: Mapping[str, int],
    drawn: np.ndarray, pictures: Mapping[str, np.ndarray],
) -> dict[str, Any]:  # fmt: skip
    """Estimate an arm's numbers by column, and their plain mean over columns.

    `pictures` has the means over pictures. A product of means is made of both; a factor without columns enters by its
    mean over pictures.
    """
    means: dict[str, np.ndarray] = {}
    found: dict[str, Any] = {}
    for name, every in columns.items():
        parts = {column: column_means(runs, name, column, names, weights, units, drawn) for column in every}
        counts = {column: count(runs, name, column, names) for column in every}
        means[name] = np.mean(list(parts.values()), axis=0)
        found[name] = {
            "columns": {column: estimate(samples, counts[column]) for column, samples in parts.items()},
            "mean": estimate(means[name], sum(counts.values())),
        }
    for name, factors in names.products.items():
        if any(factor in means for factor in factors):
            samples = prod(means.get(factor, pictures[factor]) for factor in factors)
            found[name] = {"columns": {}, "mean": estimate(np.asarray(samples), smallest(found, factors))}
    return found


def column_means(
    runs: Runs, name: str, column: str, names: Names, weights: np.ndarray, units: Mapping[str, int], drawn: np.ndarray
) -> np.ndarray:
    """Mean of a number over the pictures of a column, (1 + R,)."""
    one = Names((name,), (), {}, name)
    means = [
        run_means(weights, (job for job in jobs if column_of(name, job, names) == column), units, one)
        for jobs in runs.values()
    ]
    return over_runs(means, one, drawn)[name]


def count(runs: Runs, name: str, column: str, names: Names) -> int:
    """Count the jobs of a column that have a number."""
    return sum(name in job.scores and column_of(name, job, names) == column for jobs in runs.values() for job in jobs)


def smallest(found: Mapping[str, Any], factors: Sequence[str]) -> int:
    """Count of the rarest factor."""
    means: list[Estimate] = [found[factor]["mean"] for factor in factors if factor in found]
    return min(mean["n"] for mean in means)
