"""What a --multirun leaves: a table of what its jobs differ in and what came of it, and their pictures side by side."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from dsd.app import leaves
from dsd.manifest import MANIFEST, atomic
from dsd.pictures import contact_sheet

OVERVIEW = "overview.csv"


class Overview(Callback):
    """Writes overview.csv and overview.png into `hydra.sweep.dir` when the last job is done, and prints the table.

    Named in configs/house.yaml.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Jobs that were given an output_dir of their own are not in the table."""
        jobs = [f.parent for f in Path(config.hydra.sweep.dir).glob(f"*/{MANIFEST}") if f.parent.name.isdigit()]
        if not jobs:
            return
        jobs.sort(key=lambda job: int(job.name))
        folder, table = Path(config.hydra.sweep.dir), compare(jobs)
        with atomic(folder / OVERVIEW) as temporary, temporary.open("w", newline="") as file:
            csv.writer(file).writerows(table)
        pictures = [(job, picture) for job in jobs if (picture := job / _look(job)).is_file()]
        if pictures:
            labels = dict(zip(jobs, map(_label, varied(jobs)), strict=True))
            columns = max(1, round(len(pictures) ** 0.5))
            sheet = contact_sheet(
                [Image.open(picture) for _, picture in pictures], [labels[job] for job, _ in pictures], columns
            )
            with atomic(folder / "overview.png") as temporary:
                sheet.save(temporary, "PNG")
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for row in table:
            print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
        print(f"{len(jobs)} jobs: {folder / OVERVIEW}" + (f"; look at {folder / 'overview.png'}" if pictures else ""))


def compare(jobs: Sequence[Path]) -> list[list[str]]:
    """A header and a row a job: its folder's name, the config's keys that differ, every number of its manifest."""
    settings = varied(jobs)
    results = [_numbers(json.loads((job / MANIFEST).read_text(encoding="utf-8"))) for job in jobs]
    keys, names = list(settings[0]), list(dict.fromkeys(name for r in results for name in r))
    rows = [
        [job.name, *s.values(), *(f"{r[n]:.6g}" if n in r else "" for n in names)]
        for job, s, r in zip(jobs, settings, results, strict=True)
    ]
    return [["job", *keys, *names], *rows]


def _look(job: Path) -> str:
    """The picture that a stage says to look at."""
    return json.loads((job / MANIFEST).read_text(encoding="utf-8")).get("look", "overview.png")


def varied(jobs: Sequence[Path]) -> list[dict[str, str]]:
    """Of each job, the keys of its config that are not the same in all, in one order ("" where a job has none)."""
    settings = [leaves(OmegaConf.to_container(OmegaConf.load(job / "config.yaml"))) for job in jobs]
    keys = dict.fromkeys(key for s in settings for key in s if key != "output_dir")
    differing = [key for key in keys if len({str(s.get(key)) for s in settings}) > 1]
    return [{key: str(s.get(key, "")) for key in differing} for s in settings]


def _label(settings: dict[str, str]) -> str:
    return ", ".join(f"{key.split('.')[-1]} {value}" for key, value in settings.items())


def _numbers(manifest: dict[str, Any]) -> dict[str, float]:
    """Counts by their own names, other numbers by their dotted keys; without files' sizes and the process's memory."""
    counts = manifest.pop("counts", {})
    for name in ("files", "peak_memory_mb"):
        manifest.pop(name, None)
    found = {**leaves(counts), **leaves(manifest)}
    return {k: v for k, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)}
