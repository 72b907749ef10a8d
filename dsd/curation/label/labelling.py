"""The pairs that a person labels, and the labels so far."""

import json
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import numpy as np
from datasets import Dataset
from filelock import FileLock, Timeout

from dsd.curation.agreement import Key, read_labels
from dsd.errors import UserError
from dsd.io.files import atomic
from dsd.io.pictures import png
from dsd.runs.run import lock_of


def sole_writer(file: Path) -> FileLock:
    """Lock a file of labels until the process ends. UserError where another process has it."""
    lock = lock_of(file.parent, f"label-{file.name}")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"labels={file}: another dsd-label writes it; end that one, or choose another file") from error
    return lock


class Labelling:
    """Pairs of panels in a fixed random order. Every label is on disk before the next pair is shown."""

    def __init__(self, tables: Sequence[Dataset], file: Path, num_pairs: int, seed: int, grids: str = "") -> None:
        """`tables` hold the kept and the rejected pairs of dsd-curate, with both panels' pictures.

        `grids` is the config_hash of their grids; labels carry it. UserError where another process has the file, or
        where the labels in it are of other grids.
        """
        self.tables, self.file, self.lock, self.grids = tables, file, Lock(), grids
        self.sole = sole_writer(file)
        self.place: dict[tuple[int, int], tuple[int, int]] = {}  # of a target's picture, by grid and panel
        every: set[Key] = set()
        for number, table in enumerate(tables):
            columns = (table[name] for name in ("grid", "reference_panel", "target_panel"))
            for row, (grid, reference, target) in enumerate(zip(*columns, strict=True)):
                every.add((grid, min(reference, target), max(reference, target)))
                self.place[grid, target] = number, row
        ordered = sorted(every)
        chosen = np.random.default_rng(seed).permutation(len(ordered))[:num_pairs]
        self.pairs = [ordered[number] for number in chosen]
        self.known = frozenset(self.pairs)
        self.labels: dict[Key, bool] = read_labels(file, grids) if file.is_file() and file.stat().st_size else {}

    def next(self) -> dict[str, int | None]:
        """Give the next pair without a label, None for its numbers where there is none, and how many are done."""
        left = [pair for pair in self.pairs if pair not in self.labels]
        grid, first, second = left[0] if left else (None, None, None)
        counts = {"labelled": len(self.pairs) - len(left), "num": len(self.pairs)}
        return {"grid": grid, "first": first, "second": second, **counts}

    def label(self, pair: Key, same: bool) -> None:
        """Set the label of a pair; the last one holds. KeyError where it is not one of the pairs."""
        if pair not in self.known:
            raise KeyError(pair)
        with self.lock:
            self.labels.pop(pair, None)
            self.labels[pair] = same
            self.save()

    def undo(self) -> None:
        """Remove the last label."""
        with self.lock:
            if self.labels:
                self.labels.popitem()
                self.save()

    def save(self) -> None:
        """Write all labels, one JSON object a line."""
        of = {"grids": self.grids} if self.grids else {}
        rows = [{"grid": g, "first": a, "second": b, "same": same, **of} for (g, a, b), same in self.labels.items()]
        with atomic(self.file) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def panel(self, grid: int, number: int) -> bytes:
        """Encode the picture of a panel as PNG. KeyError where there is none."""
        table, row = self.place[grid, number]
        return png(self.tables[table][row]["image"])
