"""The latent space of the toybox: principal components of 8x8 patches, 16 channels.

The VAE learns this linear code (see `vae.py`), and the teacher is trained on it directly. A step then takes one matrix
product instead of a convolutional encoder, and VAE and teacher can be retrained separately.
"""

import functools

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from dsd.toybox.draw import render
from dsd.toybox.world import sample_contexts, sample_subjects

SEED = 1
FACTOR, CHANNELS = 8, 16


def patches(pixels: Tensor) -> Tensor:
    """Cut pixels into patches: (B, 3, H, W) -> (B, H/8, W/8, 192)."""
    return rearrange(pixels, "b c (h p) (w q) -> b h w (c p q)", p=FACTOR, q=FACTOR)


@functools.cache
def basis() -> tuple[Tensor, Tensor, Tensor]:
    """Compute the mean (192,), components (192, 16) and scale of each channel (16,) of the world's patches in [-1, 1].

    Channels are whitened half way (scale = variance^-1/4), so that noise does not hide fine detail from the first step
    on, and fine detail does not weigh as much as a panel's colours. Overall the code has mean 0 and variance 1.
    """
    rng = np.random.default_rng(SEED)
    pixels = render(sample_subjects(rng, 4000), sample_contexts(rng, 4000)) * 2 - 1
    flat = patches(pixels).flatten(0, 2).double()
    mean = flat.mean(0)
    variance, vectors = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
    variance, vectors = variance.flip(0)[:CHANNELS], vectors.flip(1)[:, :CHANNELS]
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()  # eigh does not fix the sign
    scale = variance**-0.25
    scale = scale / (variance * scale**2).mean().sqrt()
    return mean.float(), vectors.float(), scale.float()


def encode(pixels: Tensor) -> Tensor:
    """Encode pixels: (B, 3, H, W) in [-1, 1] -> (B, 16, H/8, W/8)."""
    mean, vectors, scale = (t.to(pixels.device) for t in basis())
    return rearrange((patches(pixels) - mean) @ (vectors * scale), "b h w c -> b c h w").contiguous()


def decode(latents: Tensor) -> Tensor:
    """Decode by the linear inverse: (B, 16, h, w) -> (B, 3, 8h, 8w)."""
    mean, vectors, scale = (t.to(latents.device) for t in basis())
    flat = rearrange(latents, "b c h w -> b h w c") @ (vectors / scale).T + mean
    return rearrange(flat, "b h w (c p q) -> b c (h p) (w q)", c=3, p=FACTOR, q=FACTOR)
