"""The judge is judged: against people's labels, against itself with the pictures swapped, and beside plain embeddings.

    dsd-curate mode=agreement labels=labels.jsonl verdicts_dir=outputs/pairs output_dir=outputs/agreement

Labels are one JSON object a line, {"grid": 3, "first": 0, "second": 2, "same": true}; dsd/curation/label.py writes
them. 95 % bootstrap intervals, resampling grids.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dsd.errors import UserError
from dsd.metrics.intervals import estimate, share, unit_weights

Key = tuple[int, int, int]  # grid, first panel < second panel


def read_labels(path: str | Path) -> dict[Key, bool]:
    """A pair that was labelled twice has its last label."""
    file, labels = Path(path), {}
    if not file.is_file():
        raise UserError(f"labels={path}: no such file; label pairs with dsd/curation/label.py")
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
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
    """Precision, recall, F1 and Cohen's kappa of the judge and of every score alone (at its best F1, chosen on these
    very labels, which flatters it); and how often the judge says the same with the pictures swapped."""
    rows = {(v["grid"], v["first"], v["second"]): v for v in verdicts if not v["defect"]}
    known = [key for key in labels if key in rows]
    if not known:
        raise UserError("no labelled pair has a verdict; are labels and verdicts of the same grids?")
    truth = np.array([labels[key] for key in known])
    _, unit = np.unique([key[0] for key in known], return_inverse=True)
    weights = unit_weights(np.random.default_rng(seed), int(unit.max()) + 1, num_resamples)
    said = np.array([rows[key]["same"] for key in known])
    found: dict[str, Any] = {
        "labelled": len(labels), "compared": len(known), "same": int(truth.sum()),
        "judge": quality(said, truth, unit, weights),
    }  # fmt: skip
    scores = [json.loads(rows[key]["scores"]) for key in known]
    for name in sorted(set.intersection(*(set(s) for s in scores))):
        values = np.array([s[name] for s in scores])
        bound = best_bound(values, truth)
        found[f"{name} alone"] = {"bound": bound, **quality(values >= bound, truth, unit, weights)}
    again = [number for number, key in enumerate(known) if key in swapped]
    if again:
        same = np.array([swapped[known[number]] == said[number] for number in again], float)
        units = unit[again]
        hits, counts = (np.bincount(units, x, weights.shape[1]) for x in (same, np.ones(len(again))))
        found["self_agreement_swapped"] = estimate(share(weights, hits, counts), len(again))
    return found


def quality(said: np.ndarray, truth: np.ndarray, unit: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """Of a yes or no for every pair, (P,) each, with its grid's number."""
    both, yes, true, every = (
        weights @ np.bincount(unit, x.astype(float), weights.shape[1])
        for x in (said & truth, said, truth, np.ones_like(truth))
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = (every - yes - true + 2 * both) / every
        chance = (yes * true + (every - yes) * (every - true)) / every**2
        return {
            "precision": estimate(both / yes, int(said.sum())),
            "recall": estimate(both / true, int(truth.sum())),
            "f1": estimate(2 * both / (yes + true), len(truth)),
            "kappa": estimate((observed - chance) / (1 - chance), len(truth)),
        }


def best_bound(values: np.ndarray, truth: np.ndarray) -> float:
    """The bound at or above which F1 is greatest."""
    bounds = np.unique(values)
    f1 = [2 * (truth & (values >= b)).sum() / ((values >= b).sum() + truth.sum()) for b in bounds]
    return float(bounds[int(np.argmax(f1))])


def table(found: Mapping[str, Any]) -> list[Sequence[str]]:
    """For people: a row for the judge and each score alone."""

    def cell(number: Mapping[str, Any]) -> str:
        value, low, high = (number[name] for name in ("value", "low", "high"))
        return "-" if value is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"

    measures = ("precision", "recall", "f1", "kappa")
    rows: list[Sequence[str]] = [("", *measures)]
    rows += [(name, *(cell(q[m]) for m in measures)) for name, q in found.items() if isinstance(q, dict) and "f1" in q]
    if swapped := found.get("self_agreement_swapped"):
        rows.append(("pictures swapped: same answer", cell(swapped), "", "", ""))
    return rows
