"""Write what dsd-infer drew into the folders in which a benchmark's own scripts look for pictures."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from omegaconf import DictConfig

from dsd.benchmarks import layouts
from dsd.errors import UserError
from dsd.io.files import atomic
from dsd.io.pictures import to_rgb
from dsd.runs.manifest import read_manifest
from dsd.runs.progress import progress
from dsd.runs.shards import read_shards

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> None:
    """Write the pictures where the config says."""
    read_manifest(cfg.results, "infer")
    rows = read_shards(cfg.results, "results")
    write_results(rows, layouts.LAYOUTS[cfg.layout.name], Path(cfg.local))
    log.info("publish: %d pictures in %s, in the layout of %s", len(rows), cfg.local, cfg.layout.name)


def write_results(rows: Dataset, layout: str, folder: Path) -> None:
    """Write all pictures. UserError before anything is written where a job is not one of the benchmark."""
    names = rows.select_columns(["job", "category"])
    places = [place_of(row, layout) for row in names]
    taken: dict[str, str] = {}
    for place, row in zip(places, names, strict=True):
        if (other := taken.setdefault(place.lower(), row["job"])) != row["job"]:
            raise UserError(f"jobs {other} and {row['job']} would be one file, {place}")
    with atomic(folder) as temporary, progress(len(rows), "pictures", "picture") as bar:
        for place, row in zip(places, rows, strict=True):
            (write_sample if layout == layouts.SAMPLES else write_task)(temporary, place, row)
            bar.update(1)


def place_of(row: Mapping[str, Any], layout: str) -> str:
    """The path of a job's picture below the layout's folder, without ending."""
    if layout == layouts.SAMPLES:
        collection, index = layouts.sample_of(row["job"])
        return f"{collection}/{index}_0"
    return "/".join(layouts.task_of(row["job"], row["category"]))


def write_sample(folder: Path, place: str, row: Mapping[str, Any]) -> None:
    """Write picture, reference and prompt as DreamBench++ does: JPEG, here of the best quality."""
    for name, column in ((layouts.SOURCES, "reference"), (layouts.TARGETS, "image")):
        path = folder / name / f"{place}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        to_rgb(row[column]).save(path, "JPEG", quality=100, subsampling=0)
    text = folder / layouts.TEXTS / f"{place}.txt"
    text.parent.mkdir(parents=True, exist_ok=True)
    text.write_text(row["prompt"], encoding="utf-8")


def write_task(folder: Path, place: str, row: Mapping[str, Any]) -> None:
    """Write the picture alone; the benchmark's scripts have references and instructions."""
    path = folder / f"{place}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    row["image"].save(path, "PNG")
