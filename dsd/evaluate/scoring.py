"""Score the pictures of every run with every measure."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from datasets import Dataset
from PIL import Image

from dsd.errors import UserError
from dsd.metrics.judges.ratings import Rated
from dsd.metrics.measure import Drawing, Measure, Scores, refuse_unsuited
from dsd.runs.progress import progress

Measures = Mapping[str, Measure]  # by name, as in configs/measure/


@dataclass(frozen=True)
class Scored:
    """One job's picture with its numbers."""

    unit: str  # names the reference: jobs with one reference are resampled together
    prompt: str
    scores: Scores  # of all measures
    job: str = ""
    category: str = ""  # of the subject
    kind: str = ""  # of the prompt
    reasons: Mapping[str, str] = field(default_factory=dict)  # by name: what a judge said of its number
    missing: Mapping[str, str] = field(default_factory=dict)  # why there is no score, by name: refused, failed
    ratings: Mapping[str, Sequence[str]] = field(default_factory=dict)  # keys of a judge's ratings, by measure


def check_measures(measures: Measures, results: Mapping[str, Dataset]) -> None:
    """UserError where two measures share a name, or where a measure cannot score one of the results."""
    owner: dict[str, str] = {}
    for name, measure in measures.items():
        for number in (*measure.scale.names, *measure.scale.parts):
            if number in owner:
                raise UserError(f"measure: {owner[number]} and {name} both give {number}; choose one of them")
            owner[number] = name
    for run, rows in results.items():
        for row in rows.select_columns(["job", "prompt", "truth"]):
            for name, measure in measures.items():
                refuse_unsuited(name, measure, f"results.{run}, job {row['job']}", row["prompt"], row["truth"])


def score_results(results: Mapping[str, Dataset], measures: Measures, batch_size: int) -> dict[str, list[Scored]]:
    """Score the results of every run. Pictures are decoded only when their turn comes."""
    scored: dict[str, list[Scored]] = {}
    with progress(sum(map(len, results.values())), "pictures", "picture") as bar:
        for run, rows in results.items():
            scored[run] = []
            for start in range(0, len(rows), batch_size):
                batch = rows.select(range(start, min(start + batch_size, len(rows))))
                rows_of_batch = list(batch)
                found = score_batch([drawing_of(row) for row in rows_of_batch], measures)
                scored[run] += [replace(one, job=row["job"]) for one, row in zip(found, rows_of_batch, strict=True)]
                bar.update(len(batch))
    return scored


def drawing_of(row: Mapping[str, Any]) -> Drawing:
    """Take what a measure needs from a Result."""
    picture, reference, *others = (image.convert("RGB") for image in (row["image"], row["reference"], *row["others"]))
    return Drawing(picture, reference, row["prompt"], row["truth"], tuple(others), row["category"], row["kind"])


def score_batch(drawings: Sequence[Drawing], measures: Measures) -> list[Scored]:
    """Score pictures with every measure and put the numbers of each picture together."""
    every = [measure(drawings) for measure in measures.values()]
    return [
        scored_of(drawing, dict(zip(measures, rows, strict=True)))
        for drawing, *rows in zip(drawings, *every, strict=True)
    ]


def scored_of(drawing: Drawing, rows: Mapping[str, Scores]) -> Scored:
    """Put together what all measures say of a picture."""
    judged = {name: row for name, row in rows.items() if isinstance(row, Rated)}
    return Scored(
        unit_of(drawing.reference),
        drawing.prompt,
        {name: number for row in rows.values() for name, number in row.items()},
        reasons={name: reason for row in judged.values() for name, reason in row.reasons.items()},
        missing={name: kind for row in judged.values() for name, kind in row.missing.items()},
        ratings={name: row.ratings for name, row in judged.items() if row.ratings},
        category=drawing.category,
        kind=drawing.kind,
    )


def unit_of(reference: Image.Image) -> str:
    """Name a reference by its pixels."""
    return hashlib.sha256(reference.tobytes()).hexdigest()[:16]


def aligned(scored: Mapping[str, Sequence[Scored]], foreign: Collection[str]) -> dict[str, list[Scored]]:
    """Give a job of another tool's results the unit that other runs have for the job of its name and prompt.

    Their references were encoded anew, so their pixels differ.
    """
    known: dict[tuple[str, str], str] = {}
    for run in sorted(scored, key=lambda run: run in foreign):
        for job in scored[run]:
            known.setdefault((job.job, job.prompt), job.unit)
    return {
        run: [replace(job, unit=known[job.job, job.prompt]) for job in jobs] if run in foreign else list(jobs)
        for run, jobs in scored.items()
    }


def keys_of(jobs: Iterable[Scored]) -> set[tuple[str, str]]:
    """Name jobs by reference and prompt."""
    return {(job.unit, job.prompt) for job in jobs}


def same_jobs(scored: Iterable[Sequence[Scored]]) -> bool:
    """Tell whether all runs had the same prompts for the same references."""
    return len(set(map(frozenset, map(keys_of, scored)))) <= 1
