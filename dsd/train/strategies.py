"""Read and write trained parameters and their optimiser state as whole tensors, however the processes share them.

A checkpoint holds whole tensors by name. So a run can go on under another launcher or with another number of processes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

State = dict[str, Any]  # of a parameter in its optimiser: tensors of its shape, and numbers


class Strategy(Protocol):
    """Reads and writes whole tensors. Every process calls it for every parameter, in the same order."""

    def shape(self, parameter: nn.Parameter) -> torch.Size:
        """Give the shape of the whole parameter."""
        ...

    def shards(self) -> list[Tensor]:
        """Give this process's part of all that is trained, without a copy: writing into it changes the parameters."""
        ...

    def read(self, parameter: nn.Parameter) -> Tensor:
        """Gather the whole parameter."""
        ...

    def write(self, parameter: nn.Parameter, value: Tensor) -> None:
        """Write the whole parameter; each process keeps its part."""
        ...

    def read_state(self, parameter: nn.Parameter) -> State:
        """Gather the whole optimiser state of the parameter."""
        ...

    def write_state(self, parameter: nn.Parameter, state: State) -> None:
        """Write the whole optimiser state of the parameter; each process keeps its part."""
        ...


class Whole:
    """One process, or DDP: every process holds whole parameters."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def shape(self, parameter: nn.Parameter) -> torch.Size:
        return parameter.shape

    def shards(self) -> list[Tensor]:
        parameters = [p.detach() for group in self.optimizer.param_groups for p in group["params"]]
        return [p.to_local() if isinstance(p, DTensor) else p for p in parameters]

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
        """Move a tensor of the parameter's shape to its device."""
        same = isinstance(value, Tensor) and value.shape == parameter.shape
        return value.to(parameter.device) if same else value


class Fsdp2(Whole):
    """FSDP2: every process holds a slice of every parameter."""

    def read(self, parameter: nn.Parameter) -> Tensor:
        value: Tensor = whole(parameter.detach())
        return value

    def write(self, parameter: nn.Parameter, value: Tensor) -> None:
        super().write(parameter, sliced(value, parameter))

    def read_state(self, parameter: nn.Parameter) -> State:
        return {name: whole(value) for name, value in super().read_state(parameter).items()}

    def write_state(self, parameter: nn.Parameter, state: State) -> None:
        self.optimizer.state[parameter] = {name: sliced(value, parameter) for name, value in state.items()}


class Zero2:
    """DeepSpeed ZeRO-2: whole parameters; each process holds flat slices of fp32 copies and of the optimiser state."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer  # DeepSpeed's, around the config's own
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

    def shape(self, parameter: nn.Parameter) -> torch.Size:
        return parameter.shape

    def shards(self) -> list[Tensor]:
        return [flat.detach() for flat in self.optimizer.single_partition_of_fp32_groups]

    def read(self, parameter: nn.Parameter) -> Tensor:
        value: Tensor = self.get(parameter)
        return value

    def write(self, parameter: nn.Parameter, value: Tensor) -> None:
        """Write the fp32 copy and the parameter that the next forward pass reads."""
        self.set(parameter, value.to(parameter.device, torch.float32))
        with self.gathered([parameter], modifier_rank=0), torch.no_grad():
            parameter.copy_(value)

    def read_state(self, parameter: nn.Parameter) -> State:
        of_slice = next(self._slices(), {})
        names = [name for name, value in of_slice.items() if isinstance(value, Tensor) and value.numel() > 1]
        state: State = {name: self.get_state(parameter, name) for name in names}
        return state | {name: value for name, value in of_slice.items() if name not in names}

    def write_state(self, parameter: nn.Parameter, state: State) -> None:
        if not any(self.optimizer.optimizer.state.values()):
            self._make_state([name for name, value in state.items() if isinstance(value, Tensor) and value.ndim])
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == self.shape(parameter):
                self.set_state(parameter, value.to(parameter.device), name)
            else:
                for of_slice in self._slices():
                    of_slice[name] = value.clone() if isinstance(value, Tensor) else value

    def _make_state(self, names: Sequence[str]) -> None:
        """Make the optimiser state, which DeepSpeed does at the first step only, and link it to the parameters."""
        from deepspeed.utils.mixed_precision_linkage import lazy_init_hp_params_optimizer_state

        flats, inner = self.optimizer.single_partition_of_fp32_groups, self.optimizer.optimizer
        for parameters, flat in zip(self.optimizer.bit16_groups, flats, strict=True):
            inner.state[flat] = {name: torch.zeros_like(flat) for name in names}
            lazy_init_hp_params_optimizer_state(parameters, flat, inner.state)

    def _slices(self) -> Iterator[State]:
        """Iterate over the states of this process' slices."""
        return iter(self.optimizer.optimizer.state.values())


class Zero3(Zero2):
    """DeepSpeed ZeRO-3: parameters are divided, too."""

    def shape(self, parameter: nn.Parameter) -> torch.Size:
        whole_shape: torch.Size = parameter.ds_shape  # type: ignore[attr-defined]  # DeepSpeed's; `shape` is a slice's
        return whole_shape

    def shards(self) -> list[Tensor]:
        return [flat.detach() for flat in self.optimizer.fp32_partitioned_groups_flat]

    def _make_state(self, names: Sequence[str]) -> None:
        for flat in self.optimizer.fp32_partitioned_groups_flat:
            self.optimizer.optimizer.state[flat] = {name: torch.zeros_like(flat) for name in names}


def strategy_of(accelerator: Accelerator, optimizer: Any) -> Strategy:
    """Choose the strategy of an optimiser that the accelerator has prepared."""
    inner = optimizer.optimizer
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return Zero3(inner) if accelerator.deepspeed_plugin.zero_stage == 3 else Zero2(inner)
    sharded = any(isinstance(p, DTensor) for group in inner.param_groups for p in group["params"])
    return Fsdp2(inner) if sharded else Whole(inner)


@contextmanager
def exchanged(first: Sequence[Tensor], second: Sequence[Tensor]) -> Iterator[None]:
    """Within it, two lists of tensors hold each other's values."""

    def exchange() -> None:
        with torch.no_grad():
            for one, other in zip(first, second, strict=True):
                kept = one.clone()
                one.copy_(other)
                other.copy_(kept)

    exchange()
    try:
        yield
    finally:
        exchange()


def whole(value: Any) -> Any:
    """Gather a tensor that FSDP2 has divided; return anything else as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def sliced(value: Any, like: nn.Parameter) -> Any:
    """Divide a whole tensor as the parameter of its shape is divided; return anything else as it is."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device, like.dtype), like.device_mesh, like.placements)
