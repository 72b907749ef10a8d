"""What a panel is worth by itself, before anyone asks whom it shows. Bounds on it are the prefilter's."""

import numpy as np
from PIL import Image
from scipy.ndimage import laplace


def quality(panel: Image.Image) -> dict[str, float]:
    """Of the grey values, 0-255: their mean, their standard deviation, and the variance of their Laplacian.

    The last is low where a picture is blurred (Pech-Pacheco et al., 2000); it depends on the panel's size.
    """
    grey = np.asarray(panel.convert("L"), np.float32)
    return {
        "brightness": float(grey.mean()),
        "contrast": float(grey.std()),
        "sharpness": float(laplace(grey, mode="nearest").var()),
    }
