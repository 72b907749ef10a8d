"""Show how far a long job is: a bar on a terminal, otherwise a plain line every 30 seconds."""

import sys
import time
from collections.abc import Mapping
from typing import Any, Self

from tqdm import tqdm

EVERY = 30.0  # seconds between plain lines
PLAIN = "{desc}: {n_fmt}/{total_fmt}, {rate_fmt}, {remaining} left{postfix}"


class Lines:
    """Prints lines that a log file can keep, without carriage returns: one every 30 seconds and one at the end."""

    def __init__(self, total: int, description: str, unit: str, initial: int, shown: bool) -> None:
        self.total, self.description, self.unit, self.initial, self.shown = total, description, unit, initial, shown
        self.n, self.postfix = initial, ""
        self.began = self.last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, n: int = 1) -> None:
        """Count `n` more."""
        self.n += n
        due = time.monotonic() - self.last >= EVERY or self.n >= self.total
        if self.shown and n and due:
            self.last = time.monotonic()
            print(self, file=sys.stderr, flush=True)

    def set_postfix(self, values: Mapping[str, str] | None = None, refresh: bool = True, **more: str) -> None:
        """Show these values beside the count; the arguments are tqdm's."""
        self.postfix = ", ".join(f"{name}={value}" for name, value in {**(values or {}), **more}.items())

    def __str__(self) -> str:
        return tqdm.format_meter(
            self.n, self.total, time.monotonic() - self.began, prefix=self.description, unit=self.unit,
            bar_format=PLAIN, postfix=self.postfix, initial=self.initial,
        )  # fmt: skip


def progress(total: int, description: str, unit: str, *, initial: int = 0, shown: bool = True) -> Any:
    """Open a progress display with rate and time left: `with progress(64, "grids", "grid") as bar: bar.update(2)`."""
    if sys.stderr.isatty():
        return tqdm(total=total, desc=description, unit=unit, initial=initial, mininterval=1, disable=not shown)
    return Lines(total, description, unit, initial, shown)
