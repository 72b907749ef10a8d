"""Cutting a sheet into its panels, and what can be said against a panel without asking a judge."""

import numpy as np
from PIL import Image

from dsd.records import layout_shape

FLAT = 6.0  # standard deviation of grey values (0-255) below which a panel shows nothing
BLACK = 12.0  # mean grey value below which it is black


def cut(sheet: Image.Image, layout: str) -> list[Image.Image]:
    """The panels, row by row, all of one size; a remainder of pixels on the right and below is dropped."""
    rows, columns = layout_shape(layout)
    height, width = sheet.height // rows, sheet.width // columns
    corners = [(column * width, row * height) for row in range(rows) for column in range(columns)]
    return [sheet.crop((x, y, x + width, y + height)) for x, y in corners]


def defect(panel: Image.Image) -> str:
    """What is wrong with a panel by itself, "" if nothing."""
    grey = np.asarray(panel.convert("L"), np.float32)
    if grey.mean() < BLACK:
        return "black panel"
    if grey.std() < FLAT:
        return "flat panel"
    return ""
