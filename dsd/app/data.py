"""Browse what stages left: grids of dsd-data-gen, kept and rejected pairs of dsd-curate, and people's labels."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL import Image

from dsd.app.adapters import finished_by
from dsd.curation.agreement import Key, read_labels
from dsd.errors import UserError
from dsd.io.pictures import contact_sheet
from dsd.io.records import reason_class
from dsd.runs.manifest import MANIFEST, read_manifest
from dsd.runs.shards import read_shards

PAGE = 12  # cards of a page
EVERY = "all"
VIEWS = {"data_gen": ("grids",), "curation": ("pairs", "rejected")}  # the shards of a stage


@dataclass(frozen=True)
class Card:
    """A picture with what is said of it."""

    picture: Image.Image
    headline: str
    words: str


@dataclass(frozen=True)
class Page:
    """Some cards of a table."""

    cards: list[Card]
    reasons: list[str]  # that rows can be chosen by, the most frequent first
    num_rows: int  # that were chosen
    num_pages: int


def folders(runs: str | Path) -> dict[str, tuple[Path, str]]:
    """List the finished folders of grids and of pairs by name, with their stages."""
    found = {}
    for file in sorted(Path(runs).glob(f"**/{MANIFEST}")):
        if stage := finished_by(file.parent, tuple(VIEWS)):
            found[file.parent.relative_to(runs).as_posix()] = file.parent, stage
    return found


def views(runs: str | Path) -> list[str]:
    """List what can be browsed: "demo/pairs: rejected"."""
    return [f"{name}: {view}" for name, (_, stage) in folders(runs).items() for view in VIEWS[stage]]


def labels_in(runs: str | Path) -> dict[str, Path]:
    """List the files that may hold labels of dsd-label, by name."""
    files = [*Path(".").glob("*.jsonl"), *Path(runs).glob("**/*labels*.jsonl")]
    return {file.as_posix(): file for file in files if "labels" in file.name}


def browse(runs: str | Path, view: Any, reason: Any = EVERY, number: Any = 1, labels: Any = None) -> Page:
    """Read a page of cards, counted from 1. UserError where there is no such view, or where labels do not fit it."""
    name, _, shards = str(view).rpartition(": ")
    known = folders(runs)
    if name not in known or shards not in VIEWS[known[name][1]]:
        raise UserError(f"{view}: nothing to browse there; make grids with dsd-data-gen, or pairs with dsd-curate")
    folder, stage = known[name]
    table = read_shards(folder, shards)
    said = labels_of(folder, stage, runs, labels)
    reasons = reasons_of(table) if shards == "rejected" else []
    rows = list(range(len(table)))
    if reason in reasons:
        rows = [row for row, why in enumerate(table["rejection"]) if reason_class(why) == reason]
    pages = max(1, -(-len(rows) // PAGE))
    start = (min(max(int(number or 1), 1), pages) - 1) * PAGE
    cards = [card(row, said) for row in table.select(rows[start : start + PAGE])]
    return Page(cards, reasons, len(rows), pages)


def labels_of(folder: Path, stage: str, runs: str | Path, labels: Any) -> dict[Key, bool]:
    """Read the labels of a file in the menu that belong to a folder of pairs."""
    if not labels or stage != "curation":
        return {}
    known = labels_in(runs)
    if labels not in known:
        raise UserError(f"labels={labels}: no such file here")
    return read_labels(known[labels], str(read_manifest(folder, stage).get("grids_config_hash", "")) or None)


def reasons_of(table: Dataset) -> list[str]:
    """List the classes of reasons, the most frequent first."""
    every = [reason_class(reason) for reason in table["rejection"]]
    return sorted(dict.fromkeys(every), key=lambda reason: -every.count(reason))


def card(row: dict[str, Any], labels: dict[Key, bool]) -> Card:
    """Make the card of a grid or of a pair: reference and target side by side."""
    if "layout" in row:
        return Card(row["image"], f"Grid {row['index']}, {row['relation']}", row["prompt"])
    both = contact_sheet([row["conditioning"], row["image"]], ["", ""], columns=2, cell=192)
    headline = f"Grid {row['grid']}, panels {row['reference_panel']} and {row['target_panel']}"
    return Card(both, headline, ". ".join(words_of(row, labels)))


def words_of(row: dict[str, Any], labels: dict[Key, bool]) -> Iterator[str]:
    """Say of a pair what selection, people and the judge said of it."""
    first, second = sorted((row["reference_panel"], row["target_panel"]))
    yield "Kept" if row["kept"] else f"Rejected: {row['rejection']}"
    label = labels.get((row["grid"], first, second))
    if label is not None:
        yield f"Labelled {'same' if label else 'different'}"
    scores = json.loads(row["scores"] or "{}")
    if scores:
        yield ", ".join(f"{name} {value:.2f}" for name, value in scores.items() if isinstance(value, int | float))
    yield row["caption"]
