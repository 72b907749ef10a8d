"""What happens between steps; each hook knows its own turn."""

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from dsd.files import atomic
from dsd.train.checkpoint import TrainState

Hook = Callable[[TrainState, dict[str, Tensor]], None]
SHOWN = {  # beside the bar
    "loss": "loss", "grad": "grad_norm", "lr": "lr", "samples/s": "samples_per_second", "wait": "data_wait",
    "mfu": "mfu", "GB": "memory_gb",
}  # fmt: skip


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
        flops: float,
        peak: float | None,
    ) -> None:
        self.file, self.every, self.bar, self.accelerator, self.batch = file, every, bar, accelerator, batch
        self.num_steps = num_steps
        self.flops, self.peak = flops, peak  # of a sample; of a device in a second, where it is known
        self.sums: dict[str, Any] = {}
        self.since, self.began = state.step, time.monotonic()
        if accelerator.is_main_process:
            forget_after(file, state.step)

    def __call__(self, state: TrainState, metrics: dict[str, Tensor]) -> None:
        self.bar.update()
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0) + value
        if state.step % self.every and state.step < self.num_steps:
            return
        steps, seconds = state.step - self.since, time.monotonic() - self.began
        line = {name: float(total) / steps for name, total in self.sums.items()}
        line["data_wait"] = line.pop("data_seconds") * steps / seconds
        line["samples_per_second"] = steps * self.batch / seconds
        line["tflops"] = line["samples_per_second"] * self.flops / self.accelerator.num_processes / 1e12
        if self.peak:
            line["mfu"] = line["tflops"] * 1e12 / self.peak
        line["memory_gb"] = peak_memory(self.accelerator.device)
        self.sums, self.since, self.began = {}, state.step, time.monotonic()
        self.bar.set_postfix({name: f"{line[key]:.3g}" for name, key in SHOWN.items() if key in line})
        self.accelerator.log(line, step=state.step)
        if self.accelerator.is_main_process:
            append(self.file, {"step": state.step, **line})


class Checkpoint:
    """Every `every` steps, at the end, and when the process has been told to stop."""

    def __init__(self, save: Callable[[], None], every: int, num_steps: int, stopping: Callable[[], bool]) -> None:
        self.save, self.every, self.num_steps, self.stopping = save, every, num_steps, stopping

    def __call__(self, state: TrainState, metrics: dict[str, Tensor]) -> None:
        if state.step % self.every == 0 or state.step == self.num_steps or self.stopping():
            self.save()


class Ema:
    """A moving average of the trained tensors, whose half-life is counted in samples: the same for any batch size."""

    def __init__(self, read: Callable[[], dict[str, Tensor]], half_life: float, batch_size: int) -> None:
        self.read, self.keep = read, 0.5 ** (batch_size / half_life)

    def __call__(self, state: TrainState, metrics: dict[str, Tensor]) -> None:
        for name, tensor in self.read().items():
            if name in state.ema:
                state.ema[name].lerp_(tensor.to(state.ema[name]), 1 - self.keep)
            else:
                state.ema[name] = tensor.float().clone()


def peak_memory(device: torch.device) -> float:
    """GB: of the GPU where there is one, otherwise of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def append(file: Path, line: dict[str, Any]) -> None:
    """A line of JSON, with six significant digits."""
    rounded = {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in line.items()}
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(rounded) + "\n")


def forget_after(file: Path, step: int) -> None:
    """What an interrupted run logged after its last checkpoint is logged again."""
    if file.exists():
        lines = [
            line for line in file.read_text().splitlines() if whole_line(line) and json.loads(line)["step"] <= step
        ]
        with atomic(file) as temporary:
            temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def whole_line(line: str) -> bool:
    """A kill may cut the last one."""
    try:
        return "step" in json.loads(line)
    except ValueError:
        return False
