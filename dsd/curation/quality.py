"""Measure the picture quality of a panel: brightness, contrast, sharpness. The prefilter sets bounds on them."""

import numpy as np
from PIL import Image
from scipy.ndimage import laplace

QUALITIES = ("brightness", "contrast", "sharpness")


def quality(panel: Image.Image) -> dict[str, float]:
    """Compute mean, standard deviation and variance of the Laplacian of the grey values, 0-255.

    The last is low where a picture is blurred (Pech-Pacheco et al., 2000); it depends on the panel's size.
    """
    grey = np.asarray(panel.convert("L"), np.float32)
    found = grey.mean(), grey.std(), laplace(grey, mode="nearest").var()
    return dict(zip(QUALITIES, map(float, found), strict=True))
