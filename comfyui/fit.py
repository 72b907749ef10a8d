"""Fit a picture into a panel, as training did: the same pixels, by the same calls of Pillow."""

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

FITS = ("crop", "pad", "stretch")


def fitted(image: Tensor, height: int, width: int, fit: str) -> Tensor:
    """Fit ComfyUI's image (H', W', 3) in [0, 1] into a panel, (height, width, 3), in steps of 1/255.

    `crop` fills the panel and cuts what stands out, `pad` shows everything on white, `stretch` ignores proportions.
    """
    pixels = (image[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    picture, size, method = Image.fromarray(pixels), (width, height), Image.Resampling.LANCZOS
    if picture.size != size:
        if fit == "crop":
            picture = ImageOps.fit(picture, size, method)
        elif fit == "pad":
            picture = ImageOps.pad(picture, size, method, color="white")
        else:
            picture = picture.resize(size, method)
    return torch.from_numpy(np.array(picture)).float() / 255


def canvas_of(panel: Tensor) -> Tensor:
    """Put a panel (B, H, W, 3) beside a black one: (B, H, 2W, 3)."""
    return torch.cat([panel, torch.zeros_like(panel)], dim=2)


def panels_of(canvas: Tensor) -> tuple[Tensor, Tensor]:
    """Cut a drawn canvas (B, H, 2W, 3) into the output, its right half, and the redrawn reference, its left half."""
    width = canvas.shape[2] // 2
    return canvas[:, :, width:], canvas[:, :, :width]
