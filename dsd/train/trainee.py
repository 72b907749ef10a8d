"""The student while it is trained: divided among the processes, gathered where it is written."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from dsd.models.adapter import trainable_parameters
from dsd.models.student import Student
from dsd.train.checkpoint import TrainState, gather, gather_states, group_settings, load_checkpoint, save_checkpoint
from dsd.train.finite import Losses
from dsd.train.journal import METRICS, VALIDATION, forget_after
from dsd.train.output import save_student
from dsd.train.strategies import exchanged, strategy_of, whole


@dataclass(frozen=True)
class Facts:
    """What is known of a student when it is built."""

    dtype: torch.dtype  # of the computation
    sample_flops: float  # of one sample's forward and backward pass, on the largest canvas
    metadata: dict[str, Any]  # of the adapter's file
    init_adapter: str | None  # file of the adapter that training began from


class Trainee:
    """A transformer with its optimiser and its state. Every process calls every method."""

    def __init__(
        self, wrapped: nn.Module, optimizer: Any, accelerator: Accelerator, output_dir: Path, facts: Facts
    ) -> None:
        self.wrapped, self.optimizer, self.accelerator = wrapped, optimizer, accelerator  # as the launcher divided them
        self.output_dir, self.facts = output_dir, facts
        self.transformer: Any = accelerator.unwrap_model(wrapped)
        self.parameters = trainable_parameters(self.transformer)
        self.parameters_to_clip = [p for group in optimizer.param_groups for p in group["params"]]
        self.strategy = strategy_of(accelerator, optimizer)
        self.state, self.losses = TrainState(), Losses(accelerator)

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters, over all processes."""
        return sum(self.strategy.shape(p).numel() for p in self.parameters.values())

    def over(self, student: Any) -> Student:
        """Give a student this transformer, as its launcher wrapped it."""
        found: Student = replace(
            student, transformer=self.transformer, dtype=self.facts.dtype, wrapped=self.wrapped
        )  # fmt: skip
        return found

    @contextmanager
    def accumulate(self, last: bool) -> Iterator[None]:
        """Add up gradients; share them among the processes with the `last` micro-batch of a step."""
        if isinstance(self.wrapped, FSDPModule):  # accelerate does not do it for FSDP2
            self.wrapped.set_requires_gradient_sync(last)
        with self.accelerator.accumulate(self.wrapped):
            yield

    def tensors(self) -> dict[str, Tensor]:
        """Gather the trained tensors, whole, on the main process's CPU; {} on the others."""
        return gather(self.parameters, self.strategy, self.accelerator.is_main_process)

    def averages(self) -> dict[str, Tensor]:
        """Gather the moving averages of the trained tensors as `tensors` does; {} where there are none."""
        if not self.state.ema:
            return {}
        with exchanged(self.strategy.shards(), self.state.ema):
            return self.tensors()

    def resume(self) -> bool:
        """Go on from the newest checkpoint; False where there is none. Lines that were logged after it are dropped."""
        folder = self.output_dir / "checkpoints"
        resumed = load_checkpoint(folder, self.state, self.parameters, self.optimizer, self.strategy)
        if self.accelerator.is_main_process:
            for name in (METRICS, VALIDATION):
                forget_after(self.output_dir / name, self.state.step)
        return resumed

    def checkpoint(self, keep: int) -> None:
        """Write all that `resume` needs; the last `keep` checkpoints stay, and the best."""
        self.losses.refuse_nan()
        on_main, tensors = self.accelerator.is_main_process, self.tensors()
        self.losses.refuse_weights(self.state.step, tensors)
        averages, states = self.averages(), gather_states(self.parameters, self.strategy, on_main)
        if on_main:
            folder = self.output_dir / "checkpoints"
            save_checkpoint(folder, self.state, tensors, averages, states, group_settings(self.optimizer), keep)
        self.accelerator.wait_for_everyone()

    def write(self, folder: Path) -> None:
        """Write the student, or its moving average where there is one, for inference."""
        tensors = self.tensors()
        self.losses.refuse_weights(self.state.step, tensors)
        averages = self.averages()
        if self.accelerator.is_main_process:
            metadata = {**self.facts.metadata, "num_steps": self.state.step}
            save_student(folder, averages or tensors, self.transformer, metadata, self.facts.init_adapter)


def whole_norm(norm: Any) -> Tensor:
    """Convert a launcher's gradient norm (a number, a tensor, or FSDP2's divided tensor) to a tensor ()."""
    return torch.as_tensor(0.0 if norm is None else whole(norm)).detach().float()
