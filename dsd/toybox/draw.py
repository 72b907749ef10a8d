"""Draws critters: (B, S) subjects and (B, C) contexts -> (B, 3, 64, 64) pixels in [0, 1].

Shapes are signed distances in a critter's own coordinates (u to its right, v up from its feet, body radius 14), turned
into anti-aliased coverage once per pose and kept in tables; drawing a batch is then looking up layers and painting
them one over the other. N = 18 poses = position x size x tilt.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dsd.toybox.world import COLOURS, CONTEXT, SUBJECT

SIZE = 64
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

Grid = tuple[Tensor, Tensor]  # u, v, each (N, 64, 64)


# ---------------------------------------------------------------- signed distances, in the units of their grid


def ellipse(grid: Grid, u: float, v: float, a: float, b: float) -> Tensor:
    """Distance to an ellipse with half-axes a, b; first-order (exact for a circle)."""
    x, y = grid[0] - u, grid[1] - v
    k = torch.sqrt((x / a) ** 2 + (y / b) ** 2)
    slope = torch.sqrt((x / a**2) ** 2 + (y / b**2) ** 2).clamp_min(1e-6)
    return k * (k - 1) / slope if a != b else torch.hypot(x, y) - a


def box(grid: Grid, u: float, v: float, a: float, b: float, radius: float = 0.0) -> Tensor:
    """Distance to a rectangle with half-sides a, b and rounded corners."""
    x, y = (grid[0] - u).abs() - a + radius, (grid[1] - v).abs() - b + radius
    return torch.hypot(x.clamp_min(0), y.clamp_min(0)) + torch.maximum(x, y).clamp_max(0) - radius


def polygon(grid: Grid, *corners: tuple[float, float], radius: float = 0.0) -> Tensor:
    """Distance to a convex polygon (corners counter-clockwise), exact along its sides, grown by `radius`."""
    sides = []
    for (u0, v0), (u1, v1) in zip(corners, corners[1:] + corners[:1], strict=True):
        length = math.hypot(u1 - u0, v1 - v0)
        sides.append(((grid[0] - u0) * (v1 - v0) - (grid[1] - v0) * (u1 - u0)) / length)
    return torch.stack(sides).amax(0) - radius


def union(*distances: Tensor) -> Tensor:
    return functools.reduce(torch.minimum, distances)


# ---------------------------------------------------------------- the critter


def body(grid: Grid, kind: int) -> Tensor:
    trunk: Callable[[], Tensor] = (
        lambda: ellipse(grid, 0, 15.5, 14, 14),
        lambda: box(grid, 0, 15, 13, 13.5, radius=4),
        lambda: ellipse(grid, 0, 17.5, 10.5, 16),
        lambda: polygon(grid, (-9, 5), (9, 5), (1.0, 27), (-1.0, 27), radius=4),
    )[kind]
    return union(trunk(), ellipse(grid, -6, 1.5, 4.5, 3), ellipse(grid, 6, 1.5, 4.5, 3))


def headgear(grid: Grid, kind: int, top: float) -> Tensor:
    h = top
    if kind == 0:  # top hat
        return union(box(grid, 0, h, 10, 1.6, radius=1), box(grid, 0, h + 5.5, 6.2, 6, radius=1))
    if kind == 1:  # party hat
        return union(
            polygon(grid, (-7.5, h - 2), (7.5, h - 2), (0, h + 11), radius=0.8), ellipse(grid, 0, h + 11, 3, 3)
        )
    if kind == 2:  # horns
        left = polygon(grid, (-11, h - 6), (-4, h - 2.5), (-12.5, h + 8), radius=0.8)
        right = polygon(grid, (4, h - 2.5), (11, h - 6), (12.5, h + 8), radius=0.8)
        return union(left, right)
    if kind == 3:  # bunny ears
        return union(ellipse(grid, -5.5, h + 4.5, 3.6, 8.5), ellipse(grid, 5.5, h + 4.5, 3.6, 8.5))
    left = polygon(grid, (-11, h - 1.5), (-1, h + 3.5), (-11, h + 8.5), radius=1.2)  # bow
    right = polygon(grid, (11, h + 8.5), (1, h + 3.5), (11, h - 1.5), radius=1.2)
    return union(left, right, ellipse(grid, 0, h + 3, 4, 4))


def eye_circles(kind: int, height: float) -> list[tuple[float, float, float]]:
    """(u, v, radius) of each eye."""
    return (
        [(0.0, height, 5.6)],
        [(-5.0, height, 4.1), (5.0, height, 4.1)],
        [(-7.2, height - 0.5, 3.3), (0.0, height + 1.5, 3.3), (7.2, height - 0.5, 3.3)],
    )[kind]


def smile(grid: Grid, height: float) -> Tensor:
    ring = (torch.hypot(grid[0], grid[1] - height) - 2.6).abs() - 0.55
    return torch.maximum(ring, grid[1] - height + 0.8)


# ---------------------------------------------------------------- tables of coverage


def coverage(distance: Tensor) -> Tensor:
    """Signed distance in pixels -> share of the pixel inside."""
    return (0.5 - distance).clamp(0, 1)


@functools.cache
def poses() -> tuple[Grid, Tensor]:
    """The critters' own coordinates under every pose, (N, 64, 64) each, and pixels per unit (N, 1, 1)."""
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    combos = torch.cartesian_prod(torch.tensor(POSITION_X), torch.tensor(SCALE), torch.tensor(TILT))
    centre, scale, tilt = (column.view(-1, 1, 1) for column in combos.unbind(1))
    right, up = (x - centre) / scale, (FEET - y) / scale
    return (right * tilt.cos() + up * tilt.sin(), up * tilt.cos() - right * tilt.sin()), scale


@functools.cache
def layers() -> dict[str, Tensor]:
    """Coverage of every part: (..., N, 64, 64), led by the attributes that change it."""
    grid, scale = poses()
    bodies, heads, eyes = (range(len(SUBJECT[name])) for name in ("body", "headgear", "eyes"))

    def table(draw: Callable[..., Tensor], *axes: range, grow: float = 0.0) -> Tensor:
        cells = [coverage(draw(*index) * scale - grow) for index in np.ndindex(*map(len, axes))]
        return torch.stack(cells).unflatten(0, [len(axis) for axis in axes])

    def balls(b: int, e: int, grow: float, shrink: float = 1.0) -> Tensor:
        return union(
            *(ellipse(grid, u, v, r * shrink + grow, r * shrink + grow) for u, v, r in eye_circles(e, EYE_HEIGHT[b]))
        )

    return {
        "outline": table(lambda b, h: union(body(grid, b), headgear(grid, h, TOP[b])), bodies, heads, grow=1.1),
        "body": table(lambda b: body(grid, b), bodies),
        "belly": table(lambda b: ellipse(grid, 0, 8.8, BELLY_WIDTH[b], 6.8), bodies),
        "headgear": table(lambda b, h: headgear(grid, h, TOP[b]), bodies, heads),
        "eye_rim": table(lambda b, e: balls(b, e, 0.9), bodies, eyes),
        "eye": table(lambda b, e: balls(b, e, 0.0), bodies, eyes),
        "pupil": table(lambda b, e: balls(b, e, 0.0, shrink=0.52), bodies, eyes),
        "smile": table(lambda b: smile(grid, EYE_HEIGHT[b] - 5.2), bodies),
        "shadow": coverage(ellipse(grid, 0, 0, 12, 2.6) * scale),
    }


# ---------------------------------------------------------------- the scenes


def rgb(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(3, 1, 1) / 255


@functools.cache
def scenes() -> Tensor:
    """(6, 3, 64, 64): meadow, beach, snow, desert, city, forest."""
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    grid = (x, SIZE - y)  # v up from the lower edge

    def paint(picture: Tensor, distance: Tensor, *colour: float) -> Tensor:
        return torch.lerp(picture, rgb(*colour), coverage(distance))

    def sky(top: tuple[float, ...], low: tuple[float, ...]) -> Tensor:
        return torch.lerp(rgb(*top), rgb(*low), (y / 46).clamp(0, 1))

    def ground(height: float, wave: float = 0.0, phase: float = 0.0) -> Tensor:
        return grid[1] - height - wave * torch.sin(x / 9 + phase)

    meadow = sky((120, 196, 245), (206, 236, 250))
    meadow = paint(meadow, ellipse(grid, 54, 55, 5.5, 5.5), 255, 236, 120)
    meadow = paint(meadow, union(ellipse(grid, 12, 53, 7, 3), ellipse(grid, 17, 55, 5, 3.5)), 255, 255, 255)
    meadow = paint(meadow, ground(23, 2.0), 142, 208, 104)
    meadow = paint(meadow, ground(17, 1.0, 2), 112, 186, 84)
    for i, (u, v) in enumerate([(5, 12), (15, 4), (25, 8), (37, 3), (44, 12), (52, 5), (60, 13)]):
        meadow = paint(meadow, ellipse(grid, u, v, 1.7, 1.7), *((255, 255, 255) if i % 2 else (250, 150, 190)))

    beach = sky((98, 196, 236), (200, 238, 246))
    beach = paint(beach, ground(33), 46, 134, 190)
    beach = paint(beach, ground(26), 70, 164, 206)
    beach = paint(beach, union(polygon(grid, (49, 35), (58, 35), (50, 47)), box(grid, 53, 34, 5, 1)), 255, 255, 255)
    beach = paint(beach, ground(19, 1.2), 250, 232, 180)
    beach = paint(beach, ground(17, 1.2), 240, 214, 146)

    snow = sky((176, 200, 226), (226, 234, 244))
    for u, h in ((7, 1.0), (20, 0.7), (46, 0.75), (58, 1.05)):
        tree = union(*(polygon(grid, (u - w * h, b), (u + w * h, b), (u, b + 13 * h)) for w, b in ((7, 20), (5.5, 27))))
        snow = paint(snow, tree, 46, 104, 92)
    snow = paint(snow, ground(20, 1.5, 1), 250, 252, 255)
    snow = paint(snow, ground(11, 1.5, 3), 228, 236, 248)
    for u, v in ((4, 50), (14, 58), (28, 60), (33, 48), (41, 55), (52, 50), (61, 59), (50, 61)):
        snow = paint(snow, ellipse(grid, u, v, 1.1, 1.1), 255, 255, 255)

    desert = sky((250, 196, 128), (255, 232, 184))
    desert = paint(desert, ellipse(grid, 12, 52, 6.5, 6.5), 255, 246, 206)
    desert = paint(desert, ground(23, 3.5, 1.0), 228, 160, 96)
    for u, h in ((55, 19), (8, 14)):
        cactus = union(
            box(grid, u, 15 + h / 2, 2.2, h / 2, 2),
            box(grid, u - 4, 17 + h / 2, 1.3, 3.5, 1),
            box(grid, u - 2, 15 + h / 2, 2.5, 1.2),
        )
        desert = paint(desert, cactus, 74, 138, 92)
    desert = paint(desert, ground(15, 2.0, 3.5), 206, 132, 74)

    city = sky((186, 190, 222), (226, 222, 236))
    for u, w, h in ((6, 6, 46), (19, 6, 35), (32, 6, 42), (45, 6, 33), (58, 6, 50)):
        city = paint(city, box(grid, u, h / 2, w, h / 2), 104, 108, 142)
        for row in range(22, h - 3, 6):
            lit = union(box(grid, u - 2.6, row, 1.2, 1.5), box(grid, u + 2.6, row, 1.2, 1.5))
            city = paint(city, lit, 250, 226, 140)
    city = paint(city, ground(18), 168, 168, 176)
    city = paint(city, ground(13), 88, 88, 100)
    for u in (6, 22, 38, 54):
        city = paint(city, box(grid, u, 4, 4.5, 0.9), 244, 236, 200)

    forest = sky((52, 98, 78), (92, 146, 100))
    for u, trunk in ((5, 3.2), (18, 2.4), (31, 2.8), (45, 2.4), (58, 3.4)):
        forest = paint(forest, box(grid, u, 36, trunk, 28), 96, 66, 50)
    for u, v, r in ((2, 60, 9), (16, 63, 9), (30, 61, 8), (44, 63, 9), (59, 60, 9)):
        forest = paint(forest, ellipse(grid, u, v, r, r), 34, 78, 58)
    forest = paint(forest, ground(18, 1.5), 84, 112, 54)
    forest = paint(forest, ground(10, 1.2, 2), 66, 92, 46)
    for u, v in ((10, 13), (52, 12)):
        forest = paint(forest, box(grid, u, v + 1.5, 1, 2), 245, 236, 220)
        forest = paint(forest, torch.maximum(ellipse(grid, u, v + 3, 3.2, 3.2), v + 3 - grid[1]), 214, 64, 58)
    return torch.stack([meadow, beach, snow, desert, city, forest])


# ---------------------------------------------------------------- the picture


@functools.cache
def palette() -> Tensor:
    return torch.tensor(list(COLOURS.values()), dtype=torch.float32) / 255  # (8, 3)


def render(subjects: np.ndarray, contexts: np.ndarray) -> Tensor:
    """(B, S), (B, C) -> (B, 3, 64, 64) in [0, 1]; a row's picture does not depend on the batch it is drawn in."""
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
