"""Count the floating-point operations of a transformer, and measure what a GPU can do."""

import time
from typing import Any

import torch
from torch import nn

from dsd.models.families import Family


def forward_flops(family: Family, transformer: Any, image_tokens: int, text_tokens: int) -> tuple[float, float]:
    """Count one sample's forward: (matrices, attention). FLUX.1-dev: 12.91 GFLOP a token + 4 L^2 d a block.

    Either stream of a double block uses its own half of the weights; AdaLN acts on one vector and is left out.
    """
    tokens, blocks = image_tokens + text_tokens, [block for kind in family.blocks(transformer) for block in kind]
    matrices = sum(2 * weights(block) * tokens / (2 if is_double(block) else 1) for block in blocks)
    width = family.edges(transformer)[0].shape[0]
    return matrices, len(blocks) * 4 * tokens**2 * width


def lora_step_flops(family: Family, transformer: Any, image_tokens: int, text_tokens: int) -> float:
    """Count forward and backward of one sample through frozen weights with a LoRA, without recomputing."""
    matrices, attention = forward_flops(family, transformer, image_tokens, text_tokens)
    tokens = image_tokens + text_tokens
    lora = sum(
        6 * p.numel() * tokens / (2 if name.startswith("transformer_blocks") else 1)
        for name, p in transformer.named_parameters()
        if "lora_" in name
    )
    total: float = 2 * matrices + 3 * attention + lora
    return total


def is_double(block: nn.Module) -> bool:
    """Tell whether a block has a stream of its own for text."""
    return hasattr(block, "norm1_context")


def weights(block: nn.Module) -> int:
    """Count the weights in the matrices of a block that every token meets."""
    return sum(
        p.numel() for name, p in block.named_parameters()
        if p.ndim == 2 and "lora_" not in name and not name.startswith(("norm", "adaLN"))
    )  # fmt: skip


def matmul_flops(device: torch.device, size: int = 8192, repeats: int = 10) -> float:
    """Measure what this GPU does in a second with bf16 matrices; MFU is relative to it."""
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    for _ in range(repeats):
        a @ a
    torch.cuda.synchronize(device)
    return repeats * 2 * size**3 / (time.perf_counter() - began)
