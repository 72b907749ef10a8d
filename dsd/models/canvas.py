"""The canvas and its latents: one geometry for training and inference.

A canvas is the reference's panel and, on its right, the target's: "a two-frame video" (paper, section 3.3). The
condition is the reference beside a black panel, encoded by the VAE as one image. Shapes: B batch, L packed tokens of a
whole canvas, C packed channels; pixels (B, 3, H, W) in [-1, 1], H and W those of one panel.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from diffusers import AutoencoderKL
from einops import rearrange
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from dsd.errors import UserError
from dsd.io.pictures import to_rgb

BLACK = -1.0
POSITIONS = ("column", "diagonal")
FITS = ("crop", "pad", "stretch")


def to_pixels(image: Image.Image, height: int, width: int, fit: str = "crop") -> Tensor:
    """Fit a picture into a panel, (3, H, W) in [-1, 1]: turned upright by EXIF, transparency on white.

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
    pixels: Tensor = pil_to_tensor(image).float() / 127.5 - 1
    return pixels


def pack(latents: Tensor) -> Tensor:
    """Fold 2 x 2 latents into a token: (B, C, H, W) -> (B, H/2 * W/2, 4C)."""
    return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)


def unpack(tokens: Tensor, rows: int) -> Tensor:
    """Undo `pack`: (B, rows * W/2, 4C) -> (B, C, 2 * rows, W)."""
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=rows, p=2, q=2)


def encode(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Encode pixels (B, 3, H, W) to packed latents (B, L, C). The posterior's mode is taken, so no seed is involved."""
    latents = vae.encode(pixels.to(vae.dtype)).latent_dist.mode()
    return pack((latents - vae.config["shift_factor"]) * vae.config["scaling_factor"])


def decode(vae: AutoencoderKL, tokens: Tensor, rows: int) -> Tensor:
    """Decode packed latents (B, L, C) of `rows` rows to pixels (B, 3, H, W) in about [-1, 1]."""
    latents = unpack(tokens, rows) / vae.config["scaling_factor"] + vae.config["shift_factor"]
    pixels: Tensor = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
    return pixels


def condition_canvas(vae: AutoencoderKL, references: Tensor) -> Tensor:
    """Encode references (B, 3, H, W), each beside a black panel, to `cond_latents` (B, L, C)."""
    return encode(vae, torch.cat([references, torch.full_like(references, BLACK)], dim=-1))


def target_canvas(vae: AutoencoderKL, references: Tensor, targets: Tensor) -> Tensor:
    """Encode what the student learns to draw, [reference | target], to (B, L, C)."""
    return encode(vae, torch.cat([references, targets], dim=-1))


def grid_ids(rows: int, columns: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """Make FLUX's position ids of a picture of rows x columns tokens: (L, 3), each (0, row, column)."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).flatten(0, 1).to(device, dtype)


@dataclass(frozen=True)
class Canvas:
    """Two panels side by side, in packed tokens: the reference's on the left, the target's on the right."""

    rows: int
    columns: int  # of both panels together

    @property
    def num_tokens(self) -> int:
        """Tokens of both panels, L."""
        return self.rows * self.columns

    def target_mask(self) -> Tensor:
        """Mark the target's tokens, (L,) bool."""
        return (torch.arange(self.columns) >= self.columns // 2).repeat(self.rows)

    def ids(
        self, positions: str = "column", device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Give the position ids (L, 3) of a `positions` rule; they are made once and must not be changed.

        `column`, as released: FLUX's plain grid, so that panels differ by the column offset alone. `diagonal`, as in
        UNO (arXiv 2504.02160, section 3.3): the target is a picture by itself, and the reference begins where the
        target's last row and column end.
        """
        if positions not in POSITIONS:
            raise UserError(f"positions={positions!r} is unknown; choose one of {', '.join(POSITIONS)}")
        return _ids(self, positions, torch.device(device), dtype)


@lru_cache(maxsize=16)
def _ids(canvas: Canvas, positions: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # training reads them, too
        ids = grid_ids(canvas.rows, canvas.columns)
        if positions == "diagonal":
            is_target = canvas.target_mask()
            ids[is_target, 2] -= canvas.columns // 2
            ids[~is_target, 1] += canvas.rows
            ids[~is_target, 2] += canvas.columns // 2
        return ids.to(device, dtype)


def canvas_of(height: int, width: int, vae_scale_factor: int) -> Canvas:
    """Make the canvas of panels of height x width pixels. UserError where tokens do not fit."""
    unit = 2 * vae_scale_factor
    if height < unit or width < unit or height % unit or width % unit:
        raise UserError(f"height={height}, width={width}: both must be positive multiples of {unit}")
    return Canvas(height // unit, 2 * width // unit)
