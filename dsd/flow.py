"""Flow matching in FLUX's direction of time: sigma 1 is noise, sigma 0 the image, velocity = noise - latents.

Shapes: B batch, L packed image tokens, C packed channels; sigmas (B,) in [0, 1].
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


def add_noise(latents: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Mix latents and noise at noise levels `sigmas` (B,): the straight path from image to noise."""
    sigmas = expand(sigmas, latents)
    return (1 - sigmas) * latents + sigmas * noise


def velocity_target(latents: Tensor, noise: Tensor) -> Tensor:
    """Compute the path's derivative by sigma, which the model predicts."""
    return noise - latents


def denoised(noisy_latents: Tensor, velocity: Tensor, sigmas: Tensor) -> Tensor:
    """Convert a velocity to the clean latents; undoes `add_noise`."""
    return noisy_latents - expand(sigmas, noisy_latents) * velocity


def expand(sigmas: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, ...), to broadcast over `like`."""
    return sigmas.to(like).view(-1, *[1] * (like.ndim - 1))


def shift_sigmas(sigmas: Tensor, shift: float) -> Tensor:
    """Move noise levels towards noise (SD3, section 5.3.2); 1 leaves them."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def shift_for_tokens(
    num_image_tokens: int,
    base_tokens: int = 256,
    max_tokens: int = 4096,
    base_mu: float = 0.5,
    max_mu: float = 1.15,
) -> float:
    """Compute FLUX's shift, exp(mu) with mu linear in the number of tokens; the defaults are FLUX.1-dev's."""
    slope = (max_mu - base_mu) / (max_tokens - base_tokens)
    return math.exp(base_mu + slope * (num_image_tokens - base_tokens))


class Sigmas(Protocol):
    """Draws the noise levels of training samples; `num_tokens` is a canvas's."""

    def __call__(self, num: int, generator: torch.Generator, num_tokens: int) -> Tensor: ...


@dataclass(frozen=True)
class LogitNormalSigmas:
    """sigma = shift(sigmoid(N(mean, std))); mean 0, std 1, shift 3 were the published trainer's. None: by tokens."""

    mean: float = 0.0
    std: float = 1.0
    shift: float | None = 1.0

    def __call__(self, num: int, generator: torch.Generator, num_tokens: int) -> Tensor:
        """-> (num,)"""
        normal = torch.randn(num, generator=generator) * self.std + self.mean
        return shift_sigmas(normal.sigmoid(), shift_of(self.shift, num_tokens))


@dataclass(frozen=True)
class UniformSigmas:
    """sigma = shift(U(0, 1)). None: by tokens."""

    shift: float | None = 1.0

    def __call__(self, num: int, generator: torch.Generator, num_tokens: int) -> Tensor:
        """-> (num,)"""
        return shift_sigmas(torch.rand(num, generator=generator), shift_of(self.shift, num_tokens))


def shift_of(shift: float | None, num_tokens: int) -> float:
    return shift_for_tokens(num_tokens) if shift is None else shift


def seed_at(seed: int, *position: int) -> int:
    """Derive a 63-bit seed from a seed and a position. Neighbours share nothing; batch and rank play no part."""
    # SeedSequence treats (1,) and (1, 0) alike, so the length goes in, too.
    return int(np.random.SeedSequence((len(position), seed, *position)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator_at(seed: int, *position: int) -> torch.Generator:
    """Make a CPU generator for one position of a run; without a position it is seeded as `torch` does."""
    return torch.Generator("cpu").manual_seed(seed_at(seed, *position) if position else seed)
