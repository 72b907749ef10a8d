"""Recompute blocks in the backward pass (activation checkpointing): as many as a memory budget asks for, no more."""

import logging
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dsd.models.canvas import Canvas

log = logging.getLogger(__name__)


def recompute_blocks(
    transformer: FluxTransformer2DModel, budget_gb: float, batch_size: int, canvas: Canvas, text_tokens: int
) -> int:
    """Recompute blocks, from the first, until what the others keep of a micro-batch fits; return how many.

    Each costs its forward pass again. What a block keeps is measured by running one of each kind.
    """
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    kept: list[int] = []
    for kind in (transformer.transformer_blocks, transformer.single_transformer_blocks):
        kept += [kept_bytes(transformer, kind[0], batch_size, canvas, text_tokens)] * len(kind)
    num = next(num for num in range(len(kept) + 1) if sum(kept[num:]) <= budget_gb * 1e9 or num == len(kept))
    chosen = set(map(id, blocks[:num]))

    def call(block: Any, *inputs: Any) -> Any:
        return checkpoint(block, *inputs, use_reentrant=False) if id(block) in chosen else block(*inputs)

    if num:
        transformer.enable_gradient_checkpointing(gradient_checkpointing_func=call)
        transformer.train()  # diffusers recomputes in this mode alone; no block has dropout
    log.info(
        "train: %d of %d blocks are computed twice; the others keep %.2f GB of activations", num, len(blocks),
        sum(kept[num:]) / 1e9,
    )  # fmt: skip
    return num


def kept_bytes(
    transformer: FluxTransformer2DModel, block: nn.Module, batch_size: int, canvas: Canvas, text_tokens: int
) -> int:
    """Measure what autograd keeps of a block's forward pass, beside its weights."""
    like = next(p for p in block.parameters())
    width = transformer.inner_dim

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, device=like.device, dtype=like.dtype, requires_grad=True)

    ids = torch.cat([torch.zeros(text_tokens, 3), canvas.ids()]).to(like.device)
    storages: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in block.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        block(
            hidden_states=zeros(batch_size, canvas.num_tokens, width),
            encoder_hidden_states=zeros(batch_size, text_tokens, width),
            temb=zeros(batch_size, width),
            image_rotary_emb=transformer.pos_embed(ids),
        )
    return sum(storages.values())
