"""Make summary.json: all numbers of an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from dsd.evaluate.accuracy import count_reasons, filters, join, measure_curation, pair_key
from dsd.evaluate.arms import all_names, measure_arms
from dsd.evaluate.consistency import ScoredGrid, measure_teacher
from dsd.evaluate.inputs import Inputs, without_images
from dsd.evaluate.judged import describe_judges, note_missing
from dsd.evaluate.published import Published
from dsd.evaluate.scoring import Measures, Scored
from dsd.evaluate.settings import arm_of
from dsd.io.records import reason_class
from dsd.metrics.measure import GridMeasure


def summarise(
    inputs: Inputs, measures: Measures, scored: Mapping[str, Sequence[Scored]], grid_measure: GridMeasure | None,
    grids: Mapping[int, ScoredGrid], num_resamples: int, seed: int, baseline: str | None,
    published: Published | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Make all numbers of summary.json; a part that was not given is null. Each part has random numbers of its own."""
    rng = [np.random.default_rng((seed, part)) for part in range(3)]
    names = all_names(measure.scale for measure in measures.values())
    arms, comparisons = measure_arms(scored, names, num_resamples, rng[0], baseline)
    for arm, row in arms.items():
        row["jobs"] = sum(counts["jobs"] for run, counts in inputs.coverage.items() if arm_of(run) == arm)
    note_missing(arms, scored, measures)
    teacher = None
    if grids and grid_measure is not None:
        teacher = measure_teacher(list(grids.values()), grid_measure.scale, num_resamples, rng[1])
    return {
        "measures": describe(measures),
        "judges": describe_judges(measures, scored),
        "chance": {name: value for m in measures.values() for name, value in m.scale.chance.items()},
        "compared": names.compared,
        "arms": arms,
        "comparisons": comparisons,
        "coverage": inputs.coverage,
        "published": published.model_dump() if published is not None else None,
        "teacher": teacher,
        "curation": summarise_curation(inputs, grids, num_resamples, rng[2]) if inputs.pairs is not None else None,
        "left_out": left_out(measures) if inputs.grids is not None and grid_measure is None else "",
    }


def describe(measures: Measures) -> dict[str, Any]:
    """Describe every measure: its names, how to read them, and what is known of its own accuracy."""
    found = {}
    for name, one in measures.items():
        checked = one.self_check()
        found[name] = {**asdict(one.scale), "self_check": asdict(checked) if checked is not None else None}
    return found


def summarise_curation(
    inputs: Inputs, grids: Mapping[int, ScoredGrid], num_resamples: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Count directed pairs by what became of them; measure the accuracy where the grids were scored."""
    assert inputs.pairs is not None
    assert inputs.rejected is not None
    assert inputs.verdicts is not None
    kept, rejected = len(inputs.pairs), len(inputs.rejected)
    accuracy = None
    if grids:
        verdicts = inputs.verdicts.select_columns(["grid", "first", "second", "same", "scores", "defect"])
        rejected_rows = without_images(inputs.rejected)
        left_out = {pair_key(row) for row in rejected_rows if reason_class(row["rejection"]) == "evaluation subject"}
        kept_pairs = {pair_key(row) for row in without_images(inputs.pairs)}
        judged = join(verdicts, kept_pairs, left_out, grids, filters(inputs.config("curated")))
        accuracy = measure_curation(judged, num_resamples, rng)
    return {
        "kept": kept,
        "rejected": rejected,
        "yield": round(kept / max(1, kept + rejected), 4),
        "reasons": count_reasons(inputs.rejected["rejection"]),
        "accuracy": accuracy,
    }


def left_out(measures: Measures) -> str:
    """Say which sections an evaluation without a grid measure lacks."""
    return (
        f"no measure ({', '.join(measures)}) can tell whether two panels show one subject, so the numbers of the "
        "teacher's grids and the accuracy of the curation are left out"
    )
