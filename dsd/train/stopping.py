"""Told to stop, all ranks stop after the same step."""

import signal
from types import FrameType

import torch
from accelerate import Accelerator

from dsd.train.checkpoint import TrainState


class Stopping:
    """Whether some rank has had SIGTERM or SIGUSR1: `stopping()`, asked by every rank after the same steps.

    Signals reach ranks at different times. A rank that left by itself would leave the others waiting for its gradients,
    so ranks put together what they have heard, once a step; whoever asks again after the same step hears the same.
    """

    def __init__(self, accelerator: Accelerator, state: TrainState) -> None:
        self.accelerator, self.state = accelerator, state
        self.told, self.asked_at, self.answer = False, -1, False
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._hear)

    def __call__(self) -> bool:
        if self.asked_at != self.state.step:
            self.asked_at, self.answer = self.state.step, self.told
            if self.accelerator.num_processes > 1:
                told = torch.tensor(float(self.told), device=self.accelerator.device)
                self.answer = bool(self.accelerator.reduce(told, "sum"))
        return self.answer

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.told = True
