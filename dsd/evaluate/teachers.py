"""Compare teachers: what grids yield, how right the kept pairs are, how diverse the subjects are, and the cost."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from math import log2, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsd.errors import UserError
from dsd.evaluate.consistency import ScoredGrid
from dsd.evaluate.inputs import Inputs, open_inputs, open_run, without_images
from dsd.evaluate.summary import summarise_curation
from dsd.evaluate.table import Rows, number
from dsd.io.pictures import cut
from dsd.io.records import layout_shape
from dsd.metrics.intervals import estimate, share, unit_weights
from dsd.metrics.measure import GridScale
from dsd.models.embeddings import Features
from dsd.runs.progress import progress


def open_teacher(name: str, curated: str) -> Inputs:
    """Open a finished curation and the grids that its config names. UserError where it names none."""
    grids = open_run(f"teachers.{name}", curated, "curation").config.get("grids")
    if not isinstance(grids, str):
        raise UserError(f"teachers.{name}={curated}: its config.yaml names no grids; curate again")
    return open_inputs(grids, curated, None, {})


def measure_one(
    inputs: Inputs, grids: Mapping[int, ScoredGrid], scale: GridScale | None, features: Sequence[Features],
    batch_size: int, num_resamples: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Make a teacher's numbers; units are grids. Without a measure of grids, accuracy and entropy are empty."""
    assert inputs.grids is not None
    rng = np.random.default_rng(seed)
    panels = [prod(layout_shape(layout)) for layout in inputs.grids["layout"]]
    possible = [num * (num - 1) for num in panels]  # directed pairs
    kept = Counter(row["grid"] for row in without_images(inputs.pairs))
    weights = unit_weights(rng, len(panels), num_resamples)
    accuracy = summarise_curation(inputs, grids, num_resamples, rng)["accuracy"] or {"kept": {}}
    seconds = {run.name: float(run.manifest.get("seconds", 0)) for run in inputs.runs}
    subjects = [grid.scores.shown[0] for grid in grids.values() if grid.scores.shown]  # odd panels are not diversity
    return {
        "teacher": inputs.runs[0].manifest.get("teacher") or {},
        "grids": len(panels),
        "kept": kept.total(),
        "yield": estimate(share(weights, [kept[index] for index in inputs.grids["index"]], possible), sum(possible)),
        "precision": accuracy["kept"].get("precision"),
        "recall": accuracy["kept"].get("recall"),
        "entropy": {group: bits(subjects, names) for group, names in scale.groups.items()} if scale else {},
        "distinct": {one.name: round(distinct(embed_subjects(inputs, one, batch_size)), 2) for one in features},
        "seconds": seconds,
        "kept_per_1000_s": round(1000 * kept.total() / max(sum(seconds.values()), 1e-9), 1),
    }


def bits(subjects: Sequence[Mapping[str, str]], attributes: Mapping[str, int]) -> dict[str, float]:
    """Entropy of attributes over subjects, in bits, summed over attributes, and the most there can be.

    `attributes` has the number of values of each. Few subjects understate the entropy, so there is no interval:
    resampled subjects would understate it once more. Compare teachers by equally many grids.
    """
    found = sum(entropy(Counter(subject[name] for subject in subjects).values()) for name in attributes)
    return {"value": round(found, 4), "most": round(sum(map(log2, attributes.values())), 4)}


def entropy(counts: Collection[int]) -> float:
    """Entropy in bits of how often each value was seen."""
    shares = np.array([*counts], float) / sum(counts)
    return float(-(shares * np.log2(shares)).sum())


def embed_subjects(inputs: Inputs, features: Features, batch_size: int) -> Tensor:
    """Embed the first panel of every grid, (N, D): the others show the same subject."""
    assert inputs.grids is not None
    vectors = []
    with progress(len(inputs.grids), features.name, "grid") as bar:
        for start in range(0, len(inputs.grids), batch_size):
            rows = inputs.grids.select(range(start, min(start + batch_size, len(inputs.grids))))
            vectors.append(features([cut(row["image"], row["layout"])[0] for row in rows]).cpu())
            bar.update(len(rows))
    return torch.cat(vectors)


def distinct(vectors: Tensor) -> float:
    """Count how many different pictures there are as far as (N, D) unit vectors tell: the Vendi score, 1 to N.

    The exponential of the entropy of the eigenvalues of the cosines between all, divided by N (arXiv 2210.02410).
    """
    shares = torch.linalg.svdvals(vectors.double()).square() / len(vectors)
    return float(torch.special.entr(shares).sum().exp())


def teachers_rows(teachers: Mapping[str, Mapping[str, Any]]) -> Rows:
    """A row for each teacher."""
    entropies = next(iter(teachers.values()))["entropy"]
    diversity = [f"{group}, of {found['most']:.2f} bits" for group, found in entropies.items()]
    diversity += [f"distinct by {name}" for name in next(iter(teachers.values()))["distinct"]]
    header = ["teacher", "licence", "grids", "kept", "yield", "precision", "recall", *diversity, "s", "kept in 1,000 s"]
    return [header, *(
        [name, row["teacher"].get("license", "–"), str(row["grids"]), str(row["kept"]),
         *map(number, (row["yield"], row["precision"], row["recall"])),
         *(number(found["value"]) for found in row["entropy"].values()), *map(str, row["distinct"].values()),
         f"{sum(row['seconds'].values()):.1f}", f"{row['kept_per_1000_s']:.1f}"]
        for name, row in teachers.items()
    )]  # fmt: skip
