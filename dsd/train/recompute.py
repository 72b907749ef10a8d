"""Recompute blocks in the backward pass (activation checkpointing): as many as a memory budget asks for, no more."""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dsd.models.families import Family, block_lists
from dsd.models.families.memory import repeatable

log = logging.getLogger(__name__)


def recompute_blocks(
    family: Family, transformer: Any, budget_gb: float, batch_size: int, num_tokens: int, text_tokens: int
) -> int:
    """Recompute blocks, from the first, until what the others keep of a micro-batch fits; return how many.

    Each costs its forward pass again. What a block keeps is measured by running one of each kind.
    """
    blocks: list[Any] = []
    kept: list[int] = []
    for alike in block_lists(transformer).values():
        blocks += alike
        kept += [kept_bytes(family, transformer, alike[0], batch_size, num_tokens, text_tokens)] * len(alike)
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
    family: Family, transformer: Any, block: nn.Module, batch_size: int, num_tokens: int, text_tokens: int
) -> int:
    """Measure what autograd keeps of a block's forward pass, beside its weights."""
    like = next(p for p in block.parameters())

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, device=like.device, dtype=like.dtype, requires_grad=True)

    storages: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in block.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        block(**family.block_inputs(transformer, block, zeros, batch_size, num_tokens, text_tokens))
    return sum(storages.values())
