"""Makers of references that show a picture's structure: line art, depth, normals. All keep the picture's size."""

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from PIL import Image


class Maker(Protocol):
    """Makes a picture of another one. `name` tells the tool and its settings: latents are kept under it."""

    @property
    def name(self) -> str: ...

    def __call__(self, image: Image.Image) -> Image.Image: ...


class DepthEstimator(Protocol):
    """Estimates depth, such as `dsd.geometry.depth.Depth`."""

    def depth_map(self, image: Image.Image) -> Image.Image:
        """Give the depth of every pixel as grey levels, bright is near."""
        ...


@dataclass(frozen=True)
class LineArt:
    """White edges on black by Canny's detector (OpenCV); thresholds in grey levels a pixel of the gradient."""

    low: float = 100.0
    high: float = 200.0

    @property
    def name(self) -> str:
        return f"canny low={self.low} high={self.high}"

    def __call__(self, image: Image.Image) -> Image.Image:
        grey = np.asarray(image.convert("L"))
        return Image.fromarray(cv2.Canny(grey, self.low, self.high)).convert("RGB")


@dataclass(frozen=True)
class DepthMap:
    """Depth as grey levels. `model` is the name of the estimator's weights."""

    estimator: DepthEstimator
    model: str

    @property
    def name(self) -> str:
        return f"depth {self.model}"

    def __call__(self, image: Image.Image) -> Image.Image:
        return fitted(self.estimator.depth_map(image), image).convert("RGB")


@dataclass(frozen=True)
class Normals:
    """Normals from the gradients of a depth map, as colours: x to the right, y up, z to the camera, -1..1 as 0..255.

    `strength` is how steep a rise of the whole range of depth over the picture's width counts; `blur` (pixels, the
    Gaussian's sigma) smooths the steps of a map of 8 bits.
    """

    estimator: DepthEstimator
    model: str
    strength: float = 1.0
    blur: float = 2.0

    @property
    def name(self) -> str:
        return f"normals {self.model} strength={self.strength} blur={self.blur}"

    def __call__(self, image: Image.Image) -> Image.Image:
        depth = np.asarray(fitted(self.estimator.depth_map(image), image).convert("F"))
        nearness = (depth - depth.min()) / max(float(np.ptp(depth)), 1e-6)
        if self.blur:
            nearness = cv2.GaussianBlur(nearness, (0, 0), self.blur)
        down, right = np.gradient(nearness * image.width * self.strength)
        normals = np.stack([-right, down, np.ones_like(right)], -1)
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
        return Image.fromarray(((normals + 1) * 127.5).round().astype(np.uint8))


def fitted(made: Image.Image, image: Image.Image) -> Image.Image:
    """Bring a map to the size of its picture."""
    return made if made.size == image.size else made.resize(image.size, Image.Resampling.BILINEAR)
