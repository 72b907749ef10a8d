"""Save and load what must survive a kill: the trained tensors whole and by name, optimiser state, EMA, and the step.

Randomness follows from the step. A checkpoint does not depend on the number of processes or on the launcher.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dsd.errors import UserError
from dsd.io.files import atomic, remove_stale, write_json
from dsd.train.strategies import Strategy


@dataclass
class TrainState:
    """Where a run stands."""

    step: int = 0  # optimiser steps done
    best: float | None = None  # value of the chosen metric, and its step
    best_step: int | None = None
    ema: dict[str, Tensor] = field(default_factory=dict)


def checkpoints(folder: Path) -> list[Path]:
    """List whole checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def gather(parameters: Mapping[str, nn.Parameter], strategy: Strategy) -> dict[str, Tensor]:
    """Gather whole trained tensors on the CPU. Every process calls it."""
    return {name: strategy.read(p).to("cpu", copy=True).contiguous() for name, p in parameters.items()}


def gather_states(parameters: Mapping[str, nn.Parameter], strategy: Strategy) -> dict[str, dict[str, Any]]:
    """Gather the optimiser's state of every parameter on the CPU. Every process calls it."""
    states = {name: strategy.read_state(parameter) for name, parameter in parameters.items()}
    return {
        name: {key: value.to("cpu", copy=True) if isinstance(value, Tensor) else value for key, value in state.items()}
        for name, state in states.items()
    }


def save_checkpoint(
    folder: Path,
    state: TrainState,
    tensors: dict[str, Tensor],
    states: dict[str, dict[str, Any]],
    groups: list[dict[str, Any]],
    keep: int,
) -> None:
    """Write step-00000250/ under a temporary name, rename it, and drop all but the last `keep` and the best."""
    path = folder / f"step-{state.step:08d}"
    remove_stale(folder / "step-*")
    if not path.exists():
        with atomic(path) as temporary:
            temporary.mkdir()
            save_file(tensors, temporary / "trainable.safetensors")
            if state.ema:
                save_file({name: tensor.cpu() for name, tensor in state.ema.items()}, temporary / "ema.safetensors")
            torch.save({"states": states, "groups": groups}, temporary / "optimizer.pt")
            write_json(temporary / "state.json", {"step": state.step, "best": state.best, "best_step": state.best_step})
    for old in checkpoints(folder)[:-keep]:
        if old.name != f"step-{state.best_step or 0:08d}":
            shutil.rmtree(old)


def load_checkpoint(
    folder: Path, state: TrainState, parameters: Mapping[str, nn.Parameter], optimizer: Any, strategy: Strategy
) -> bool:
    """Load the newest checkpoint; False where there is none. UserError where it does not fit the parameters."""
    found = checkpoints(folder)
    if not found:
        return False
    path = found[-1]
    try:
        tensors = load_file(path / "trainable.safetensors")
        kept = torch.load(path / "optimizer.pt", weights_only=True)
        ema = load_file(path / "ema.safetensors") if (path / "ema.safetensors").exists() else {}
        stood = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, RuntimeError, SafetensorError, ValueError) as error:
        raise UserError(f"{path}: not a whole checkpoint ({error}); delete it to go on from the one before") from error
    shapes = {name: tuple(strategy.shape(p)) for name, p in parameters.items()}
    if shapes != {name: tuple(tensor.shape) for name, tensor in tensors.items()}:
        raise UserError(f"{path}: a checkpoint of another base or adapter; choose another output_dir=, or delete it")
    for name, parameter in parameters.items():
        strategy.write(parameter, tensors[name])
        strategy.write_state(parameter, kept["states"][name])
    for group, settings in zip(optimizer.param_groups, kept["groups"], strict=True):
        group.update(settings)
    state.step, state.best, state.best_step = stood["step"], stood["best"], stood["best_step"]
    state.ema = ema
    return True


def group_settings(optimizer: Any) -> list[dict[str, Any]]:
    """List the numbers that an optimiser keeps for all parameters together, such as Prodigy's estimate of the rate."""
    return [
        {name: value for name, value in group.items() if isinstance(value, (int, float, bool, str))}
        for group in optimizer.param_groups
    ]
