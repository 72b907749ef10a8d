"""Recompute blocks in the backward pass (activation checkpointing): as many as a memory budget asks for, no more."""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils.checkpoint import checkpoint

from dsd.models.families import Family, block_lists
from dsd.models.families.memory import joined_numbers, repeatable

log = logging.getLogger(__name__)


def recompute_blocks(
    family: Family, transformer: Any, budget_gb: float, batch_size: int, num_tokens: int, text_tokens: int,
    remembered: int = 0,
) -> int:  # fmt: skip
    """Recompute blocks, from the first, until what the others keep of a micro-batch fits; return how many.

    Each costs its forward pass again. What a block keeps is measured by running one of each kind. Call it as training
    will run: compiled if training is, within its autocast. A compiled block keeps about two thirds of an eager one.
    """
    blocks: list[Any] = []
    kept: list[int] = []
    for alike in block_lists(transformer).values():
        blocks += alike
        each = kept_bytes(family, transformer, alike[0], batch_size, num_tokens, text_tokens, remembered)
        kept += [each] * len(alike)
    num = next(num for num in range(len(kept) + 1) if sum(kept[num:]) <= budget_gb * 1e9 or num == len(kept))
    chosen = set(map(id, blocks[:num]))

    def call(block: Any, *inputs: Any) -> Any:
        if id(block) not in chosen:
            return block(*inputs)
        return checkpoint(repeatable(block), *inputs, use_reentrant=False)

    if num:
        transformer.enable_gradient_checkpointing(gradient_checkpointing_func=call)
        transformer.train()  # diffusers recomputes in this mode alone; no block has dropout
    log.info(
        "train: %d of %d blocks are computed twice; the others keep %.2f GB of activations", num, len(blocks),
        sum(kept[num:]) / 1e9,
    )  # fmt: skip
    return num


def kept_bytes(
    family: Family, transformer: Any, block: nn.Module, batch_size: int, num_tokens: int, text_tokens: int,
    remembered: int = 0,
) -> int:  # fmt: skip
    """Measure what autograd keeps of a block's forward pass, beside its weights and what all blocks share.

    Of the `num_tokens`, the student remembers the keys and values of `remembered`.
    """
    device = next(block.parameters()).device
    states = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else transformer.dtype

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, device=device, dtype=states, requires_grad=True)

    inputs = family.block_inputs(transformer, block, zeros, batch_size, num_tokens, text_tokens)
    shared = [t for t in torch.utils._pytree.tree_leaves(inputs) if isinstance(t, Tensor) and not t.requires_grad]
    known = {storage._cdata for t in (*block.parameters(), *block.buffers(), *shared) for storage in storages_of(t)}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept.update((storage._cdata, storage) for storage in storages_of(tensor) if storage._cdata not in known)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        block(**inputs)
    joined = batch_size * joined_numbers(block, remembered) * states.itemsize
    return joined + sum(storage.nbytes() for storage in kept.values())


def storages_of(tensor: Tensor) -> Iterator[torch.UntypedStorage]:
    """Iterate over a tensor's storages: of a quantised tensor, those of the tensors within it."""
    within: Any = tensor  # whose type does not say that it may hold others
    if is_traceable_wrapper_subclass(within):
        for name in within.__tensor_flatten__()[0]:
            yield from storages_of(getattr(within, name))
    else:
        yield tensor.untyped_storage()
