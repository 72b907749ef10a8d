"""What happens between steps. Each hook knows its own turn."""

import resource
import time
from typing import Any

import torch
from torch import Tensor

from dsd.train.journal import METRICS, append
from dsd.train.loop import Metrics, Plan
from dsd.train.stopping import Stopping
from dsd.train.trainee import Trainee

SHOWN = {  # beside the progress
    "loss": "loss", "grad": "grad_norm", "lr": "lr", "samples/s": "samples_per_second", "wait": "data_wait",
    "mfu": "mfu", "GB": "memory_gb",
}  # fmt: skip


class Log:
    """Every `every` steps and at the last: metrics.jsonl, the loggers, the progress. Means over the steps between."""

    def __init__(self, every: int, plan: Plan, bar: Any, first_step: int, device_flops: float | None) -> None:
        self.every, self.plan, self.bar = every, plan, bar
        self.device_flops = device_flops  # of a second, where it is known
        self.sums: dict[str, Tensor] = {}
        self.since, self.began = first_step, time.monotonic()

    def __call__(self, trainee: Trainee, metrics: Metrics) -> None:
        step = trainee.state.step
        for name, value in metrics.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        if step % self.every == 0 or step == self.plan.num_steps:
            trainee.losses.refuse_nan()
            line = self._line(trainee, step - self.since, time.monotonic() - self.began)
            self.sums, self.since, self.began = {}, step, time.monotonic()
            shown = {name: f"{line[key]:.3g}" for name, key in SHOWN.items() if key in line}
            self.bar.set_postfix(shown)
            trainee.accelerator.log(line, step=step)
            if trainee.accelerator.is_main_process:
                append(trainee.output_dir / METRICS, {"step": step, **line})
        self.bar.update()

    def _line(self, trainee: Trainee, steps: int, seconds: float) -> dict[str, float]:
        """Compute the means and rates of the last `steps` steps."""
        line = {name: float(total) / steps for name, total in self.sums.items()}
        line["data_wait"] = line.pop("data_seconds") * steps / seconds
        line["samples_per_second"] = steps * self.plan.batch_size / seconds
        flops = line["samples_per_second"] * trainee.facts.sample_flops
        line["tflops"] = flops / trainee.accelerator.num_processes / 1e12
        if self.device_flops:
            line["mfu"] = line["tflops"] * 1e12 / self.device_flops
        line["memory_gb"] = peak_memory(trainee.accelerator.device)
        return line


class Checkpoint:
    """Every `every` steps, at the last, and when the process has been told to stop."""

    def __init__(self, every: int, keep: int, plan: Plan, stopping: Stopping) -> None:
        self.every, self.keep, self.plan, self.stopping = every, keep, plan, stopping

    def __call__(self, trainee: Trainee, metrics: Metrics) -> None:
        step = trainee.state.step
        if step % self.every == 0 or step == self.plan.num_steps or self.stopping():
            trainee.checkpoint(self.keep)


class Ema:
    """A moving average of the trained tensors. Its half-life is counted in samples, so any batch size will do.

    Each process averages what it holds, where it holds it; checkpoints gather the averages.
    """

    def __init__(self, half_life: float, batch_size: int) -> None:
        self.keep = 0.5 ** (batch_size / half_life)

    def __call__(self, trainee: Trainee, metrics: Metrics) -> None:
        state, shards = trainee.state, trainee.strategy.shards()
        if state.ema:
            torch._foreach_lerp_(state.ema, shards, 1 - self.keep)
        else:
            state.ema = [shard.clone() for shard in shards]


def peak_memory(device: torch.device) -> float:
    """Measure the most memory used so far in GB: the GPU's where there is one, otherwise this process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
