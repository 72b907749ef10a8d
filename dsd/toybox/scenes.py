"""The six scenes in which critters stand, drawn once: (3, 64, 64) pixels in [0, 1] each."""

import functools

import torch
from torch import Tensor

from dsd.toybox.shapes import SIZE, Plane, box, coverage, ellipse, polygon, union


def rgb(*values: float) -> Tensor:
    """Make a colour (3, 1, 1) in [0, 1] of values up to 255."""
    return torch.tensor(values, dtype=torch.float32).view(3, 1, 1) / 255


@functools.cache
def plane() -> Plane:
    """The coordinates of every pixel: u from the left edge, v up from the lower edge."""
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    return x, SIZE - y


def paint(picture: Tensor, distance: Tensor, *colour: float) -> Tensor:
    """Paint a shape over a picture."""
    return torch.lerp(picture, rgb(*colour), coverage(distance))


def sky(top: tuple[float, ...], low: tuple[float, ...]) -> Tensor:
    """Blend two colours from the upper edge down to the horizon."""
    y = SIZE - plane()[1]
    return torch.lerp(rgb(*top), rgb(*low), (y / 46).clamp(0, 1))


def ground(height: float, wave: float = 0.0, phase: float = 0.0) -> Tensor:
    """Distance to the ground below a wavy line."""
    return plane()[1] - height - wave * torch.sin(plane()[0] / 9 + phase)


def meadow() -> Tensor:
    """A sunny meadow with a cloud and flowers."""
    picture = sky((120, 196, 245), (206, 236, 250))
    picture = paint(picture, ellipse(plane(), 54, 55, 5.5, 5.5), 255, 236, 120)
    picture = paint(picture, union(ellipse(plane(), 12, 53, 7, 3), ellipse(plane(), 17, 55, 5, 3.5)), 255, 255, 255)
    picture = paint(picture, ground(23, 2.0), 142, 208, 104)
    picture = paint(picture, ground(17, 1.0, 2), 112, 186, 84)
    for i, (u, v) in enumerate([(5, 12), (15, 4), (25, 8), (37, 3), (44, 12), (52, 5), (60, 13)]):
        picture = paint(picture, ellipse(plane(), u, v, 1.7, 1.7), *((255, 255, 255) if i % 2 else (250, 150, 190)))
    return picture


def beach() -> Tensor:
    """A beach with a sailing boat."""
    picture = sky((98, 196, 236), (200, 238, 246))
    picture = paint(picture, ground(33), 46, 134, 190)
    picture = paint(picture, ground(26), 70, 164, 206)
    picture = paint(
        picture, union(polygon(plane(), (49, 35), (58, 35), (50, 47)), box(plane(), 53, 34, 5, 1)), 255, 255, 255
    )
    picture = paint(picture, ground(19, 1.2), 250, 232, 180)
    picture = paint(picture, ground(17, 1.2), 240, 214, 146)
    return picture


def snow() -> Tensor:
    """Snow, falling on four fir trees."""
    picture = sky((176, 200, 226), (226, 234, 244))
    for u, h in ((7, 1.0), (20, 0.7), (46, 0.75), (58, 1.05)):
        tree = union(
            *(polygon(plane(), (u - w * h, b), (u + w * h, b), (u, b + 13 * h)) for w, b in ((7, 20), (5.5, 27)))
        )
        picture = paint(picture, tree, 46, 104, 92)
    picture = paint(picture, ground(20, 1.5, 1), 250, 252, 255)
    picture = paint(picture, ground(11, 1.5, 3), 228, 236, 248)
    for u, v in ((4, 50), (14, 58), (28, 60), (33, 48), (41, 55), (52, 50), (61, 59), (50, 61)):
        picture = paint(picture, ellipse(plane(), u, v, 1.1, 1.1), 255, 255, 255)
    return picture


def desert() -> Tensor:
    """Dunes with two cacti."""
    picture = sky((250, 196, 128), (255, 232, 184))
    picture = paint(picture, ellipse(plane(), 12, 52, 6.5, 6.5), 255, 246, 206)
    picture = paint(picture, ground(23, 3.5, 1.0), 228, 160, 96)
    for u, h in ((55, 19), (8, 14)):
        cactus = union(
            box(plane(), u, 15 + h / 2, 2.2, h / 2, 2),
            box(plane(), u - 4, 17 + h / 2, 1.3, 3.5, 1),
            box(plane(), u - 2, 15 + h / 2, 2.5, 1.2),
        )
        picture = paint(picture, cactus, 74, 138, 92)
    picture = paint(picture, ground(15, 2.0, 3.5), 206, 132, 74)
    return picture


def city() -> Tensor:
    """A street before lit houses."""
    picture = sky((186, 190, 222), (226, 222, 236))
    for u, w, h in ((6, 6, 46), (19, 6, 35), (32, 6, 42), (45, 6, 33), (58, 6, 50)):
        picture = paint(picture, box(plane(), u, h / 2, w, h / 2), 104, 108, 142)
        for row in range(22, h - 3, 6):
            lit = union(box(plane(), u - 2.6, row, 1.2, 1.5), box(plane(), u + 2.6, row, 1.2, 1.5))
            picture = paint(picture, lit, 250, 226, 140)
    picture = paint(picture, ground(18), 168, 168, 176)
    picture = paint(picture, ground(13), 88, 88, 100)
    for u in (6, 22, 38, 54):
        picture = paint(picture, box(plane(), u, 4, 4.5, 0.9), 244, 236, 200)
    return picture


def forest() -> Tensor:
    """A dark forest with two mushrooms."""
    picture = sky((52, 98, 78), (92, 146, 100))
    for u, trunk in ((5, 3.2), (18, 2.4), (31, 2.8), (45, 2.4), (58, 3.4)):
        picture = paint(picture, box(plane(), u, 36, trunk, 28), 96, 66, 50)
    for u, v, r in ((2, 60, 9), (16, 63, 9), (30, 61, 8), (44, 63, 9), (59, 60, 9)):
        picture = paint(picture, ellipse(plane(), u, v, r, r), 34, 78, 58)
    picture = paint(picture, ground(18, 1.5), 84, 112, 54)
    picture = paint(picture, ground(10, 1.2, 2), 66, 92, 46)
    for u, v in ((10, 13), (52, 12)):
        picture = paint(picture, box(plane(), u, v + 1.5, 1, 2), 245, 236, 220)
        picture = paint(picture, torch.maximum(ellipse(plane(), u, v + 3, 3.2, 3.2), v + 3 - plane()[1]), 214, 64, 58)
    return picture


@functools.cache
def scenes() -> Tensor:
    """Draw all scenes in the order of `CONTEXT["scene"]`: (6, 3, 64, 64)."""
    return torch.stack([meadow(), beach(), snow(), desert(), city(), forest()])
