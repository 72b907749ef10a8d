"""End in one line when another rank is lost: killed, or not answering within timeout_minutes.

Every rank holds a lock in the output folder, which the kernel releases when the rank ends, however that happens. So a
rank that is left finds out who ended. Of the ranks that are left, the first one speaks.
"""

import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from filelock import Timeout

from dsd.errors import UserError
from dsd.runs.identity import LOCKS
from dsd.runs.manifest import command_name
from dsd.runs.redaction import redact
from dsd.runs.run import lock_of

LATER = 3.0  # seconds that the other ranks that are left stay, so that the first one does not count them as lost
GRACE = 15.0  # seconds after timeout_minutes in which a collective operation may raise its own error
SIGNS = re.compile(  # by message: gloo raises a plain RuntimeError
    r"gloo|nccl|connection (closed|reset)|timed out|broken pipe|socket|process group|store->get", re.IGNORECASE
)


@contextmanager
def one_line_when_lost(output_dir: Path, minutes: float) -> Iterator[None]:
    """Turn the error of a collective operation into a UserError on the first rank that is left; end the others."""
    try:
        yield
    except RuntimeError as error:
        if int(os.environ.get("WORLD_SIZE", 1)) == 1 or not SIGNS.search(str(error)):
            raise
        signal.signal(
            signal.SIGTERM, signal.SIG_IGN
        )  # torchrun sends it to those that are left, before they have spoken
        said = speak_for_all(output_dir, minutes)
        if said is None:
            raise SystemExit(2) from error
        raise UserError(said) from error


class Watch:
    """Ends this process where one step takes longer than `minutes`.

    The groups of processes that DeepSpeed makes have no timeout of ours, and a wait in one of them cannot be
    interrupted. So a thread watches. It does nothing in a single process.
    """

    def __init__(self, output_dir: Path, minutes: float) -> None:
        self.output_dir, self.minutes = output_dir, minutes
        self.began: float | None = None  # of the step that is computed now
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            threading.Thread(target=self._watch, daemon=True).start()

    def __enter__(self) -> Self:
        self.began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.began = None

    def _watch(self) -> None:
        limit = 60 * self.minutes + GRACE
        while (began := self.began) is None or time.monotonic() - began < limit:
            time.sleep(1)
        said = speak_for_all(self.output_dir, self.minutes)
        if said is not None:
            print(redact(f"{command_name('train')}: error: {said}"), file=sys.stderr, flush=True)
        os._exit(2)  # the main thread waits in a collective operation


def speak_for_all(output_dir: Path, minutes: float) -> str | None:
    """Say which ranks are lost; None, after a while, on all ranks but the first one that is left."""
    ranks, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    until, lost = time.monotonic() + LATER, lost_ranks(output_dir, ranks, rank)
    while not lost and time.monotonic() < until:  # it may still be ending
        time.sleep(0.1)
        lost = lost_ranks(output_dir, ranks, rank)
    if any(other not in lost for other in range(rank)):
        time.sleep(2 * LATER)
        return None
    told = ", ".join(f"rank {other} {how}" for other, how in lost.items())
    told = told or f"a rank did not answer within timeout_minutes={minutes:g}"
    return f"{told}; all ranks end, and the same command goes on from the last checkpoint"


def lost_ranks(output_dir: Path, ranks: int, rank: int) -> dict[int, str]:
    """List the other ranks that have ended or are stopped, and how."""
    return {other: how for other in range(ranks) if other != rank and (how := state_of(output_dir, other))}


def state_of(output_dir: Path, rank: int) -> str:
    """Say how a rank was lost, "" where it seems to be at work."""
    holder = output_dir / LOCKS / f"train-{rank}.txt"
    who = holder.read_text(encoding="utf-8").strip() if holder.is_file() else ""
    shown = f" ({who})" if who else ""
    if (known := process_state(who)) in ("T", "t"):  # by a signal, or by a debugger
        return f"is stopped{shown}"
    if known in ("", "Z", "X"):  # gone; a child of it may hold the lock
        return f"has ended{shown}"
    lock = lock_of(output_dir, f"train-{rank}")
    try:
        lock.acquire(timeout=0)
        lock.release()
        return f"has ended{shown}"
    except Timeout:
        return ""


def process_state(who: str) -> str | None:
    """Read the state of "process 12 on host" from /proc, "" where it is gone; None where this host cannot know."""
    found = re.fullmatch(r"process (\d+) on (.+)", who)
    if not found or found[2] != socket.gethostname() or not Path("/proc/self/stat").exists():
        return None
    try:
        return Path(f"/proc/{found[1]}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return ""
