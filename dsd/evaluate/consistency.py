"""How well a teacher follows its prompts, and how consistent the panels of its grids are."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from datasets import Dataset

from dsd.errors import UserError
from dsd.io.pictures import cut
from dsd.io.records import layout_shape
from dsd.metrics.intervals import Estimate, estimate, share, unit_weights
from dsd.metrics.measure import GridMeasure, GridScale, GridScores, Scores
from dsd.runs.progress import progress


@dataclass(frozen=True)
class ScoredGrid:
    """A grid without its pixels."""

    paired: bool  # whether its panels are meant to go together in the sense of the measure
    scores: GridScores


def check_grids(measure: GridMeasure, grids: Dataset) -> None:
    """UserError where the measure cannot score a grid."""
    for row in grids.select_columns(["index", "panel_captions"]):
        for caption in row["panel_captions"]:
            if reason := measure.objection(caption):
                raise UserError(f"grids: grid {row['index']}: the measure cannot score it: {reason}")


def score_grids(grids: Dataset, measure: GridMeasure, batch_size: int) -> dict[int, ScoredGrid]:
    """Score grids by index, about `batch_size` panels at a time."""
    sizes = [prod(layout_shape(layout)) for layout in grids["layout"]]
    step = max(1, batch_size // max(sizes, default=1))
    scored: dict[int, ScoredGrid] = {}
    with progress(sum(sizes), "panels", "panel") as bar:
        for start in range(0, len(grids), step):
            rows = list(grids.select(range(start, min(start + step, len(grids)))))
            found = measure([cut(row["image"], row["layout"]) for row in rows], [row["panel_captions"] for row in rows])
            scored |= {
                row["index"]: ScoredGrid(row["relation"] == measure.scale.relation, one)
                for row, one in zip(rows, found, strict=True)
            }
            bar.update(sum(sizes[start : start + step]))
    return scored


def measure_teacher(
    grids: Sequence[ScoredGrid], scale: GridScale, num_resamples: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Estimate the numbers of panels, over all grids, and those of pairs of panels that are meant to go together.

    Units are grids.
    """
    weights = unit_weights(rng, len(grids), num_resamples)
    same = [grid for grid in grids if grid.paired]
    same_weights = unit_weights(rng, len(same), num_resamples)
    panels, pairs = [grid.scores.panels for grid in grids], [list(grid.scores.pairs.values()) for grid in same]
    return {
        "num_sheets": len(grids),
        "num_same_sheets": len(same),
        **{name: mean_of(name, panels, weights) for name in scale.panel_names},
        **{name: mean_of(name, pairs, same_weights) for name in scale.pair_names},
        "agreement_of": {name: mean_of(name, pairs, same_weights) for name in scale.pair_parts},
        "chance": {
            **{name: value for name, value in scale.chance.items() if name not in scale.pair_parts},
            "agreement_of": {name: scale.chance[name] for name in scale.pair_parts if name in scale.chance},
        },
        "of_panels": list(scale.panel_names),
        "of_pairs": list(scale.pair_names),
        "titles": dict(scale.titles),
    }


def mean_of(name: str, scores: Sequence[Sequence[Scores]], weights: np.ndarray) -> Estimate:
    """Estimate the mean of one number over all panels or pairs of all grids."""
    values: list[list[float]] = [[row[name] for row in rows if name in row] for rows in scores]
    counts = list(map(len, values))
    return estimate(share(weights, list(map(sum, values)), counts), sum(counts))
