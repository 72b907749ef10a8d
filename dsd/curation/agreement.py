"""Compare the judge with people's labels, with itself when the pictures are swapped, and with each score alone.

    dsd-curate mode=agreement labels=labels.jsonl verdicts_dir=outputs/pairs output_dir=outputs/agreement

Labels are one JSON object a line, {"grid": 3, "first": 0, "second": 2, "same": true}; dsd-label writes them. Intervals
are 95 % bootstrap intervals that resample grids.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dsd.errors import UserError
from dsd.io.inputs import read_text
from dsd.metrics.classification import Classification

Key = tuple[int, int, int]  # grid, first panel < second panel


def read_labels(path: str | Path) -> dict[Key, bool]:
    """Read labels; of a pair that was labelled twice the last one counts. UserError names a line that is no label."""
    labels = {}
    for number, line in enumerate(read_text(path, "labels").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            first, second = sorted((int(row["first"]), int(row["second"])))
            if not isinstance(row["same"], bool):
                raise ValueError('"same" must be true or false')
            labels[int(row["grid"]), first, second] = row["same"]
        except (ValueError, KeyError, TypeError) as error:
            example = '{"grid": 3, "first": 0, "second": 2, "same": true}'
            raise UserError(f"{path}:{number}: not a label ({error}); each line is {example}") from error
    if not labels:
        raise UserError(f"labels={path}: no labels in it")
    return labels


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
    return found


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
    return rows
