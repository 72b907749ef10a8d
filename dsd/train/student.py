"""The student while it is trained: divided among the processes, gathered where it is written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from dsd.models.adapter import trainable_parameters
from dsd.train.checkpoint import TrainState, gather, gather_states, group_settings, load_checkpoint, save_checkpoint
from dsd.train.output import save_student
from dsd.train.strategies import strategy_of


class Student:
    """A transformer with its optimiser and where the two stand. Every process calls every method."""

    def __init__(
        self,
        shared: torch.nn.Module,
        optimizer: Any,
        accelerator: Accelerator,
        metadata: dict[str, Any],
        init_adapter: str | None = None,
    ) -> None:
        self.shared, self.optimizer, self.accelerator = shared, optimizer, accelerator  # as the launcher divided them
        self.metadata, self.init_adapter = metadata, init_adapter
        self.model: Any = accelerator.unwrap_model(shared)  # a FluxTransformer2DModel
        self.parameters = trainable_parameters(self.model)
        self.strategy = strategy_of(accelerator, optimizer)
        self.state = TrainState()

    @property
    def num_parameters(self) -> int:
        """That are trained, over all processes."""
        return sum(getattr(p, "ds_numel", p.numel()) for p in self.parameters.values())

    def tensors(self) -> dict[str, Tensor]:
        """What is trained, whole, on the CPU."""
        return gather(self.parameters, self.strategy)

    def resume(self, folder: Path) -> bool:
        """Go on from the newest checkpoint; False where there is none."""
        return load_checkpoint(folder, self.state, self.parameters, self.optimizer, self.strategy)

    def checkpoint(self, folder: Path, keep: int) -> None:
        """All that `resume` needs; the last `keep` stay, and the best."""
        tensors, states = self.tensors(), gather_states(self.parameters, self.strategy)
        if self.accelerator.is_main_process:
            save_checkpoint(folder, self.state, tensors, states, group_settings(self.optimizer), keep)
        self.accelerator.wait_for_everyone()

    def write(self, folder: Path) -> None:
        """The student as it is, or its moving average, for inference."""
        tensors = self.tensors()
        if self.accelerator.is_main_process:
            averaged: Mapping[str, Tensor] = {name: self.state.ema.get(name, t) for name, t in tensors.items()}
            metadata = {**self.metadata, "num_steps": self.state.step}
            save_student(folder, averaged, self.model, metadata, self.init_adapter)
