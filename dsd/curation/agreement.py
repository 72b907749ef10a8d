"""Compare the judge with people's labels, with itself when the pictures are swapped, and with each score alone.

    dsd-curate mode=agreement labels=labels.jsonl verdicts_dir=outputs/pairs output_dir=outputs/agreement

Labels are one JSON object a line, {"grid": 3, "first": 0, "second": 2, "same": true}; dsd-label writes them. Intervals
are 95 % bootstrap intervals that resample grids.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from dsd.errors import UserError
from dsd.io.inputs import read_jsonl
from dsd.io.records import layout_shape
from dsd.metrics.agreement import alpha
from dsd.metrics.classification import Classification
from dsd.metrics.intervals import Estimate

Key = tuple[int, int, int]  # grid, first panel < second panel
EXAMPLE = '{"grid": 3, "first": 0, "second": 2, "same": true}'


class Label(BaseModel):
    """What a person said of a pair, as a line of a file."""

    model_config = ConfigDict(strict=True, extra="forbid")

    grid: Annotated[int, Field(ge=0, lt=2**63)]
    first: Annotated[int, Field(ge=0, le=99)]
    second: Annotated[int, Field(ge=0, le=99)]
    same: bool
    grids: str = ""  # config_hash of the grids; "" where somebody wrote the file by hand

    @property
    def key(self) -> Key:
        return self.grid, min(self.first, self.second), max(self.first, self.second)


def read_labels(path: str | Path, grids: str | None = None) -> dict[Key, bool]:
    """Read labels; of a pair that was labelled twice the last one counts.

    UserError names a line that is no label, or one of other grids than those with the config_hash `grids`.
    """
    labels = {}
    for number, label in read_jsonl(path, Label, "labels", EXAMPLE):
        if label.first == label.second:
            raise UserError(f"{path}:{number}: first and second are one panel; each line is {EXAMPLE}")
        if grids and label.grids and label.grids != grids:
            raise UserError(f"{path}:{number}: a label of other grids ({label.grids}) than these ({grids})")
        labels[label.key] = label.same
    if not labels:
        raise UserError(f"labels={path}: no labels in it")
    return labels


def check_labels(labels: Iterable[Key], grids: Any, path: str | Path) -> None:
    """Raise UserError where a label is about a grid or a panel that is not there. `grids` is a table of Grid rows."""
    panels = {
        index: rows * columns
        for index, layout in zip(grids["index"], grids["layout"], strict=True)
        for rows, columns in (layout_shape(layout),)
    }
    for grid, _, second in labels:
        if second >= panels.get(grid, 0):
            raise UserError(f"labels={path}: grid {grid}, panel {second} is not there; are they labels of other grids?")


def agreement(
    labels: Mapping[Key, bool],
    verdicts: Iterable[Mapping[str, Any]],
    swapped: Mapping[Key, bool],
    num_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compute precision, recall, F1 and Cohen's kappa of the judge and of every score alone.

    `swapped` is what the judge says with the pictures swapped; how often it says the same is computed too. The bound of
    a score alone is the one of its best F1 on these very labels, which flatters it.
    """
    rows = {(v["grid"], v["first"], v["second"]): v for v in verdicts if not v["defect"]}
    known = [key for key in labels if key in rows]
    if not known:
        raise UserError("no labelled pair has a verdict; are labels and verdicts of the same grids?")
    truth = np.array([labels[key] for key in known])
    figures = Classification(truth, [key[0] for key in known], num_resamples, np.random.default_rng(seed))
    said = np.array([rows[key]["same"] for key in known])
    found: dict[str, Any] = {
        "labelled": len(labels), "compared": len(known), "same": int(truth.sum()),
        "judge": figures(said),
    }  # fmt: skip
    scores = [json.loads(rows[key]["scores"]) for key in known]
    for name in sorted(set.intersection(*(set(s) for s in scores))):
        values = np.array([s[name] for s in scores])
        bound = best_bound(values, truth)
        found[f"{name} alone"] = {"bound": bound, **figures(values >= bound)}
    again = np.array([key in swapped for key in known])
    if again.any():
        same = np.array([swapped.get(key) == answer for key, answer in zip(known, said, strict=True)])
        found["self_agreement_swapped"] = figures.share(same, again)
    found["alpha"] = alphas(known, truth, said, swapped, num_resamples, seed)
    return found


def alphas(
    known: Sequence[Key],
    truth: np.ndarray,
    said: np.ndarray,
    swapped: Mapping[Key, bool],
    num_resamples: int,
    seed: int,
) -> dict[str, Estimate]:
    """Krippendorff's alpha (nominal) of the judge with people, and with itself when the pictures are swapped."""
    units, again = [key[0] for key in known], np.array([float(swapped.get(key, np.nan)) for key in known])
    others = {"the judge and people": truth} | ({"the judge, swapped": again} if np.isfinite(again).any() else {})
    return {
        name: alpha(np.stack([said, other]).astype(float), units, "nominal", num_resamples, np.random.default_rng(seed))
        for name, other in others.items()
    }


def best_bound(values: np.ndarray, truth: np.ndarray) -> float:
    """Find the bound at or above which F1 is greatest."""
    bounds = np.unique(values)
    f1 = [2 * (truth & (values >= b)).sum() / ((values >= b).sum() + truth.sum()) for b in bounds]
    return float(bounds[int(np.argmax(f1))])


def table(found: Mapping[str, Any]) -> list[Sequence[str]]:
    """Make a table for people: a row for the judge and for each score alone."""

    def cell(number: Mapping[str, Any]) -> str:
        value, low, high = (number[name] for name in ("value", "low", "high"))
        return "-" if value is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"

    measures = ("precision", "recall", "f1", "kappa")
    rows: list[Sequence[str]] = [("", *measures)]
    rows += [(name, *(cell(q[m]) for m in measures)) for name, q in found.items() if isinstance(q, dict) and "f1" in q]
    if swapped := found.get("self_agreement_swapped"):
        rows.append(("pictures swapped: same answer", cell(swapped), "", "", ""))
    rows += [(f"alpha of {name}", cell(number), "", "", "") for name, number in found["alpha"].items()]
    return rows
