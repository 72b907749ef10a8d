"""Draw critters: (B, S) subjects and (B, C) contexts -> (B, 3, 64, 64) pixels in [0, 1].

Shapes are signed distances in a critter's own coordinates (u to its right, v up from its feet, body radius 14). They
are turned into anti-aliased coverage once per pose and kept in tables. A batch is drawn by looking up layers and
painting them one over the other. N = 18 poses = position x size x tilt.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dsd.toybox.scenes import scenes
from dsd.toybox.shapes import SIZE, Plane, box, coverage, ellipse, polygon, union
from dsd.toybox.world import COLOURS, CONTEXT, SUBJECT

FEET = 58.0  # y of the ground under a critter
POSITION_X = (16.0, 32.0, 48.0)  # one step is one token of the transformer
SCALE = (1.0, 1.2)
TILT = (0.0, math.radians(10), math.radians(-10))
INK = (44, 32, 56)
LIGHT = ((1.0, 1.0, 1.0), (1.0, 0.82, 0.60), (0.56, 0.66, 0.94))
# Where each body ends at the top and carries its eyes, and how wide its belly is.
TOP = (29.0, 28.0, 33.0, 30.0)
EYE_HEIGHT = (22.5, 22.0, 25.0, 20.5)
BELLY_WIDTH = (9.0, 9.0, 7.5, 9.0)

# ---------------------------------------------------------------- the critter


def body(plane: Plane, kind: int) -> Tensor:
    """Distance to a body of one of four kinds, with its feet."""
    trunk: Callable[[], Tensor] = (
        lambda: ellipse(plane, 0, 15.5, 14, 14),
        lambda: box(plane, 0, 15, 13, 13.5, radius=4),
        lambda: ellipse(plane, 0, 17.5, 10.5, 16),
        lambda: polygon(plane, (-9, 5), (9, 5), (1.0, 27), (-1.0, 27), radius=4),
    )[kind]
    return union(trunk(), ellipse(plane, -6, 1.5, 4.5, 3), ellipse(plane, 6, 1.5, 4.5, 3))


def headgear(plane: Plane, kind: int, top: float) -> Tensor:
    """Distance to headgear of one of five kinds on a head that ends at `top`."""
    h = top
    if kind == 0:  # top hat
        return union(box(plane, 0, h, 10, 1.6, radius=1), box(plane, 0, h + 5.5, 6.2, 6, radius=1))
    if kind == 1:  # party hat
        return union(
            polygon(plane, (-7.5, h - 2), (7.5, h - 2), (0, h + 11), radius=0.8), ellipse(plane, 0, h + 11, 3, 3)
        )
    if kind == 2:  # horns
        left = polygon(plane, (-11, h - 6), (-4, h - 2.5), (-12.5, h + 8), radius=0.8)
        right = polygon(plane, (4, h - 2.5), (11, h - 6), (12.5, h + 8), radius=0.8)
        return union(left, right)
    if kind == 3:  # bunny ears
        return union(ellipse(plane, -5.5, h + 4.5, 3.6, 8.5), ellipse(plane, 5.5, h + 4.5, 3.6, 8.5))
    left = polygon(plane, (-11, h - 1.5), (-1, h + 3.5), (-11, h + 8.5), radius=1.2)  # bow
    right = polygon(plane, (11, h + 8.5), (1, h + 3.5), (11, h - 1.5), radius=1.2)
    return union(left, right, ellipse(plane, 0, h + 3, 4, 4))


def eye_circles(kind: int, height: float) -> list[tuple[float, float, float]]:
    """Place the eyes: (u, v, radius) of each."""
    return (
        [(0.0, height, 5.6)],
        [(-5.0, height, 4.1), (5.0, height, 4.1)],
        [(-7.2, height - 0.5, 3.3), (0.0, height + 1.5, 3.3), (7.2, height - 0.5, 3.3)],
    )[kind]


def smile(plane: Plane, height: float) -> Tensor:
    """Distance to a mouth, the lower arc of a ring around `height`."""
    ring = (torch.hypot(plane[0], plane[1] - height) - 2.6).abs() - 0.55
    return torch.maximum(ring, plane[1] - height + 0.8)


# ---------------------------------------------------------------- tables of coverage


@functools.cache
def poses() -> tuple[Plane, Tensor]:
    """Compute the critters' own coordinates in every pose, (N, 64, 64) each, and pixels per unit (N, 1, 1)."""
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    combos = torch.cartesian_prod(torch.tensor(POSITION_X), torch.tensor(SCALE), torch.tensor(TILT))
    centre, scale, tilt = (column.view(-1, 1, 1) for column in combos.unbind(1))
    right, up = (x - centre) / scale, (FEET - y) / scale
    return (right * tilt.cos() + up * tilt.sin(), up * tilt.cos() - right * tilt.sin()), scale


@functools.cache
def layers() -> dict[str, Tensor]:
    """Compute the coverage of every part, (..., N, 64, 64); the leading axes are the attributes that change it."""
    plane, scale = poses()
    bodies, heads, eyes = (range(len(SUBJECT[name])) for name in ("body", "headgear", "eyes"))

    def table(draw: Callable[..., Tensor], *axes: range, grow: float = 0.0) -> Tensor:
        cells = [coverage(draw(*index) * scale - grow) for index in np.ndindex(*map(len, axes))]
        covers: Tensor = torch.stack(cells).unflatten(0, [len(axis) for axis in axes])
        return covers

    def balls(b: int, e: int, grow: float, shrink: float = 1.0) -> Tensor:
        return union(
            *(ellipse(plane, u, v, r * shrink + grow, r * shrink + grow) for u, v, r in eye_circles(e, EYE_HEIGHT[b]))
        )

    return {
        "outline": table(lambda b, h: union(body(plane, b), headgear(plane, h, TOP[b])), bodies, heads, grow=1.1),
        "body": table(lambda b: body(plane, b), bodies),
        "belly": table(lambda b: ellipse(plane, 0, 8.8, BELLY_WIDTH[b], 6.8), bodies),
        "headgear": table(lambda b, h: headgear(plane, h, TOP[b]), bodies, heads),
        "eye_rim": table(lambda b, e: balls(b, e, 0.9), bodies, eyes),
        "eye": table(lambda b, e: balls(b, e, 0.0), bodies, eyes),
        "pupil": table(lambda b, e: balls(b, e, 0.0, shrink=0.52), bodies, eyes),
        "smile": table(lambda b: smile(plane, EYE_HEIGHT[b] - 5.2), bodies),
        "shadow": coverage(ellipse(plane, 0, 0, 12, 2.6) * scale),
    }


# ---------------------------------------------------------------- the picture


@functools.cache
def palette() -> Tensor:
    """The colours in the order of COLOURS, (8, 3) in [0, 1]."""
    return torch.tensor(list(COLOURS.values()), dtype=torch.float32) / 255


def render(subjects: np.ndarray, contexts: np.ndarray) -> Tensor:
    """Draw (B, S), (B, C) -> (B, 3, 64, 64) in [0, 1]. A row's picture does not depend on its batch."""
    subject = dict(zip(SUBJECT, torch.tensor(subjects).long().T, strict=True))
    context = dict(zip(CONTEXT, torch.tensor(contexts).long().T, strict=True))
    pose = (context["position"] * len(SCALE) + context["size"]) * len(TILT) + context["tilt"]
    table, b, h, e = layers(), subject["body"], subject["headgear"], subject["eyes"]

    picture = scenes()[context["scene"]].clone()

    def paint(cover: Tensor, colour: Tensor) -> None:
        picture.lerp_(colour.view(-1, 3, 1, 1).expand_as(picture), cover[:, None].expand_as(picture))

    ink = (torch.tensor(INK) / 255).expand(len(picture), 3)
    white = palette()[-1].expand(len(picture), 3)
    paint(table["shadow"][pose] * 0.35, ink)
    paint(table["outline"][b, h, pose], ink)
    paint(table["body"][b, pose], palette()[subject["colour"]])
    paint(table["belly"][b, pose], palette()[subject["belly"]])
    paint(table["headgear"][b, h, pose], palette()[subject["headgear_colour"]])
    paint(table["eye_rim"][b, e, pose], ink)
    paint(table["eye"][b, e, pose], white)
    paint(table["pupil"][b, e, pose], ink)
    paint(table["smile"][b, pose], ink)
    return (picture * torch.tensor(LIGHT)[context["light"]][:, :, None, None]).clamp(0, 1)
