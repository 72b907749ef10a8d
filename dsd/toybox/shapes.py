"""Shapes as signed distances on a plane, and the share of each pixel that they cover."""

import functools
import math

import torch
from torch import Tensor

SIZE = 64  # pixels along a picture's side
Plane = tuple[Tensor, Tensor]  # coordinates u, v of every pixel, (..., 64, 64) each


def ellipse(plane: Plane, u: float, v: float, a: float, b: float) -> Tensor:
    """Distance to an ellipse with half-axes a, b; approximate (first order), but exact for a circle."""
    x, y = plane[0] - u, plane[1] - v
    k = torch.sqrt((x / a) ** 2 + (y / b) ** 2)
    slope = torch.sqrt((x / a**2) ** 2 + (y / b**2) ** 2).clamp_min(1e-6)
    return k * (k - 1) / slope if a != b else torch.hypot(x, y) - a


def box(plane: Plane, u: float, v: float, a: float, b: float, radius: float = 0.0) -> Tensor:
    """Distance to a rectangle with half-sides a, b and rounded corners."""
    x, y = (plane[0] - u).abs() - a + radius, (plane[1] - v).abs() - b + radius
    return torch.hypot(x.clamp_min(0), y.clamp_min(0)) + torch.maximum(x, y).clamp_max(0) - radius


def polygon(plane: Plane, *corners: tuple[float, float], radius: float = 0.0) -> Tensor:
    """Distance to a convex polygon (corners counter-clockwise), exact along its sides, grown by `radius`."""
    sides = []
    for (u0, v0), (u1, v1) in zip(corners, corners[1:] + corners[:1], strict=True):
        length = math.hypot(u1 - u0, v1 - v0)
        sides.append(((plane[0] - u0) * (v1 - v0) - (plane[1] - v0) * (u1 - u0)) / length)
    return torch.stack(sides).amax(0) - radius


def union(*distances: Tensor) -> Tensor:
    """Join shapes: the distance to the nearest one."""
    return functools.reduce(torch.minimum, distances)


def coverage(distance: Tensor) -> Tensor:
    """Convert signed distances in pixels to the share of each pixel inside."""
    return (0.5 - distance).clamp(0, 1)
