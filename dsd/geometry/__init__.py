"""Tell whether two pictures have one layout, whatever their light: every subject, edge and pixel in its own place.

Each file holds one kind of evidence: displacement (flow.py), edges (edges.py), patches (patches.py), depth (depth.py),
how much the light has changed (light.py) and what that change does not explain (residual.py). A user chooses some of
them by geometry=[flow,edges].
"""

from collections.abc import Sequence
from typing import ClassVar, Protocol

from PIL import Image

from dsd.errors import UserError


class Geometry(Protocol):
    """Compares pairs of pictures of equal size. `names` are the keys of its scores."""

    names: ClassVar[Sequence[str]]

    def __call__(self, firsts: Sequence[Image.Image], seconds: Sequence[Image.Image]) -> list[dict[str, float]]:
        """Score each pair, in order. A score that cannot be computed for a pair is absent from its dict.

        UserError where the two pictures of a pair have different sizes.
        """
        ...


def size_fault(first: Image.Image, second: Image.Image) -> str:
    """Say that two pictures have different sizes, "" if they have one size."""
    sizes = [f"{image.width}x{image.height}" for image in (first, second)]
    return "" if first.size == second.size else f"pictures of {sizes[0]} and {sizes[1]} pixels cannot be compared"


def refuse_unequal(first: Image.Image, second: Image.Image) -> None:
    """Raise UserError where two pictures have different sizes."""
    if fault := size_fault(first, second):
        raise UserError(f"{fault} place by place; give both one size")
