"""Count the floating-point operations of FLUX, and measure what a GPU can do."""

import time

import torch
from diffusers import FluxTransformer2DModel
from torch import nn


def forward_flops(transformer: FluxTransformer2DModel, image_tokens: int, text_tokens: int) -> tuple[float, float]:
    """Count one sample's forward: (matrices, attention). FLUX.1-dev: 12.91 GFLOP a token + 4 L^2 d a block.

    Either stream of a double block uses its own half of the weights; AdaLN acts on one vector and is left out.
    """
    tokens, width = image_tokens + text_tokens, transformer.inner_dim
    double, single = transformer.transformer_blocks, transformer.single_transformer_blocks
    matrices = sum(2 * weights(block) * tokens / 2 for block in double) + sum(2 * weights(b) * tokens for b in single)
    return matrices, (len(double) + len(single)) * 4 * tokens**2 * width


def lora_step_flops(transformer: FluxTransformer2DModel, image_tokens: int, text_tokens: int) -> float:
    """Count forward and backward of one sample through frozen weights with a LoRA, without recomputing."""
    matrices, attention = forward_flops(transformer, image_tokens, text_tokens)
    tokens = image_tokens + text_tokens
    lora = sum(
        6 * p.numel() * tokens / (2 if name.startswith("transformer_blocks") else 1)
        for name, p in transformer.named_parameters()
        if "lora_" in name
    )
    return 2 * matrices + 3 * attention + lora


def weights(block: nn.Module) -> int:
    """Count the weights in the matrices of a block that every token meets."""
    return sum(
        p.numel() for name, p in block.named_parameters()
        if p.ndim == 2 and "lora_" not in name and not name.startswith(("norm", "norm1"))
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
