"""The canvas: one geometry for training and inference.

The paper's canvas is the reference's panel and, on its right, the target's: "a two-frame video" (section 3.3). That
of a student with reference tokens is the target's panel alone. Shapes: B batch, L packed tokens of a whole canvas, C
packed channels; pixels (B, 3, H, W) in [-1, 1], H and W those of one panel.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from dsd.errors import UserError
from dsd.io.pictures import to_rgb
from dsd.models.positions import RULES

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
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def pack(latents: Tensor) -> Tensor:
    """Fold 2 x 2 latents into a token: (B, C, H, W) -> (B, H/2 * W/2, 4C)."""
    return pixel_unshuffle(latents, 2).flatten(2).mT.contiguous()


def unpack(tokens: Tensor, rows: int) -> Tensor:
    """Undo `pack`: (B, rows * W/2, 4C) -> (B, C, 2 * rows, W)."""
    return pixel_shuffle(tokens.mT.unflatten(2, (rows, -1)), 2)


@dataclass(frozen=True)
class Canvas:
    """What is drawn at once, in tokens: the output's panel and, left of it, the reference's where it is drawn, too."""

    rows: int
    columns: int  # of all panels together
    panels: int = 2

    @property
    def num_tokens(self) -> int:
        """Tokens of all panels, L."""
        return self.rows * self.columns

    def target_mask(self) -> Tensor:
        """Mark the target's tokens, (L,) bool."""
        return (torch.arange(self.columns) >= self.columns - self.columns // self.panels).repeat(self.rows)

    def ids(
        self, positions: str = "column", device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Give the position ids (L, 3) of two panels by a rule; they are made once and must not be changed.

        `column`, as released: FLUX's plain grid, so that panels differ by the column offset alone. `diagonal`, as in
        UNO: the target is a picture by itself, and the reference begins where the target's last row and column end.
        """
        if positions not in POSITIONS:
            raise UserError(f"positions={positions!r} is unknown; choose one of {', '.join(POSITIONS)}")
        return _ids(self, positions, torch.device(device), dtype)


@lru_cache(maxsize=16)
def _ids(canvas: Canvas, positions: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # training reads them, too
        target, reference = RULES[positions](canvas.rows, canvas.columns // 2, 1)
        ids = torch.empty(canvas.num_tokens, 3)
        is_target = canvas.target_mask()
        ids[is_target], ids[~is_target] = target, reference
        return ids.to(device, dtype)


def canvas_of(height: int, width: int, vae_scale_factor: int, panels: int = 2) -> Canvas:
    """Make the canvas of panels of height x width pixels. UserError where tokens do not fit."""
    unit = 2 * vae_scale_factor
    if height < unit or width < unit or height % unit or width % unit:
        raise UserError(f"height={height}, width={width}: both must be positive multiples of {unit}")
    return Canvas(height // unit, panels * width // unit, panels)
