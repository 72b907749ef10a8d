"""What each way of sharing makes of a parameter: how to read and write it whole, with its optimiser state, by name.

A checkpoint holds whole tensors by name, so that a run goes on under another strategy or another number of processes.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

State = dict[str, Any]  # of a parameter in its optimiser: tensors of its shape, and numbers


class Strategy(Protocol):
    """Reads and writes whole tensors; every process calls it for every parameter, in the same order."""

    def read(self, parameter: nn.Parameter) -> Tensor: ...

    def write(self, parameter: nn.Parameter, value: Tensor) -> None: ...

    def read_state(self, parameter: nn.Parameter) -> State: ...

    def write_state(self, parameter: nn.Parameter, state: State) -> None: ...


class Whole:
    """One process, or DDP: every process has all of it."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def read(self, parameter: nn.Parameter) -> Tensor:
        return parameter.detach()

    def write(self, parameter: nn.Parameter, value: Tensor) -> None:
        with torch.no_grad():
            parameter.copy_(value)

    def read_state(self, parameter: nn.Parameter) -> State:
        return dict(self.optimizer.state.get(parameter, {}))

    def write_state(self, parameter: nn.Parameter, state: State) -> None:
        self.optimizer.state[parameter] = {name: self._like(parameter, value) for name, value in state.items()}

    @staticmethod
    def _like(parameter: nn.Parameter, value: Any) -> Any:
        same = isinstance(value, Tensor) and value.shape == parameter.shape
        return value.to(parameter.device) if same else value


class Fsdp2(Whole):
    """Every process has a slice of every parameter."""

    def read(self, parameter: nn.Parameter) -> Tensor:
        return whole(parameter.detach())

    def write(self, parameter: nn.Parameter, value: Tensor) -> None:
        super().write(parameter, sliced(value, parameter))

    def read_state(self, parameter: nn.Parameter) -> State:
        return {name: whole(value) for name, value in super().read_state(parameter).items()}

    def write_state(self, parameter: nn.Parameter, state: State) -> None:
        self.optimizer.state[parameter] = {name: sliced(value, parameter) for name, value in state.items()}


class Zero:
    """DeepSpeed holds flat slices of all parameters, with fp32 masters."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer  # DeepSpeed's
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import (
            safe_get_full_fp32_param,
            safe_get_full_optimizer_state,
            safe_set_full_fp32_param,
            safe_set_full_optimizer_state,
        )

        self.gathered = GatheredParameters  # does nothing to a parameter that is not divided
        self.get, self.set = safe_get_full_fp32_param, safe_set_full_fp32_param
        self.get_state, self.set_state = safe_get_full_optimizer_state, safe_set_full_optimizer_state

    def read(self, parameter: nn.Parameter) -> Tensor:
        return self.get(parameter)

    def write(self, parameter: nn.Parameter, value: Tensor) -> None:
        """The master, and what the next forward sees."""
        self.set(parameter, value.to(parameter.device, torch.float32))
        with self.gathered([parameter], modifier_rank=0), torch.no_grad():
            parameter.copy_(value)

    def read_state(self, parameter: nn.Parameter) -> State:
        of_slices = next(self._slices(), {})
        names = [name for name, value in of_slices.items() if isinstance(value, Tensor) and value.numel() > 1]
        state: State = {name: self.get_state(parameter, name) for name in names}
        return state | {name: value for name, value in of_slices.items() if name not in names}

    def write_state(self, parameter: nn.Parameter, state: State) -> None:
        self._begin([name for name, value in state.items() if isinstance(value, Tensor) and value.ndim])
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == getattr(parameter, "ds_shape", parameter.shape):
                self.set_state(parameter, value.to(parameter.device), name)
            else:
                for of_slice in self._slices():
                    of_slice[name] = value.clone() if isinstance(value, Tensor) else value

    def _begin(self, names: list[str]) -> None:
        """The state is made at the first step, and only then can it be written; so make it here."""
        inner = self.optimizer.optimizer
        if any(inner.state.values()):
            return
        groups = [flat for group in inner.param_groups for flat in group["params"]]
        for flat in getattr(self.optimizer, "fp32_partitioned_groups_flat", groups):  # ZeRO-3 has more than it shows
            inner.state[flat] = {name: torch.zeros_like(flat) for name in names}
        if hasattr(self.optimizer, "_lazy_init_hp_params_optimizer_state"):  # ZeRO-2
            self.optimizer._lazy_init_hp_params_optimizer_state()

    def _slices(self) -> Iterator[State]:
        return iter(self.optimizer.optimizer.state.values())


def strategy_of(accelerator: Accelerator, optimizer: Any) -> Strategy:
    """For a prepared optimiser."""
    inner = optimizer.optimizer
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return Zero(inner)
    sharded = any(isinstance(p, DTensor) for group in inner.param_groups for p in group["params"])
    return Fsdp2(inner) if sharded else Whole(inner)


def whole(value: Any) -> Any:
    return value.full_tensor() if isinstance(value, DTensor) else value


def sliced(value: Any, like: nn.Parameter) -> Any:
    """A whole tensor of the parameter's shape as the parameter is divided; anything else as it is."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device, like.dtype), like.device_mesh, like.placements)
