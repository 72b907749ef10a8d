"""Write what a set of jobs leaves for people: every picture as a file, and a sheet of the first ones."""

import re
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL import Image

from dsd.files import atomic
from dsd.pictures import contact_sheet, save_picture


def save_pictures(rows: Dataset, folder: Path, settings: dict[str, Any]) -> None:
    """Write every result as a file named by its job; files that are there already stay."""
    names: Counter[str] = Counter()
    for row in rows:
        name = re.sub(r"[^\w.-]+", "-", Path(row["job"]).stem)
        names[name] += 1
        path = folder / (f"{name}.png" if names[name] == 1 else f"{name}-{names[name]}.png")
        if not path.exists():
            save_picture(row["image"], path, row["prompt"], row["seed"], settings)


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
