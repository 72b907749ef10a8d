"""The toybox's VAE: diffusers' `AutoencoderKL`, 8x smaller in each direction, 16 channels, like FLUX's.

It learns the linear code of `code.py`: the encoder estimates the code (by Gaussian likelihood, so that the posterior's
variance is meaningful), the decoder draws from it. Both learn at once from dense targets, in a tenth of the steps that
reconstruction alone needs.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from dsd.toybox import code
from dsd.toybox.fit import fit
from dsd.toybox.samples import LAYOUTS, sample_grids

SEED = 1
CROP = 32  # pixels; convolutions learn as well from crops, for a quarter of the work
WHOLE_EVERY = 4  # every fourth step has whole pictures, since GroupNorm averages over all of one


def build_vae() -> Any:
    """Make the untrained `AutoencoderKL`."""
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=16,
        layers_per_block=1,
        mid_block_add_attention=False,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=64,
        shift_factor=0.0,
        scaling_factor=1.0,
    )
    for name, module in vae.named_modules():  # every residual block begins as the identity
        if name.endswith("conv2"):
            nn.init.zeros_(module.weight)
    return vae


def canvases(step: int) -> Tensor:
    """Make the batch of a step, (B, 3, H, W) in [-1, 1]: crops of panels, and every fourth time whole pictures.

    The whole pictures are single panels, diptychs, 2x2 grids, and references beside a black panel (the student's
    condition).
    """
    rng = np.random.default_rng((SEED, step))
    if step % WHOLE_EVERY:
        pixels = sample_grids(rng, 16, "1x1", "different").pixels() * 2 - 1
        top, left = rng.integers(0, (64 - CROP) // code.FACTOR + 1, 2) * code.FACTOR
        return pixels[..., top : top + CROP, left : left + CROP]
    kind = step // WHOLE_EVERY % 4
    layout, num = (("1x1", 8), ("1x2", 4), ("2x2", 2), ("1x2", 4))[kind]
    pixels = sample_grids(rng, num, layout, "different").pixels() * 2 - 1
    if kind == 3:
        pixels[..., pixels.shape[-1] // 2 :] = -1
    return pixels


def train_vae(folder: Path, out: Path, num_steps: int = 6000, lr: float = 1.5e-3, device: str = "cpu") -> None:
    """Train the VAE and write it to `out`/teacher/vae; `folder` holds checkpoints."""
    torch.manual_seed(SEED)
    vae = build_vae().to(device)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        pixels = canvases(step).to(device)
        target = code.encode(pixels)
        posterior = vae.encode(pixels).latent_dist
        estimate = F.gaussian_nll_loss(posterior.mean, target, posterior.var, eps=1e-4)
        generator = torch.Generator().manual_seed(step)
        noise = torch.randn(target.shape, generator=generator).to(device)
        # Half of the time the decoder gets the encoder's latents, half of the time the code with small errors like a
        # teacher's.
        latents = posterior.mean.detach() if step % 2 else target + 0.03 * noise
        error = vae.decode(latents).sample - pixels
        loss = error.abs().mean() + error.square().mean() + 0.1 * estimate
        psnr = 10 * torch.log10(4 / error.square().mean())
        return loss, {"psnr": psnr, "code_error": (posterior.mean - target).square().mean().sqrt()}

    fit(vae, loss_at, folder, num_steps=num_steps, lr=lr, weight_decay=0.0)
    vae.save_pretrained(out / "teacher" / "vae")
    rng = np.random.default_rng(5)
    for layout in LAYOUTS:
        pixels = sample_grids(rng, 32, layout, "different").pixels() * 2 - 1
        linear = code.decode(code.encode(pixels))
        print(f"{layout}: {psnr(vae, pixels):.1f} dB, the linear code alone {decibels(linear, pixels):.1f} dB")


@torch.no_grad()
def psnr(vae: AutoencoderKL, pixels: Tensor) -> float:
    """Compute the PSNR, in dB, of pixels in [-1, 1] that were encoded and decoded."""
    rebuilt = vae.decode(vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
    return decibels(rebuilt, pixels)


def decibels(rebuilt: Tensor, pixels: Tensor) -> float:
    """Compute the PSNR, in dB, of pixels in [-1, 1]."""
    return float(10 * torch.log10(4 / F.mse_loss(rebuilt, pixels)))
