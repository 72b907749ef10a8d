"""Compare the jobs of a --multirun: a table of settings and results, and their pictures side by side.

For a sweep of trainings the picture is a plot of the results, and loss.png shows the loss curves side by side. For a
sweep of evaluations it is a plot of every arm's numbers.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from dsd.io.files import atomic, remove_all_stale
from dsd.io.pictures import axes_sheet, contact_sheet
from dsd.runs.identity import CONFIG, read_config
from dsd.runs.manifest import MANIFEST
from dsd.runs.settings import leaves
from dsd.runs.sweep_plot import measured, plot

OVERVIEW = "overview.csv"


def write_overview(folder: Path, num_jobs: int) -> None:
    """Write the table and the pictures of the finished jobs in a sweep's folder, and print the table.

    Folders beyond `num_jobs` are those of an earlier, longer sweep.
    """
    named = [f.parent for f in folder.glob(f"*/{MANIFEST}") if f.parent.name.isdigit()]
    jobs = [job for job in named if int(job.name) < num_jobs]
    if not jobs:
        return
    remove_all_stale(folder)
    jobs.sort(key=lambda job: int(job.name))
    table = compare(jobs)
    with atomic(folder / OVERVIEW) as temporary, temporary.open("w", newline="") as file:
        csv.writer(file).writerows(table)
    settings = unfolded(varied(jobs))
    results = [measured(m) for m in map(_manifest, jobs) if m["stage"] in ("train", "evaluate")]
    plotted = len(results) == len(jobs) and any(results) and bool(settings[0])
    if plotted:
        with atomic(folder / "overview.png") as temporary:
            plot(settings, results).savefig(temporary, dpi=100)
    pictures = [(job, picture) for job in jobs if (picture := job / _look(job)).suffix != ".html" and picture.is_file()]
    if pictures:
        sheet = side_by_side([Image.open(p) for _, p in pictures], varied([job for job, _ in pictures]))
        with atomic(folder / (_look(jobs[0]) if plotted else "overview.png")) as temporary:
            sheet.save(temporary, "PNG")
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    print(
        f"{len(jobs)} jobs: {folder / OVERVIEW}"
        + (f"; look at {folder / 'overview.png'}" if plotted or pictures else "")
    )


def compare(jobs: Sequence[Path]) -> list[list[str]]:
    """Make a header and a row a job: its folder's name, the settings that differ, every number of its manifest."""
    settings = unfolded(varied(jobs))
    results = [_numbers(_manifest(job)) for job in jobs]
    keys, names = list(settings[0]), list(dict.fromkeys(name for r in results for name in r))
    rows = [
        [job.name, *s.values(), *(f"{r[n]:.6g}" if n in r else "" for n in names)]
        for job, s, r in zip(jobs, settings, results, strict=True)
    ]
    return [["job", *keys, *names], *rows]


def side_by_side(pictures: Sequence[Image.Image], settings: Sequence[dict[str, str]]) -> Image.Image:
    """Put pictures on labelled axes where one or two keys were swept; otherwise label each with its settings."""
    keys = list(settings[0])
    values = [list(dict.fromkeys(s[key] for s in settings)) for key in keys]
    names = [key.split(".")[-1] for key in keys]
    if len(keys) == 2 and len(pictures) == len(values[0]) * len(values[1]):
        cells = {(s[keys[0]], s[keys[1]]): p for p, s in zip(pictures, settings, strict=True)}
        return axes_sheet(cells, (names[0], values[0]), (names[1], values[1]))
    if len(keys) == 1 and len(pictures) == len(values[0]):
        return axes_sheet(
            {("", s[keys[0]]): p for p, s in zip(pictures, settings, strict=True)}, ("", [""]), (names[0], values[0])
        )
    return contact_sheet(pictures, list(map(_label, settings)), max(1, round(len(pictures) ** 0.5)))


def _look(job: Path) -> str:
    """Name the picture that a stage says to look at."""
    look: str = _manifest(job).get("look", "overview.png")
    return look


def _manifest(job: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((job / MANIFEST).read_text(encoding="utf-8"))
    return manifest


def varied(jobs: Sequence[Path]) -> list[dict[str, str]]:
    """List each job's settings that are not the same in all jobs, in one order ("" where a job has none).

    A key that only repeats another one of the same name (`data.path: ${pairs}`) is left out.
    """
    settings = [leaves(read_config(job / CONFIG)) for job in jobs]
    keys = dict.fromkeys(key for s in settings for key in s if key != "output_dir" and not key.startswith("identity."))
    values = {key: tuple(str(s.get(key, "")) for s in settings) for key in keys}
    differing: dict[tuple[str, ...], str] = {}
    for key in sorted((k for k in values if len(set(values[k])) > 1), key=lambda k: k.count(".")):
        differing.setdefault((key.split(".")[-1], *values[key]), key)
    return [{key: values[key][job] for key in keys if key in differing.values()} for job in range(len(jobs))]


def unfolded(settings: list[dict[str, str]]) -> list[dict[str, str]]:
    """Replace swept folders of an evaluation's results by the settings in which those folders differ."""
    for key in [key for key in settings[0] if key.startswith("results.")]:
        folders = [Path(s[key]) for s in settings]
        if all((folder / CONFIG).is_file() for folder in folders) and any(inner := varied(folders)):
            settings = [
                {k: v for k, v in s.items() if k != key} | i for s, i in zip(settings, inner, strict=True)
            ]  # fmt: skip
    return settings


def _label(settings: dict[str, str]) -> str:
    return ", ".join(f"{key.split('.')[-1]} {value}" for key, value in settings.items())


def _numbers(manifest: dict[str, Any]) -> dict[str, float]:
    """List the numbers of a manifest: counts by their names, others by dotted keys, without file sizes and memory."""
    counts = manifest.pop("counts", {})
    for name in ("files", "peak_memory_mb"):
        manifest.pop(name, None)
    found = {**leaves(counts), **leaves(manifest)}
    return {k: v for k, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)}
