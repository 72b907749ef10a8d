"""The report of a run on a GPU: a line of JSON for every row, written at once, within a deadline."""

import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from gpu.timing import free

log = logging.getLogger(__name__)


class TimeUp(BaseException):
    """The time of a section is up. No `except Exception` of a library may catch it."""


@dataclass
class Report:
    """Rows, each on disk as soon as it is known."""

    file: Path
    device: torch.device
    ends: float  # of the clock `time.monotonic`
    rows: list[dict[str, Any]] = field(default_factory=list)
    section: str = "machine"
    began: float = field(default_factory=time.monotonic)
    section_ends: float = float("inf")

    def left(self) -> float:
        """Seconds left to the whole run."""
        return self.ends - time.monotonic()

    def left_here(self) -> float:
        """Seconds left to this section."""
        return min(self.ends, self.section_ends) - time.monotonic()

    def write(self, **values: Any) -> None:
        """Append a row and see it onto the disk: a run that is cut off leaves what it has done."""
        row = {"section": self.section, **values, "at": round(time.monotonic() - self.began, 1)}
        self.rows.append(row)
        with self.file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
            out.flush()
            os.fsync(out.fileno())
        print(shown(row), flush=True)

    def predict(self, name: str, unit: str, value: float | None) -> None:
        """Say what arithmetic expects before it is measured."""
        if value is not None:
            print(f"  {name}: predicted {value:.4g} {unit}", flush=True)

    def measure(
        self, name: str, unit: str, predicted: float | None, work: Callable[[], float | None], goal: str = "",
        must: float | None = None, **more: Any,
    ) -> float | None:  # fmt: skip
        """Predict, measure, and write both as one row; what fails is a row with its reason."""
        self.predict(name, unit, predicted)
        told = {"name": name, "unit": unit, "predicted": predicted, "goal": goal, "must": must, **more}
        began, found = time.monotonic(), None
        try:
            found = work()
            reason = {} if found is not None else {"skipped": "this device does not tell"}
        except Exception as error:  # of compilers, kernels and allocators, which have no common class
            log.info("gpu: %s", name, exc_info=True)
            reason = {"skipped": reason_of(error)}
        self.write(**told, measured=found, **reason, seconds=round(time.monotonic() - began, 2))
        return found

    def skip(self, name: str, reason: str, **more: Any) -> None:
        """Write a row that says why something was not measured."""
        self.write(name=name, skipped=reason, **more)

    def run(self, section: str, budget: float, work: Callable[[], None]) -> None:
        """Run a section within its seconds; whatever ends it, the next one begins with free memory."""
        self.section, granted = section, min(budget, self.left())
        if granted < 1:
            return self.skip(section, "the deadline has come")
        began = time.monotonic()
        self.section_ends = began + granted
        print(f"{section}, at most {granted:.0f} s:", flush=True)
        try:
            with alarm(granted):
                work()
        except TimeUp:
            self.skip(section, f"cut off after {granted:.0f} s")
        except Exception as error:  # as in `measure`
            log.warning("gpu: section %s failed", section, exc_info=True)
            self.skip(section, reason_of(error))
        free(self.device)


@contextmanager
def alarm(delay: float) -> Iterator[None]:
    """Raise TimeUp after `delay` seconds. An alarm that was set before is set again at the end."""

    def ring(_: int, __: FrameType | None) -> None:
        raise TimeUp

    handler = signal.signal(signal.SIGALRM, ring)
    began = time.monotonic()
    before, interval = signal.setitimer(signal.ITIMER_REAL, delay)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if before:
            signal.setitimer(signal.ITIMER_REAL, max(0.01, before - (time.monotonic() - began)), interval)


def reason_of(error: BaseException) -> str:
    """Take the kind and the first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def shown(row: dict[str, Any]) -> str:
    """Say a row in one line."""
    if "skipped" in row:
        return f"  {row['name']}: skipped, {row['skipped']}"
    told = f"{number(row['measured'])} {row['unit']}" if "measured" in row else ""
    return f"  {row['name']}: {told}"


def number(value: Any) -> str:
    """Say a number in four digits, and what is none as it is."""
    return "-" if value is None else f"{value:.4g}" if isinstance(value, int | float) else str(value)
