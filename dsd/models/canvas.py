"""Canvases and their latents: one geometry for training and inference.

A canvas is the reference's panel and, on its right, the target's: "a two-frame video" (paper, section 3.3). The
condition is the reference beside a black panel, encoded by the VAE as one image. Shapes: B batch, L packed tokens of a
whole canvas, C packed channels; pixels (B, 3, H, W) in [-1, 1], H and W those of one panel.
"""

import torch
from diffusers import AutoencoderKL, FluxPipeline
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from dsd.errors import UserError

BLACK = -1.0
POSITIONS = ("column", "diagonal")
FITS = ("crop", "pad", "stretch")


def to_pixels(image: Image.Image, height: int, width: int, fit: str = "crop") -> Tensor:
    """Any picture -> (3, H, W) in [-1, 1]: EXIF orientation honoured, transparency on white, then fitted.

    `crop` fills the panel and cuts what stands out, `pad` shows everything on white, `stretch` ignores proportions.
    """
    if fit not in FITS:
        raise UserError(f"fit={fit!r} is unknown; choose one of {', '.join(FITS)}")
    image = to_rgb(image)
    size, method = (width, height), Image.Resampling.LANCZOS
    if image.size != size:
        if fit == "crop":
            image = ImageOps.fit(image, size, method)
        elif fit == "pad":
            image = ImageOps.pad(image, size, method, color="white")
        else:
            image = image.resize(size, method)
    return pil_to_tensor(image).float() / 127.5 - 1


def to_rgb(image: Image.Image) -> Image.Image:
    """What a person sees in a picture of any mode: upright, 8 bits, on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        image = image.point(lambda value: value / 256).convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def encode(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """(B, 3, H, W), on the device where the VAE runs -> packed (B, L, C). The posterior's mode: no seed is involved."""
    latents = vae.encode(pixels.to(vae.dtype)).latent_dist.mode()
    latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
    return FluxPipeline._pack_latents(latents, *latents.shape)


def condition_canvas(vae: AutoencoderKL, references: Tensor) -> Tensor:
    """References (B, 3, H, W) -> `cond_latents` (B, L, C): each beside a black panel."""
    return encode(vae, torch.cat([references, torch.full_like(references, BLACK)], dim=-1))


def target_canvas(vae: AutoencoderKL, references: Tensor, targets: Tensor) -> Tensor:
    """What the model learns to draw: [reference | target] -> (B, L, C)."""
    return encode(vae, torch.cat([references, targets], dim=-1))


def canvas_tokens(vae_scale_factor: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of packed tokens of the canvas of panels height x width."""
    unit = 2 * vae_scale_factor
    if height < unit or width < unit or height % unit or width % unit:
        raise UserError(f"height={height}, width={width}: both must be positive multiples of {unit}")
    return height // unit, 2 * width // unit


def img_ids(
    rows: int,
    columns: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    positions: str = "column",
) -> Tensor:
    """Position ids (L, 3) of a canvas.

    `column`, as released: FLUX's plain grid, so that panels differ by the column offset alone. `diagonal`, as in UNO
    (arXiv 2504.02160, section 3.3): the target is a picture by itself, and the reference begins where its last row and
    column end.
    """
    if positions not in POSITIONS:
        raise UserError(f"positions={positions!r} is unknown; choose one of {', '.join(POSITIONS)}")
    ids = FluxPipeline._prepare_latent_image_ids(1, rows, columns, device, dtype)
    if positions == "diagonal":
        is_target = target_mask(rows, columns).to(ids.device)
        ids[is_target, 2] -= columns // 2
        ids[~is_target, 1] += rows
        ids[~is_target, 2] += columns // 2
    return ids


def target_mask(rows: int, columns: int) -> Tensor:
    """(L,) bool: which tokens of a canvas belong to the target's panel."""
    return (torch.arange(columns) >= columns // 2).repeat(rows)
