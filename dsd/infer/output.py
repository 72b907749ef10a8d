"""Write what a set of jobs leaves for people: every picture as a file, and a sheet of the first ones."""

import re
from itertools import groupby
from pathlib import Path
from typing import Any

from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from dsd.io.files import atomic
from dsd.io.pictures import contact_sheet, save_png
from dsd.pipeline.jobs import PICTURES


def save_pictures(rows: Dataset, folder: Path, settings: dict[str, Any]) -> None:
    """Write every result as a file named by its job; files that are there already stay.

    The shards hold PNGs, whose pixels are neither decoded nor encoded again.
    """
    taken: set[str] = set()
    stored = rows.select_columns(["job", "image", "prompt", "seed"]).cast_column("image", ImageFeature(decode=False))
    for row in stored:
        path = folder / f"{free_name(row['job'], taken)}.png"
        if not path.exists():
            save_png(row["image"]["bytes"], path, row["prompt"], row["seed"], settings)


def free_name(job: str, taken: set[str]) -> str:
    """Make a file name of a job's name, of at most 100 characters, that is not taken; upper and lower case are one."""
    path = Path(job)
    name = path.stem if path.suffix.lower() in PICTURES else path.name  # "st._bernard-3" has no ending
    stem = re.sub(r"[^\w.-]+", "-", name)[:100].strip(".") or "picture"
    name, number = stem, 1
    while name.lower() in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name.lower())
    return name


def overview(rows: Dataset, path: Path, num: int = 24) -> Path:
    """Write a sheet of the first pictures, each reference with what was drawn of it; return its path."""
    shown = rows.select(range(min(num, len(rows))))
    groups = [list(group) for _, group in groupby(shown, lambda row: row["reference"].tobytes())]
    most = 1 + max(map(len, groups))
    blank = Image.new("RGB", groups[0][0]["image"].size, "white")
    pictures, labels = [], []
    for group in groups:
        pictures += [group[0]["reference"], *(row["image"] for row in group), *[blank] * (most - 1 - len(group))]
        labels += ["reference", *(row["prompt"] for row in group), *[""] * (most - 1 - len(group))]
    with atomic(path) as temporary:
        contact_sheet(pictures, labels, columns=most * max(1, 9 // most), cell=144).save(temporary, "PNG")
    return path
