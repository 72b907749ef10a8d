"""Processes that a test starts end with it."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psutil
import pytest

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen]]:
    """Start Python with arguments, under torchrun where `processes` is more than 1.

    What still runs when the test ends, or fails, is killed with its children.
    """
    started: list[subprocess.Popen] = []

    def start(*arguments: object, processes: int = 1, **settings: Any) -> subprocess.Popen:
        torchrun = (*TORCHRUN, processes) if processes > 1 else ()
        started.append(subprocess.Popen([sys.executable, *map(str, (*torchrun, *arguments))], text=True, **settings))
        return started[-1]

    yield start
    for process in started:
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(process.pid)
            for each in (*parent.children(recursive=True), parent):
                with suppress(psutil.NoSuchProcess):
                    each.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
