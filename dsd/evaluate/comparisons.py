"""Compare arms pairwise on the jobs that they have in common.

R resamples, U units (references).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dsd.evaluate.names import Names, over_runs, products, run_means, sums_of
from dsd.evaluate.scoring import Scored, keys_of
from dsd.metrics.intervals import estimate, share

CURATED = ("curated", "student")  # either name means the student on the pairs that curation kept
COMPARISONS = (
    ("student", "/", "text_only"), ("student", "-", "zero_shot"), ("student", "-", "uncurated"),
    ("student", "/", "oracle"),
)  # fmt: skip
Runs = Mapping[str, Sequence[Scored]]


def asked(arms: Sequence[str], baseline: str | None) -> list[tuple[str, str, str]]:
    """List the comparisons: every other arm minus the baseline, or without one the student by COMPARISONS."""
    if baseline is not None:
        return [(arm, "-", baseline) for arm in arms if arm != baseline]
    student = next((name for name in CURATED if name in arms), None)
    return [(student, sign, other) for _, sign, other in COMPARISONS if student and other in arms]


def compare(
    ours: tuple[Runs, np.ndarray], theirs: tuple[Runs, np.ndarray], sign: str, names: Names, weights: np.ndarray,
    units: Mapping[str, int],
) -> dict[str, Any]:  # fmt: skip
    """Compare two arms by one number, on their common jobs. An arm is its runs, and how they are drawn (runs, 1 + R).

    An estimate of the difference or ratio; beside it the common jobs (n) and subjects, the share of subjects that the
    first arm wins (a tie is half), and whether the interval tells the two apart.
    """
    common = set.intersection(*(keys_of(jobs) for runs, _ in (ours, theirs) for jobs in runs.values()))
    pairs = [
        ({run: [job for job in jobs if (job.unit, job.prompt) in common] for run, jobs in runs.items()}, drawn)
        for runs, drawn in (ours, theirs)
    ]
    means = [
        over_runs([run_means(weights, jobs, units, names) for jobs in runs.values()], names, drawn)[names.compared]
        for runs, drawn in pairs
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        samples = means[0] / means[1] if sign == "/" else means[0] - means[1]
    found = estimate(samples, len(common))
    low, high, even = found["low"], found["high"], 1 if sign == "/" else 0
    apart = low is not None and high is not None and not low <= even <= high
    return {**found, **wins(pairs[0][0], pairs[1][0], names, weights, units), "apart": apart}


def wins(ours: Runs, theirs: Runs, names: Names, weights: np.ndarray, units: Mapping[str, int]) -> dict[str, Any]:
    """Estimate the share of subjects on which one arm's number is better than the other's."""
    first, second = by_unit(ours, units, names), by_unit(theirs, units, names)
    known = np.isfinite(first) & np.isfinite(second)
    tied = np.isclose(first, second, rtol=0, atol=1e-9)
    better = first < second if names.compared in names.lower else first > second
    won = np.where(known, np.where(tied, 0.5, better), 0.0)
    number = int(known.sum())
    return {"won": estimate(share(weights, won, known), number), "subjects": number}


def by_unit(runs: Runs, units: Mapping[str, int], names: Names) -> np.ndarray:
    """The compared number of every unit over all runs, (U,); nan where it has none."""
    sums, counts = sums_of([job for jobs in runs.values() for job in jobs], units, names)
    with np.errstate(invalid="ignore"):
        means = dict(zip(names.measured, (sums / counts).T))
    values: np.ndarray = (means | products(means, names))[names.compared]
    return values
