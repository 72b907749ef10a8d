"""The training loop. The method is in `loss.py`, what a step draws in `data/sampling.py`, the rest in `hooks.py`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsd.train.data.batch import Batch
from dsd.train.data.sampling import Sampling
from dsd.train.finite import Loss
from dsd.train.lost import Watch
from dsd.train.trainee import Trainee, whole_norm

Objective = Callable[[Batch], Tensor]  # loss of each sample, (B,)
Metrics = dict[str, Tensor]
Hook = Callable[[Trainee, Metrics], None]  # called after every step; each knows its own turn


@dataclass(frozen=True)
class Plan:
    """How many steps of how many samples, and how fast."""

    num_steps: int
    batch_size: int  # of the whole step: all processes, all micro-batches
    accumulation: int  # micro-batches a step and process
    learning_rate: float
    warmup_steps: int
    decay: float  # share of the steps, at the end, in which the rate falls to 0
    max_grad_norm: float

    def rate(self, step: int) -> float:
        """Compute the learning rate of a step: warm-up, plateau, linear fall."""
        falling = (self.num_steps - step) / (self.decay * self.num_steps) if self.decay else 1.0
        return self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup_steps), falling)


def train(
    trainee: Trainee, objective: Objective, sampling: Sampling, plan: Plan, hooks: Sequence[Hook],
    stopping: Callable[[], bool], watch: Watch,
) -> None:  # fmt: skip
    """Train from the trainee's step to the last one, or until `stopping()`."""
    while trainee.state.step < plan.num_steps and not stopping():
        with watch:
            metrics = take_step(trainee, objective, sampling, plan)
        for hook in hooks:
            hook(trainee, metrics)


def take_step(trainee: Trainee, objective: Objective, sampling: Sampling, plan: Plan) -> Metrics:
    """Take one optimiser step; return its metrics, which stay on the device."""
    accelerator, optimizer, step = trainee.accelerator, trainee.optimizer, trainee.state.step
    ranks, rank = accelerator.num_processes, accelerator.process_index
    micro_batch = plan.batch_size // (ranks * plan.accumulation)
    total, waited = torch.zeros((), device=accelerator.device), 0.0
    norm: Tensor | float | None = None
    positions: list[int] = []
    for group in optimizer.param_groups:
        group["lr"] = plan.rate(step)
    for part in range(plan.accumulation):
        first = step * plan.batch_size + (part * ranks + rank) * micro_batch
        began = time.perf_counter()
        batch = sampling.batch(range(first, first + micro_batch)).to(accelerator.device)
        waited += time.perf_counter() - began
        with trainee.accumulate(last=part == plan.accumulation - 1):
            loss = objective(batch).mean()
            total += loss.detach() / plan.accumulation
            positions += batch.positions
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(trainee.parameters_to_clip, plan.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    mean = accelerator.reduce(total, "mean")
    length = whole_norm(norm)
    scaled = accelerator.mixed_precision == "fp16"  # its scaler skips steps whose gradient is not finite
    trainee.losses.add(Loss(step, mean, total, tuple(positions), torch.zeros(()) if scaled else length))
    trainee.state.step += 1
    return {
        "loss": mean,
        "grad_norm": length,
        "lr": torch.tensor(plan.rate(step)),
        "data_seconds": torch.tensor(waited),
    }
