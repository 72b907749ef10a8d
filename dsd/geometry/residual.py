"""Measure what a change of light does not explain: what an edit has repainted."""

from collections.abc import Sequence
from typing import ClassVar

import cv2
import numpy as np
from PIL import Image
from scipy.optimize import least_squares

from dsd.geometry import refuse_unequal

SIZE = 64  # pixels a side of the copies: light varies slowly
NEAR = 7  # pixels a side of the square over which a residual is averaged: noise and edges' aliasing average out
TOLERANCE = 8.0  # grey levels; pixels that differ by more have little say in what the light is
QUANTILE = 0.98  # of the pixels: a small thing that was repainted counts


class Residual:
    """`residual`: grey levels (0-255) that remain of the difference once the change of light is taken away.

    The light of one picture is fitted to that of the other: in each channel a gain, which may rise or fall over the
    picture, and an offset. The score is the 98th percentile of what remains, the worse of both directions. Hard shadows
    and highlights that move remain, too: choose a wide bound for pictures that have them.
    """

    names: ClassVar[Sequence[str]] = ("residual",)

    def __call__(self, firsts: Sequence[Image.Image], seconds: Sequence[Image.Image]) -> list[dict[str, float]]:
        """Score each pair, in order."""
        return [self.score(first, second) for first, second in zip(firsts, seconds, strict=True)]

    def score(self, first: Image.Image, second: Image.Image) -> dict[str, float]:
        """Score one pair."""
        refuse_unequal(first, second)
        here, there = (
            np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX), np.float64)
            for image in (first, second)
        )
        return {"residual": max(remaining(here, there), remaining(there, here))}


def remaining(before: np.ndarray, after: np.ndarray) -> float:
    """Fit the light of `after` to `before`, both (N, N, 3): the quantile of what remains, in grey levels."""
    left = np.stack([unexplained(before[..., c], after[..., c]) for c in range(3)], axis=-1)
    return float(np.quantile(np.linalg.norm(cv2.blur(left, (NEAR, NEAR)), axis=-1), QUANTILE))


def unexplained(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Explain a channel (N, N) by another light: what remains of it, (N, N)."""
    down, right = np.mgrid[-0.5 : 0.5 : before.shape[0] * 1j, -0.5 : 0.5 : before.shape[1] * 1j]
    terms = np.stack([before, before * right, before * down, np.ones_like(before)], axis=-1).reshape(-1, 4)
    terms *= np.array([1, 1, 1, 255.0])  # so that all four numbers are near 1

    def left(light: np.ndarray) -> np.ndarray:
        remains: np.ndarray = after.ravel() - terms @ light
        return remains

    def slope(_: np.ndarray) -> np.ndarray:
        return -terms

    found = least_squares(left, [1.0, 0, 0, 0], slope, loss="cauchy", f_scale=TOLERANCE)
    return left(found.x).reshape(before.shape)
