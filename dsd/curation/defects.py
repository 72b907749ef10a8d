"""What can be said against a panel without asking a judge."""

import numpy as np
from PIL import Image

FLAT = 6.0  # standard deviation of grey values (0-255) below which a panel shows nothing
BLACK = 12.0  # mean grey value below which it is black


def defect(panel: Image.Image) -> str:
    """What is wrong with a panel by itself, "" if nothing."""
    grey = np.asarray(panel.convert("L"), np.float32)
    if grey.mean() < BLACK:
        return "black panel"
    if grey.std() < FLAT:
        return "flat panel"
    return ""
