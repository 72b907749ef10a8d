"""Give a module random weights where it will run, at the speed of its memory: to measure speed, not to train."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

STD = 0.02
PATTERN = 2**20  # numbers; on a CPU they are drawn once and repeated, since drawing 12 billion takes minutes


@contextmanager
def empty(dtype: torch.dtype) -> Iterator[None]:
    """Within it, modules are made in a dtype without memory for parameters; buffers have their values."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with init_empty_weights(include_buffers=False):
            yield
    finally:
        torch.set_default_dtype(before)


@torch.no_grad()
def draw_weights(module: nn.Module, device: torch.device | str) -> None:
    """Replace all parameters, in place, by random ones on a device; buffers move there with their values.

    Matrices are normal with deviation 0.02, scales of norms are 1 and biases 0. Tied parameters stay tied.
    """
    place, made = torch.device(device), dict[int, tuple[nn.Parameter, nn.Parameter]]()  # the old one keeps its id
    for owner in module.modules():
        for name, old in owner._parameters.items():
            if old is None:
                continue
            if id(old) not in made:
                fresh = _drawn(old, name, place)
                made[id(old)] = old, nn.Parameter(fresh, requires_grad=old.requires_grad)
            owner._parameters[name] = made[id(old)][1]
        for name, buffer in owner._buffers.items():
            owner._buffers[name] = buffer if buffer is None else buffer.to(place)


def _drawn(like: Tensor, name: str, device: torch.device) -> Tensor:
    tensor = torch.empty(like.shape, dtype=like.dtype, device=device)
    if like.ndim < 2:
        return tensor.fill_(1.0 if name.endswith("weight") else 0.0)
    if device.type != "cpu":
        return tensor.normal_(std=STD)
    pattern = STD * torch.randn(min(PATTERN, tensor.numel()), generator=torch.Generator().manual_seed(0))
    for part in tensor.view(-1).split(len(pattern)):
        part.copy_(pattern[: len(part)])
    return tensor
