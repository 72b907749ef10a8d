"""Cut a grid into its panels where it really is divided.

A seam is an edge that runs the whole length of the grid (UNO finds them by lines). A gutter has two, and what lies
between them is thrown away. Cutting at the centre would leave a strip of the neighbouring panel. A grid without a seam
where one belongs, or with one where none belongs, has another layout and is not used.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.signal import find_peaks
from skimage.color import rgb2gray
from skimage.filters import sobel_h, sobel_v

from dsd.io.pictures import cut
from dsd.io.records import layout_shape

NEAR = 0.08  # how far a seam may be from its place, as a share of the grid's length
EDGE = 0.04  # gradient (grey values in [0, 1]) above which a pixel lies on an edge
WHOLE = 0.6  # share of the length that an edge must run to be a seam
ELSEWHERE = 0.85  # the same for a seam where none belongs
INSET = 2  # pixels left out on both sides of a seam, where colours bleed


@dataclass(frozen=True)
class CutGrid:
    """The panels of a grid, row by row, and what is wrong with the grid as a whole, "" if nothing."""

    panels: list[Image.Image]
    fault: str = ""


Cutter = Callable[[Image.Image, str], CutGrid]  # grid, layout -> panels


def exact(grid: Image.Image, layout: str) -> CutGrid:
    """Cut into panels of equal size without gutters, as the toybox draws them."""
    return CutGrid(cut(grid, layout))


def found(grid: Image.Image, layout: str) -> CutGrid:
    """Cut between the seams that the grid has."""
    rows, columns = layout_shape(layout)
    grey = rgb2gray(np.asarray(grid.convert("RGB")))
    faults, spans = [], []
    for name, profile, num in (
        ("horizontal", (np.abs(sobel_h(grey)) > EDGE).mean(axis=1), rows),
        ("vertical", (np.abs(sobel_v(grey)) > EDGE).mean(axis=0), columns),
    ):
        found_spans, fault = divide(profile, num)
        spans.append(found_spans)
        faults += [f"layout: {fault.format(name)}"] if fault else []
    if faults:
        return CutGrid(cut(grid, layout), faults[0])
    boxes = [(left, top, right, bottom) for top, bottom in spans[0] for left, right in spans[1]]
    return CutGrid([grid.crop(box) for box in boxes])


CUTTERS: dict[str, Cutter] = {"exact": exact, "seams": found}  # by the setting panels=


def divide(profile: np.ndarray, num: int) -> tuple[list[tuple[int, int]], str]:
    """Find the (begin, end) of `num` panels from the share of edge pixels at each position, and what is wrong."""
    size = len(profile)
    seams = find_peaks(np.pad(profile, 1), height=WHOLE)[0] - 1
    expected = [size * number / num for number in range(num + 1)]
    near = [[int(s) for s in seams if abs(s - place) <= NEAR * size / num * 2] for place in expected]
    for place, there in zip(expected[1:-1], near[1:-1], strict=True):
        if not there:
            return [], f"no {{}} seam near {place / size:.0%}"
    strong = [s for s in seams if profile[s] >= ELSEWHERE and not any(s in there for there in near)]
    if strong:
        return [], f"a {{}} seam at {strong[0] / size:.0%}, where none belongs"
    begin, spans = max(near[0], default=-INSET) + INSET, []
    for there in near[1:-1]:
        spans.append((begin, min(there) - INSET))
        begin = max(there) + INSET
    spans.append((begin, min(near[-1], default=size - 1 + INSET) - INSET + 1))
    return spans, ""
