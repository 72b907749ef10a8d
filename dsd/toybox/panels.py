"""Panels for training the judge and the recogniser: as drawn, through the linear code, and through the VAE."""

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from dsd.toybox import code
from dsd.toybox.draw import render
from dsd.toybox.world import sample_contexts, sample_subjects

POOL = 4096  # panels that are sent through the VAE once, before training


@dataclass(frozen=True)
class Panels:
    """B panels and what is on them."""

    pixels: Tensor  # (B, 3, 64, 64) in [0, 1]
    subjects: np.ndarray  # (B, S)
    contexts: np.ndarray  # (B, C)

    def __getitem__(self, rows: np.ndarray) -> "Panels":
        """Take some panels."""
        return Panels(self.pixels[rows], self.subjects[rows], self.contexts[rows])


def draw_panels(rng: np.random.Generator, num: int, split: str = "train") -> Panels:
    """Draw random panels."""
    subjects, contexts = sample_subjects(rng, num, split), sample_contexts(rng, num)
    return Panels(render(subjects, contexts), subjects, contexts)


@torch.inference_mode()
def through_vae(vae: AutoencoderKL, panels: Panels, rng: np.random.Generator, noise: float = 0.1) -> Panels:
    """Decode panels from a slightly noisy code, so that they look like a teacher's pictures."""
    decoded = []
    for pixels in panels.pixels.split(64):
        latents = code.encode(pixels * 2 - 1)
        latents = latents + noise * torch.as_tensor(rng.standard_normal(latents.shape), dtype=torch.float32)
        decoded.append(vae.decode(latents).sample.clamp(-1, 1) / 2 + 0.5)
    return Panels(torch.cat(decoded), panels.subjects, panels.contexts)


class PanelStream:
    """Training batches; the batch of step n is a function of (seed, n)."""

    def __init__(self, vae: AutoencoderKL, seed: int) -> None:
        self.seed = seed
        rng = np.random.default_rng((seed, 2**32))
        self.pool = through_vae(vae, draw_panels(rng, POOL), rng)

    def batch(self, step: int, num: int) -> Panels:
        """Make `num` panels: a third from the pool, a sixth through the linear code, the rest as drawn; with noise."""
        rng = np.random.default_rng((self.seed, step))
        fresh, pooled = draw_panels(rng, num - num // 3), self.pool[rng.integers(0, POOL, num // 3)]
        pixels = fresh.pixels
        pixels[: num // 6] = code.decode(code.encode(pixels[: num // 6] * 2 - 1)) / 2 + 0.5
        pixels = torch.cat([pixels, pooled.pixels])
        pixels = pixels + 0.02 * torch.as_tensor(rng.standard_normal(pixels.shape), dtype=torch.float32)
        subjects = np.concatenate([fresh.subjects, pooled.subjects])
        return Panels(pixels.clamp(0, 1), subjects, np.concatenate([fresh.contexts, pooled.contexts]))
