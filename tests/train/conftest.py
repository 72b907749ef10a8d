"""Processes that a test starts end with it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from uuid import uuid4

import psutil
import pytest

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")
MARK = "DSD_TEST_SPAWNED"  # in the environment of all that a test starts


class Spawner:
    """Starts Python processes, and knows all that came of them, also ranks whose torchrun is gone."""

    def __init__(self) -> None:
        self.mark, self.started = uuid4().hex, list[subprocess.Popen]()

    def __call__(self, *arguments: object, processes: int = 1, **settings: Any) -> subprocess.Popen:
        """Start Python with arguments, under torchrun where `processes` is more than 1."""
        torchrun = (*TORCHRUN, processes) if processes > 1 else ()
        command = [sys.executable, *map(str, (*torchrun, *arguments))]
        environment = {**os.environ, MARK: self.mark}
        self.started.append(subprocess.Popen(command, text=True, env=environment, **settings))
        return self.started[-1]

    def alive(self) -> list[psutil.Process]:
        """All processes that run: each session of torchrun's ranks is its own, so a process group would miss them."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def end(self) -> None:
        """Kill what still runs."""
        while left := self.alive():
            for process in left:
                with suppress(psutil.Error):
                    process.kill()
        for process in self.started:
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


@pytest.fixture
def spawn() -> Iterator[Spawner]:
    """Start processes that end with the test, also when it fails or times out."""
    spawner = Spawner()
    yield spawner
    spawner.end()
