"""Pictures that are computed when they are opened. Their names tell how, so that the cache stays right."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dsd.errors import UserError
from dsd.io.pictures import to_rgb
from dsd.train.data.sources import Picture

LINEAR_BELOW, SLOPE, OFFSET, GAMMA = 0.04045, 12.92, 0.055, 2.4  # of sRGB (IEC 61966-2-1)


@dataclass(frozen=True, kw_only=True)
class Made(Picture):
    """What a maker, such as an edge detector, makes of a picture."""

    make: Callable[[Image.Image], Image.Image]
    name: str  # of the maker and its settings

    def told(self) -> bytes:
        return super().told() + f"made by {self.name}".encode()

    def open(self) -> Image.Image:
        """Make the picture. UserError where the file is no picture."""
        return self.make(to_rgb(super().open()))


@dataclass(frozen=True, kw_only=True)
class LightMix(Picture):
    """Two pictures of one scene mixed in linear RGB: light adds up, so this is the scene under both lights.

    The file's share is 1 - `share`, the other's is `share` (LightLab, arXiv 2505.09608, uses this linearity).
    """

    other: Picture
    share: float

    def told(self) -> bytes:
        return super().told() + f"mixed with {self.share} of {self.other.key}".encode()

    def open(self) -> Image.Image:
        """Mix the pictures. UserError where one is no picture, or where their sizes differ."""
        first, second = to_rgb(super().open()), to_rgb(self.other.open())
        if first.size != second.size:
            raise UserError(f"pictures of {shown(first.size)} and {shown(second.size)} pixels cannot be mixed")
        mixed = (1 - self.share) * to_linear(np.asarray(first)) + self.share * to_linear(np.asarray(second))
        return Image.fromarray(to_srgb(mixed))


def to_linear(pixels: np.ndarray) -> np.ndarray:
    """Decode sRGB: 8 bits a channel -> linear light in [0, 1]."""
    values = pixels / 255
    light: np.ndarray = np.where(
        values <= LINEAR_BELOW, values / SLOPE, ((values + OFFSET) / (1 + OFFSET)) ** GAMMA
    )  # fmt: skip
    return light


def to_srgb(light: np.ndarray) -> np.ndarray:
    """Encode linear light in [0, 1] as sRGB of 8 bits a channel."""
    values = np.where(light <= LINEAR_BELOW / SLOPE, light * SLOPE, (1 + OFFSET) * light ** (1 / GAMMA) - OFFSET)
    pixels: np.ndarray = (values * 255).round().astype(np.uint8)
    return pixels


def shown(size: tuple[int, int]) -> str:
    """Write a size: (64, 48) -> "64 x 48"."""
    return f"{size[0]} x {size[1]}"
