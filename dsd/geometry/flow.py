"""Measure by how many pixels a picture has moved: dense optical flow (DIS; Kroeger et al., arXiv 1603.03590)."""

from collections.abc import Sequence
from typing import ClassVar

import cv2
import numpy as np
from PIL import Image

from dsd.errors import UserError
from dsd.geometry import refuse_unequal
from dsd.geometry.contrast import as_bytes, local_contrast

SMALLEST = 12  # pixels of the longer side below which OpenCV computes no flow
cv2.setNumThreads(1)  # DIS divides a picture among its threads; with one thread the result is the same on any machine


def flow(first: Image.Image, second: Image.Image, size: int = 512) -> np.ndarray:
    """Find where every pixel of `first` is in `second`: (H, W, 2) displacements (x, y) in pixels.

    Pixels are those of the second picture at its own size. Flow is computed on copies of at most `size` pixels a side,
    without their light. UserError where the sizes of the pictures differ or are too small.
    """
    refuse_unequal(first, second)
    if max(second.size) < SMALLEST:
        raise UserError(f"a picture of {second.width}x{second.height} pixels has no flow; {SMALLEST} are needed")
    before, after = (as_bytes(local_contrast(image, size)) for image in (first, second))
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    found = method.calc(before, after, np.zeros((*before.shape, 2), np.float32))  # it begins with no displacement
    scale = np.array([second.width / found.shape[1], second.height / found.shape[0]], np.float32)
    moved: np.ndarray = cv2.resize(found, second.size, interpolation=cv2.INTER_LINEAR) * scale
    return moved


def lengths(first: Image.Image, second: Image.Image, size: int = 512) -> np.ndarray:
    """How far every pixel has moved, in pixels of the second picture: (H, W)."""
    moved: np.ndarray = np.linalg.norm(flow(first, second, size), axis=-1)
    return moved


class Flow:
    """`drift` and `drift_p95`: median and 95th percentile of the flow's length, in pixels of the pictures."""

    names: ClassVar[Sequence[str]] = ("drift", "drift_p95")

    def __init__(self, size: int = 512) -> None:
        self.size = size

    def __call__(self, firsts: Sequence[Image.Image], seconds: Sequence[Image.Image]) -> list[dict[str, float]]:
        """Score each pair, in order. Pictures below 12 pixels have no score."""
        return [self.score(first, second) for first, second in zip(firsts, seconds, strict=True)]

    def score(self, first: Image.Image, second: Image.Image) -> dict[str, float]:
        """Score one pair."""
        refuse_unequal(first, second)
        if max(second.size) < SMALLEST:
            return {}
        quantiles = np.quantile(lengths(first, second, self.size), (0.5, 0.95))
        return dict(zip(self.names, map(float, quantiles), strict=True))
