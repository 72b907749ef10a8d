"""End in one line when another rank is lost: killed, or not answering within timeout_minutes.

Every rank holds a lock in the output folder, which the kernel releases when the rank ends, however that happens. So a
rank that is left finds out who ended. Of the ranks that are left, the first one speaks.
"""

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from dsd.errors import UserError
from dsd.runs.identity import LOCKS
from dsd.runs.run import lock_of

LATER = 3.0  # seconds that the other ranks that are left stay, so that the first one does not count them as lost
SIGNS = re.compile(  # by message: gloo raises a plain RuntimeError
    r"gloo|NCCL|Connection (closed|reset)|Timed out|timed out|Broken pipe|Socket|process group|store->get",
    re.IGNORECASE,
)


@contextmanager
def one_line_when_lost(output_dir: Path, minutes: float) -> Iterator[None]:
    """Turn the error of a collective operation into a UserError on the first rank that is left; end the others."""
    try:
        yield
    except RuntimeError as error:
        ranks, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
        if ranks == 1 or not SIGNS.search(str(error)):
            raise
        signal.signal(
            signal.SIGTERM, signal.SIG_IGN
        )  # torchrun sends it to those that are left, before they have spoken
        lost = {other: how for other in range(ranks) if other != rank and (how := state_of(output_dir, other))}
        first_left = min(other for other in range(ranks) if other not in lost)
        if rank != first_left:
            time.sleep(LATER)
            raise SystemExit(2) from error
        told = ", ".join(f"rank {other} {how}" for other, how in lost.items())
        told = told or f"a rank did not answer within timeout_minutes={minutes:g}"
        raise UserError(f"{told}; all ranks end, and the same command goes on from the last checkpoint") from error


def state_of(output_dir: Path, rank: int) -> str:
    """Say how a rank was lost, "" where it seems to be at work."""
    holder = output_dir / LOCKS / f"train-{rank}.txt"
    who = holder.read_text(encoding="utf-8").strip() if holder.is_file() else ""
    shown = f" ({who})" if who else ""
    lock = lock_of(output_dir, f"train-{rank}")
    try:
        lock.acquire(timeout=0)
        lock.release()
        return f"has ended{shown}"
    except Timeout:
        return f"is stopped{shown}" if is_stopped(who) else ""


def is_stopped(who: str) -> bool:
    """Tell whether "process 12 on host" is a process of this host that a signal has stopped."""
    found = re.fullmatch(r"process (\d+) on (.+)", who)
    if not found or found[2] != socket.gethostname():
        return False
    try:
        state = Path(f"/proc/{found[1]}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state in ("T", "t")
