"""Compare the edges of two pictures (Canny, 1986), whatever their light."""

from collections.abc import Sequence
from typing import ClassVar

import cv2
import numpy as np
from PIL import Image

from dsd.geometry import refuse_unequal
from dsd.geometry.contrast import as_bytes, local_contrast

LOW, HIGH = 80, 160  # Canny's thresholds on local contrast as bytes


class Edges:
    """`edge_f1`: F1 of the second picture's edges as a prediction of the first one's; 1 where all have their place.

    Edges are those of copies of at most `size` pixels a side, and `tolerance` is in pixels of these copies. A pair in
    which a picture has no edge has no score.
    """

    names: ClassVar[Sequence[str]] = ("edge_f1",)

    def __init__(self, size: int = 256, tolerance: int = 1) -> None:
        self.size, self.tolerance = size, tolerance

    def __call__(self, firsts: Sequence[Image.Image], seconds: Sequence[Image.Image]) -> list[dict[str, float]]:
        """Score each pair, in order."""
        return [self.score(first, second) for first, second in zip(firsts, seconds, strict=True)]

    def score(self, first: Image.Image, second: Image.Image) -> dict[str, float]:
        """Score one pair."""
        refuse_unequal(first, second)
        there, found = (edges(image, self.size) for image in (first, second))
        if not there.any() or not found.any():
            return {}
        precision, recall = near(found, there, self.tolerance), near(there, found, self.tolerance)
        return {"edge_f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0}


def edges(image: Image.Image, size: int) -> np.ndarray:
    """Find edges in a copy of at most `size` pixels a side, without its light: (h, w) bool."""
    found: np.ndarray = cv2.Canny(as_bytes(local_contrast(image, size)), LOW, HIGH, L2gradient=True) > 0
    return found


def near(some: np.ndarray, others: np.ndarray, tolerance: int) -> float:
    """Share of the pixels of `some` with one of `others` at most `tolerance` pixels away."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * tolerance + 1, 2 * tolerance + 1))
    widened = cv2.dilate(others.astype(np.uint8), disc) > 0
    return float(widened[some].mean())
