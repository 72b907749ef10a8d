"""Measure how much the light differs between two pictures, to tell whether the change that was asked for is there."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from PIL import Image
from skimage.color import rgb2lab

from dsd.geometry import refuse_unequal

SIZE = 32  # pixels a side of the copies: light varies slowly
LEAST_SLOPE = 4.0  # grey levels from edge to edge below which a picture's light has no direction


class LightChange:
    """`brightness_change`, `warmth_change`, `light_turn` and `light_change`; all are 0 for one picture twice.

    `brightness_change` is the difference of mean grey values (0-255). `warmth_change` is the difference of mean b* in
    CIE Lab. `light_change` is the distance of the mean colours in CIE Lab (Delta E 76). `light_turn` is the angle, in
    degrees, between the directions in which the two pictures become brighter; it is absent where one becomes brighter
    in no direction.
    """

    names: ClassVar[Sequence[str]] = ("brightness_change", "warmth_change", "light_turn", "light_change")

    def __call__(self, firsts: Sequence[Image.Image], seconds: Sequence[Image.Image]) -> list[dict[str, float]]:
        """Score each pair, in order."""
        return [self.score(first, second) for first, second in zip(firsts, seconds, strict=True)]

    def score(self, first: Image.Image, second: Image.Image) -> dict[str, float]:
        """Score one pair."""
        refuse_unequal(first, second)
        small = [image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX) for image in (first, second)]
        greys = [np.asarray(image.convert("L"), np.float64) for image in small]
        colours = [rgb2lab(np.asarray(image)).mean(axis=(0, 1)) for image in small]
        scores = {
            "brightness_change": abs(float(greys[0].mean() - greys[1].mean())),
            "warmth_change": abs(float(colours[0][2] - colours[1][2])),
            "light_change": float(np.linalg.norm(colours[0] - colours[1])),
        }
        slopes = [slope(grey) for grey in greys]
        if min(map(abs, slopes)) >= LEAST_SLOPE:
            scores["light_turn"] = abs(float(np.angle(slopes[0] / slopes[1], deg=True)))
        return scores


def slope(grey: np.ndarray) -> complex:
    """Fit a plane to a square picture (N, N): how much brighter it becomes from edge to edge, right + 1j x down."""
    place = np.linspace(-0.5, 0.5, len(grey))
    right, down = ((grey.mean(axis=axis) @ place) / (place @ place) for axis in (0, 1))
    return complex(right, down)
