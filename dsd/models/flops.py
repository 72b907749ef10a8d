"""Count the floating-point operations of a transformer, and measure what a GPU can do."""

import time
from typing import Any

import torch
from torch import nn

from dsd.models.families import Family, block_lists
from dsd.models.families.flux1 import FAMILY as FLUX1


def forward_flops(
    transformer: Any, image_tokens: int, text_tokens: int, family: Family = FLUX1
) -> tuple[float, float]:  # fmt: skip
    """Count one sample's forward: (matrices, attention). FLUX.1-dev: 12.91 GFLOP a token + 4 L^2 d a block.

    Modulations act on one vector and are left out.
    """
    matrices, attention = 0.0, 0.0
    for name, blocks in block_lists(transformer).items():
        seen, together = family.block_tokens(name, image_tokens, text_tokens)
        matrices += sum(2 * weights(block) * seen for block in blocks)
        attention += len(blocks) * 4 * together**2 * family.width(transformer)
    return matrices, attention


def lora_step_flops(transformer: Any, image_tokens: int, text_tokens: int, family: Family = FLUX1) -> float:
    """Count forward and backward of one sample through frozen weights with a LoRA, without recomputing."""
    matrices, attention = forward_flops(transformer, image_tokens, text_tokens, family)
    lora = 0.0
    for name, blocks in block_lists(transformer).items():
        seen, _ = family.block_tokens(name, image_tokens, text_tokens)
        lora += sum(6 * p.numel() * seen for part, p in blocks.named_parameters() if "lora_" in part)
    return 2 * matrices + 3 * attention + lora


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
