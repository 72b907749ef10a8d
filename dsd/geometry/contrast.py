"""Remove the light from a picture: what is left is structure, the same by day and by night."""

import cv2
import numpy as np
from PIL import Image

SIGMA = 1 / 16  # of the Gaussian window, as a share of the longer side
FLOOR = 4.0  # grey levels added to the deviation, so that a flat region's noise stays small


def local_contrast(image: Image.Image, size: int) -> np.ndarray:
    """Grey values minus their local mean, divided by their local deviation: (h, w) float32, most within -3..3.

    The picture is shrunk to at most `size` pixels a side first. A gain, an offset or a smooth gradient of light changes
    nothing but the least contrasts.
    """
    shrunk = image.convert("L")
    shrunk.thumbnail((size, size), Image.Resampling.LANCZOS)
    grey = np.asarray(shrunk, np.float32)
    window = SIGMA * max(grey.shape)
    centred = grey - cv2.GaussianBlur(grey, (0, 0), window)
    deviation = np.sqrt(cv2.GaussianBlur(centred**2, (0, 0), window))
    contrast: np.ndarray = centred / (deviation + FLOOR)
    return contrast


def as_bytes(contrast: np.ndarray) -> np.ndarray:
    """Spread local contrast over 0..255, for OpenCV's functions that take bytes."""
    spread: np.ndarray = np.clip(contrast * 32 + 128, 0, 255).astype(np.uint8)
    return spread
