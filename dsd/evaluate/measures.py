"""CP and PF of pictures made from a reference and a prompt, and of whole arms of an experiment.

CP, concept preservation: share of the *unnamed* attributes (those that only the reference carries) that the recogniser
reads as they are in truth. CP_strict: 1 where all of them are right, else 0. PF, prompt following: share of the
context's attributes that the prompt settles, read as the prompt says. CPxPF: product of the two means over jobs, as
DreamBench++ aggregates (arXiv 2406.16855). named: share of the subject's named attributes that are right.

An arm ("student") is one or several runs with different seeds ("student/0", "student/1"). References are drawn anew
for each resample, the same ones for all arms, so that comparisons are paired; an arm's runs are drawn anew as well.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from dsd.evaluate.recogniser import Reading
from dsd.metrics.intervals import Estimate, estimate, share, unit_weights
from dsd.toybox import captions
from dsd.toybox.world import CONTEXT, NAMED, UNNAMED

MEASURES = ("CP", "CP_strict", "PF", "CPxPF", "named")
CURATED = ("curated", "student")  # either name means the student on the pairs that curation kept
COMPARISONS = (("student", "/", "text_only"), ("student", "-", "uncurated"), ("student", "/", "oracle"))


@dataclass(frozen=True)
class Scored:
    """One job's picture with its measures."""

    unit: str  # names the reference: jobs with one reference are resampled together
    prompt: str
    measures: dict[str, float]  # CP, CP_strict, PF, named, and 1 or 0 for every unnamed attribute


def score(reading: Reading, truth: Mapping[str, str], prompt: str) -> dict[str, float]:
    """The measures of one picture; `truth` gives the subject's attributes, `reading` what the picture shows."""
    kept = {name: float(reading[name] == truth[name]) for name in UNNAMED}
    asked = {name: value for name, value in captions.read(prompt).items() if name in CONTEXT}
    return {
        "CP": float(np.mean(list(kept.values()))),
        "CP_strict": min(kept.values()),
        "PF": float(np.mean([reading[name] == value for name, value in asked.items()])),
        "named": float(np.mean([reading[name] == truth[name] for name in NAMED])),
        **kept,
    }


def truth_of(text: str, reference: Reading) -> Mapping[str, str]:
    """A Result's `truth`, or what the recogniser reads on the reference where it is ""."""
    return json.loads(text) if text else reference


def chance() -> dict[str, float]:
    """What uniform guessing scores."""

    def guess(attributes: Mapping[str, Sequence[str]]) -> list[float]:
        return [1 / len(values) for values in attributes.values()]

    cp, pf = float(np.mean(guess(UNNAMED))), float(np.mean(guess(CONTEXT)))
    named = float(np.mean(guess(NAMED)))
    by_attribute = dict(zip(UNNAMED, guess(UNNAMED)))
    expected = {"CP": cp, "CP_strict": prod(guess(UNNAMED)), "PF": pf, "CPxPF": cp * pf, "named": named, **by_attribute}
    return {name: round(value, 6) for name, value in expected.items()}


def arm_of(run: str) -> str:
    """ "student/0" -> "student"."""
    return run.split("/", 1)[0]


def measure_arms(
    scored: Mapping[str, Sequence[Scored]],
    num_resamples: int,
    rng: np.random.Generator,
    baseline: str | None = None,
) -> tuple[dict[str, Any], dict[str, Estimate]]:
    """Scored jobs by run -> ({arm: its measures}, {comparison: estimate})."""
    unit_names = dict.fromkeys(job.unit for jobs in scored.values() for job in jobs)
    units = {name: i for i, name in enumerate(unit_names)}
    weights = unit_weights(rng, len(units), num_resamples)
    means = {run: run_means(weights, jobs, units) for run, jobs in scored.items()}
    runs_of: dict[str, list[str]] = {}
    for run in scored:
        runs_of.setdefault(arm_of(run), []).append(run)

    distributions = {arm: over_runs([means[run] for run in runs], rng) for arm, runs in runs_of.items()}
    arms = {}
    for arm, runs in runs_of.items():
        n = sum(len(scored[run]) for run in runs)
        estimates = {name: estimate(samples, n) for name, samples in distributions[arm].items()}
        arms[arm] = {
            **{name: estimates[name] for name in MEASURES},
            "attributes": {name: estimates[name] for name in UNNAMED},
            "runs": {run: of_run(means[run]) for run in runs},
        }
    return arms, compare({arm: samples["CPxPF"] for arm, samples in distributions.items()}, arms, baseline)


def of_run(means: Mapping[str, np.ndarray]) -> dict[str, float]:
    """One run by itself, without interval."""
    cp, pf = float(means["CP"][0]), float(means["PF"][0])
    return {"CP": round(cp, 4), "PF": round(pf, 4), "CPxPF": round(cp * pf, 4)}


def run_means(weights: np.ndarray, jobs: Sequence[Scored], units: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The mean over jobs of every measure, (1 + R,) each."""
    names = list(jobs[0].measures)
    sums, counts = np.zeros((len(units), len(names))), np.zeros((len(units), 1))
    for job in jobs:
        sums[units[job.unit]] += [job.measures[name] for name in names]
        counts[units[job.unit]] += 1
    return dict(zip(names, share(weights, sums, counts).T))


def over_runs(means: Sequence[dict[str, np.ndarray]], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Mean over an arm's runs, the runs drawn anew for every resample; and the product of the means."""
    size = len(means[0]["CP"])
    drawn = rng.integers(len(means), size=(len(means), size))
    drawn[:, 0] = range(len(means))
    arm = {name: np.take_along_axis(np.stack([run[name] for run in means]), drawn, 0).mean(0) for name in means[0]}
    return {**arm, "CPxPF": arm["CP"] * arm["PF"]}


def compare(
    products: Mapping[str, np.ndarray], arms: Mapping[str, Any], baseline: str | None = None
) -> dict[str, Estimate]:
    """CPxPF of arms against each other: {"student / oracle": ...}. What every other arm gains over the baseline, or
    without one the curated student by COMPARISONS.
    """
    student = next((name for name in CURATED if name in products), None)
    asked = [(student, sign, other) for _, sign, other in COMPARISONS if student and other in products]
    if baseline is not None:
        asked = [(arm, "-", baseline) for arm in products if arm != baseline]
    comparisons = {}
    for arm, sign, other in asked:
        with np.errstate(invalid="ignore", divide="ignore"):
            ours, theirs = products[arm], products[other]
            samples = ours / theirs if sign == "/" else ours - theirs
        n = min(arms[arm]["CPxPF"]["n"], arms[other]["CPxPF"]["n"])
        comparisons[f"{arm} {sign} {other}"] = estimate(samples, n)
    return comparisons


def same_jobs(scored: Iterable[Sequence[Scored]]) -> bool:
    """Whether all runs were asked the same: the same prompts for the same references."""
    return len({frozenset((job.unit, job.prompt) for job in jobs) for jobs in scored}) <= 1
