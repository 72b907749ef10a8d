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
            columns = max(1, round(len(pictures) ** 0.5))
            sheet = contact_sheet(
                [Image.open(p) for _, p in pictures], [_label(table, job) for job, _ in pictures], columns
            )
            with atomic(folder / "overview.png") as temporary:
                sheet.save(temporary, "PNG")
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for row in table:
            print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
        print(f"{len(jobs)} jobs: {folder / OVERVIEW}" + (f"; look at {folder / 'overview.png'}" if pictures else ""))


def compare(jobs: Sequence[Path]) -> list[list[str]]:
    """A header and a row a job: its folder's name, the config's keys that differ, every number of its manifest."""
    settings = [leaves(OmegaConf.to_container(OmegaConf.load(job / "config.yaml"))) for job in jobs]
    results = [_numbers(json.loads((job / MANIFEST).read_text(encoding="utf-8"))) for job in jobs]
    keys = [k for k in dict.fromkeys(k for s in settings for k in s) if len({str(s.get(k)) for s in settings}) > 1]
    keys = [k for k in keys if k != "output_dir"]
    names = list(dict.fromkeys(name for r in results for name in r))
    rows = [
        [job.name, *(str(s.get(k, "")) for k in keys), *(f"{r[n]:.6g}" if n in r else "" for n in names)]
        for job, s, r in zip(jobs, settings, results, strict=True)
    ]
    return [["job", *keys, *names], *rows]


def _look(job: Path) -> str:
    """The picture that a stage says to look at."""
    return json.loads((job / MANIFEST).read_text(encoding="utf-8")).get("look", "overview.png")


def _label(table: list[list[str]], job: Path) -> str:
    """What is special about a job: its row, without the results."""
    row = next(row for row in table if row[0] == job.name)
    settings = OmegaConf.to_container(OmegaConf.load(job / "config.yaml"))
    known = leaves(settings)
    return ", ".join(f"{key.split('.')[-1]} {cell}" for key, cell in zip(table[0], row, strict=True) if key in known)


def _numbers(manifest: dict[str, Any]) -> dict[str, float]:
    """Counts by their own names, other numbers by their dotted keys; without files' sizes and the process's memory."""
    counts = manifest.pop("counts", {})
    for name in ("files", "peak_memory_mb"):
        manifest.pop(name, None)
    found = {**leaves(counts), **leaves(manifest)}
    return {k: v for k, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)}
