"""Show how far a long job is: a bar on a terminal, otherwise a plain line every 30 seconds."""

import sys
from typing import Any

from tqdm import tqdm

EVERY = 30.0  # seconds between plain lines
PLAIN = "{desc}: {n_fmt}/{total_fmt}, {rate_fmt}, {remaining} left{postfix}"


class _Lines(tqdm):
    """Print lines that a log file can keep, without carriage returns."""

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Print the state; say nothing before the first step."""
        if self.n > self.initial:
            self.fp.write(f"{self}\n")
            self.fp.flush()
        return True


def progress(total: int, description: str, unit: str, *, initial: int = 0, shown: bool = True) -> Any:
    """Open a progress display with rate and time left: `with progress(64, "grids", "grid") as bar: bar.update(2)`."""
    if sys.stderr.isatty():
        return tqdm(total=total, desc=description, unit=unit, initial=initial, mininterval=1, disable=not shown)
    return _Lines(
        total=total, desc=description, unit=unit, initial=initial, disable=not shown,
        mininterval=EVERY, maxinterval=EVERY, bar_format=PLAIN,
    )  # fmt: skip
