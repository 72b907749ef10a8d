"""Save and load what must survive a kill: the trained tensors whole and by name, optimiser state, EMA, and the step.

Randomness follows from the step. A checkpoint does not depend on the number of processes or on the launcher.
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from dsd.errors import UserError
from dsd.io.files import atomic, remove_stale, write_json
from dsd.io.inputs import first_problem, read_text, regular_file
from dsd.models.tensors import read_tensors, refuse_not_finite
from dsd.train.strategies import Strategy

LIKE = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")  # states that have the shape of their parameter
OTHER = "a checkpoint of another base or adapter; choose another output_dir=, or delete it"


@dataclass
class TrainState:
    """Where a run stands."""

    step: int = 0  # optimiser steps done
    best: float | None = None  # value of the chosen metric, and its step
    best_step: int | None = None
    ema: list[Tensor] = field(default_factory=list)  # moving average of `Strategy.shards`, on their device


class Stood(BaseModel):
    """What state.json holds."""

    step: Annotated[int, Field(ge=0)]
    best: float | None
    best_step: int | None


class Kept(BaseModel, arbitrary_types_allowed=True):
    """What optimizer.pt holds: the state of each parameter by name, and the settings of each group."""

    states: dict[str, dict[str, Any]]
    groups: list[dict[str, int | float | bool | str]]


@dataclass(frozen=True)
class Found:
    """What was read of a checkpoint."""

    tensors: dict[str, Tensor]
    ema: dict[str, Tensor]
    states: dict[str, dict[str, Any]]
    groups: list[dict[str, Any]]
    stood: Stood


def checkpoints(folder: Path) -> list[Path]:
    """List whole checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir() and re.fullmatch(r"step-\d{8,}", path.name))


def gather(parameters: Mapping[str, nn.Parameter], strategy: Strategy, keep: bool) -> dict[str, Tensor]:
    """Gather whole trained tensors. Every process calls it; those that `keep` them copy them to the CPU."""
    found: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        value = strategy.read(parameter)
        if keep:
            found[name] = value.to("cpu", copy=True).contiguous()
    return found


def gather_states(
    parameters: Mapping[str, nn.Parameter], strategy: Strategy, keep: bool
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Gather the optimiser's state of every parameter, as `gather` does the parameters."""
    found: dict[str, dict[str, Any]] = {}
    for name, parameter in parameters.items():
        state = strategy.read_state(parameter)
        if keep:
            found[name] = {k: v.to("cpu", copy=True) if isinstance(v, Tensor) else v for k, v in state.items()}
    return found


def save_checkpoint(
    folder: Path,
    state: TrainState,
    tensors: dict[str, Tensor],
    ema: dict[str, Tensor],
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
            if ema:
                save_file(ema, temporary / "ema.safetensors")
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
    read = read_checkpoint(path)
    refuse_other(path, read, {name: tuple(strategy.shape(p)) for name, p in parameters.items()}, optimizer)
    if read.ema:
        for name, parameter in parameters.items():
            strategy.write(parameter, read.ema[name])
        state.ema = [shard.clone() for shard in strategy.shards()]
    for name, parameter in parameters.items():
        strategy.write(parameter, read.tensors[name])
        strategy.write_state(parameter, read.states[name])
    for group, settings in zip(optimizer.param_groups, read.groups, strict=True):
        group.update(settings)
    state.step, state.best, state.best_step = read.stood.step, read.stood.best, read.stood.best_step
    return True


def read_checkpoint(path: Path) -> Found:
    """Read a checkpoint. UserError where it is damaged."""
    try:
        tensors, _ = read_tensors(path / "trainable.safetensors")
        ema = read_tensors(path / "ema.safetensors")[0] if (path / "ema.safetensors").exists() else {}
        given = read_optimizer(path / "optimizer.pt")
        stood = Stood.model_validate_json(read_text(path / "state.json"))
        if path.name != f"step-{stood.step:08d}":
            raise UserError(f"state.json: step {stood.step}")
        every = {f"optimizer state {key} of {name}": value for name, state in given["states"].items()
                 for key, value in state.items() if isinstance(value, Tensor)}  # fmt: skip
        for each in (tensors, ema, every):
            refuse_not_finite(path, each)
    except (UserError, ValidationError, OSError) as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else error
        remedy = "delete this folder to go on from the checkpoint before, or from the beginning"
        raise UserError(f"{path}: not a whole checkpoint ({reason}); {remedy}") from error
    return Found(tensors, ema, given["states"], given["groups"], stood)


def read_optimizer(file: Path) -> dict[str, Any]:
    """Read optimizer.pt. UserError where it is damaged, or holds anything but tensors and numbers."""
    try:
        found = torch.load(regular_file(file), map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch raise their own errors, without a common class
        raise UserError(f"{file.name}: {(str(error).splitlines() or ['?'])[0]}") from error
    Kept.model_validate(found)
    return dict(found)


def refuse_other(path: Path, read: Found, shapes: Mapping[str, tuple[int, ...]], optimizer: Any) -> None:
    """Raise UserError unless a checkpoint holds what is trained now, in its shapes."""
    if shapes != {name: tuple(tensor.shape) for name, tensor in read.tensors.items()}:
        raise UserError(f"{path}: {OTHER}")
    if read.ema and shapes != {name: tuple(tensor.shape) for name, tensor in read.ema.items()}:
        raise UserError(f"{path}: the average is of {OTHER}")
    like = [(name, value) for name, state in read.states.items() for key, value in state.items() if key in LIKE]
    sound = all(isinstance(value, Tensor) and tuple(value.shape) == shapes.get(name) for name, value in like)
    kinds = {frozenset(state) for state in read.states.values()}
    if shapes.keys() != read.states.keys() or len(kinds) > 1 or not sound:
        raise UserError(f"{path}: the optimiser's state is of {OTHER}")
    if len(read.groups) != len(optimizer.param_groups):
        raise UserError(f"{path}: the optimiser's settings are of {OTHER}")


def group_settings(optimizer: Any) -> list[dict[str, Any]]:
    """List the numbers that an optimiser keeps for all parameters together, such as Prodigy's estimate of the rate."""
    return [
        {name: value for name, value in group.items() if isinstance(value, (int, float, bool, str))}
        for group in optimizer.param_groups
    ]
