"""What happens between steps; each hook knows its own turn."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from dsd.train.checkpoint import TrainState

Hook = Callable[[TrainState, dict[str, Tensor]], None]


class Log:
    """Every `every` steps and at the last: metrics.jsonl, the trackers, the bar. Means are over the steps between."""

    def __init__(
        self,
        file: Path,
        every: int,
        bar: tqdm,
        accelerator: Accelerator,
        state: TrainState,
        batch: int,
        num_steps: int,
    ) -> None:
        self.file, self.every, self.bar, self.accelerator, self.batch = file, every, bar, accelerator, batch
        self.num_steps = num_steps
        self.sums: dict[str, Any] = {}
        self.since, self.began = state.step, time.monotonic()
        if file.exists():  # what an interrupted run logged after its last checkpoint is logged again
            lines = [line for line in file.read_text().splitlines() if json.loads(line)["step"] <= state.step]
            file.write_text("".join(line + "\n" for line in lines))

    def __call__(self, state: TrainState, metrics: dict[str, Tensor]) -> None:
        self.bar.update()
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0) + value
        if state.step % self.every and state.step < self.num_steps:
            return
        steps, seconds = state.step - self.since, time.monotonic() - self.began
        line = {name: float(total) / steps for name, total in self.sums.items()}
        line["samples_per_second"] = steps * self.batch / seconds
        self.sums, self.since, self.began = {}, state.step, time.monotonic()
        self.bar.set_postfix(loss=f"{line['loss']:.4f}")
        self.accelerator.log(line, step=state.step)
        if self.accelerator.is_main_process:
            with self.file.open("a") as file:
                file.write(json.dumps({"step": state.step, **{k: round(v, 6) for k, v in line.items()}}) + "\n")


class Checkpoint:
    """Every `every` steps, at the end, and when the process has been told to stop."""

    def __init__(self, save: Callable[[], None], every: int, num_steps: int, stopping: Callable[[], bool]) -> None:
        self.save, self.every, self.num_steps, self.stopping = save, every, num_steps, stopping

    def __call__(self, state: TrainState, metrics: dict[str, Tensor]) -> None:
        if state.step % self.every == 0 or state.step == self.num_steps or self.stopping():
            self.save()
