"""Stop all ranks after the same step when one of them is told to."""

import signal
from types import FrameType
from typing import Any, Self

import torch
from accelerate import Accelerator

from dsd.train.checkpoint import TrainState


class Stopping:
    """Whether some rank has received SIGTERM or SIGUSR1. Every rank asks `stopping()` after the same steps.

    Signals reach ranks at different times, and a rank that left by itself would leave the others waiting for its
    gradients. So the ranks exchange once a step what they have received; whoever asks again after the same step gets
    the same answer. Signals are received inside a `with`; afterwards the handlers from before return.
    """

    def __init__(self, accelerator: Accelerator, state: TrainState) -> None:
        self.accelerator, self.state = accelerator, state
        self.told, self.asked_at, self.answer = False, -1, False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.before = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGUSR1)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        if self.asked_at != self.state.step:
            self.asked_at, self.answer = self.state.step, self.told
            if self.accelerator.num_processes > 1:
                told = torch.tensor(float(self.told), device=self.accelerator.device)
                self.answer = bool(self.accelerator.reduce(told, "sum"))
        return self.answer

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.told = True
