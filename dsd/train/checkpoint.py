"""What must survive a kill: the trainable tensors, the optimiser, and the step. Randomness follows from the step."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dsd.manifest import atomic


@dataclass
class TrainState:
    """Where a run stands."""

    step: int = 0  # optimiser steps done


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def save_checkpoint(
    folder: Path, state: TrainState, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, keep: int
) -> None:
    """Write step-00000250/ under a temporary name, rename it, and drop all but the last `keep`."""
    path = folder / f"step-{state.step:08d}"
    if not path.exists():
        with atomic(path) as temporary:
            temporary.mkdir()
            tensors = {name: p.detach().cpu().contiguous() for name, p in parameters.items()}
            save_file(tensors, temporary / "trainable.safetensors")
            torch.save(optimizer.state_dict(), temporary / "optimizer.pt")
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)


def load_checkpoint(
    folder: Path, state: TrainState, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> bool:
    """Continue from the newest checkpoint; False when there is none."""
    found = checkpoints(folder)
    if not found:
        return False
    tensors = load_file(found[-1] / "trainable.safetensors")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
    optimizer.load_state_dict(torch.load(found[-1] / "optimizer.pt", weights_only=True))
    state.step = int(found[-1].name.removeprefix("step-"))
    return True
