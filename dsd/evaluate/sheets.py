"""Sheets as the recogniser reads them, and what that says of the teacher."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod
from typing import Any

import numpy as np
from datasets import Dataset
from tqdm import tqdm

from dsd.evaluate.recogniser import Reading, Recogniser, read_all
from dsd.metrics.intervals import Estimate, estimate, share, unit_weights
from dsd.pictures import cut
from dsd.records import layout_shape
from dsd.toybox import captions
from dsd.toybox.world import CONTEXT, NAMED, SUBJECT, UNNAMED


@dataclass(frozen=True)
class Sheet:
    """A grid without its pixels."""

    relation: str
    captions: list[str]  # what each panel was meant to show
    readings: list[Reading]  # what it shows, row by row

    def pairs(self) -> Iterator[tuple[Reading, Reading]]:
        """Unordered pairs of panels."""
        return combinations(self.readings, 2)


def agree(first: Reading, second: Reading, attributes: Mapping[str, Any]) -> bool:
    return all(first[name] == second[name] for name in attributes)


def same_subject(first: Reading, second: Reading) -> bool:
    """Every attribute of the subject, named and unnamed, reads the same."""
    return agree(first, second, SUBJECT)


def read_sheets(grids: Dataset, recogniser: Recogniser, batch_size: int) -> dict[int, Sheet]:
    """Grids -> what is on their panels, by grid index."""
    meta = grids.select_columns(["index", "layout", "relation", "panel_captions"])
    cells = (panel for row in grids for panel in cut(row["image"], row["layout"]))
    sizes = [prod(layout_shape(layout)) for layout in meta["layout"]]
    with tqdm(total=sum(sizes), desc="panels", unit="panel", mininterval=1) as bar:
        readings = iter(read_all(recogniser, cells, batch_size, bar))
    return {
        row["index"]: Sheet(row["relation"], row["panel_captions"], [next(readings) for _ in range(size)])
        for row, size in zip(meta, sizes)
    }


def measure_teacher(sheets: Sequence[Sheet], num_resamples: int, rng: np.random.Generator) -> dict[str, Any]:
    """How well the teacher follows prompts, and how often its panels agree with each other.

    PF: share of the context's attributes that a panel's caption settles, read as it says; named: the same for the
    subject's named ones. agreement: share of the panel pairs of "same" sheets that agree on every unnamed attribute;
    agreement_of: on one attribute, named or not; agreement_named: on all named ones. Units are sheets.
    """
    weights = unit_weights(rng, len(sheets), num_resamples)

    def panel_share(attributes: Mapping[str, Any]) -> Estimate:
        hits, counts = np.array([followed(sheet, attributes) for sheet in sheets]).reshape(-1, 2).T
        return estimate(share(weights, hits, counts), sum(len(sheet.readings) for sheet in sheets))

    same = [sheet for sheet in sheets if sheet.relation == "same"]
    same_weights = unit_weights(rng, len(same), num_resamples)
    num_pairs = [len(list(sheet.pairs())) for sheet in same]

    def pair_share(attributes: Mapping[str, Any]) -> Estimate:
        hits = [sum(agree(first, second, attributes) for first, second in sheet.pairs()) for sheet in same]
        return estimate(share(same_weights, hits, num_pairs), sum(num_pairs))

    return {
        "num_sheets": len(sheets),
        "num_same_sheets": len(same),
        "PF": panel_share(CONTEXT),
        "named": panel_share(NAMED),
        "agreement": pair_share(UNNAMED),
        "agreement_named": pair_share(NAMED),
        "agreement_of": {name: pair_share({name: values}) for name, values in SUBJECT.items()},
        "chance": {
            "agreement": round(prod(1 / len(values) for values in UNNAMED.values()), 6),
            "agreement_of": {name: round(1 / len(values), 4) for name, values in UNNAMED.items()},
        },
    }


def followed(sheet: Sheet, attributes: Mapping[str, Any]) -> tuple[float, int]:
    """(sum over panels of the share of `attributes` that are as the caption says, panels whose caption says any)."""
    shares = []
    for caption, reading in zip(sheet.captions, sheet.readings):
        asked = {name: value for name, value in captions.read(caption).items() if name in attributes}
        if asked:
            shares.append(float(np.mean([reading[name] == value for name, value in asked.items()])))
    return sum(shares), len(shares)
