"""Read the pictures of grids one by one, so that a damaged one is an error of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from dsd.errors import UserError
from dsd.runs.shards import read_shards


def read_grids(folder: str | Path) -> Dataset:
    """Read the grids of dsd-data-gen with pictures as they are stored; `picture_of` decodes one."""
    return read_shards(folder, "grids").cast_column("image", ImageFeature(decode=False))


def picture_of(grid: Mapping[str, Any]) -> Image.Image:
    """Decode the picture of a grid. UserError where it is damaged."""
    stored = grid["image"]
    if isinstance(stored, Image.Image):
        return stored
    try:
        picture: Image.Image = ImageFeature().decode_example(stored)
        picture.load()
        return picture
    except Exception as error:  # Pillow has no common class for what is wrong with a file
        reason = str(error).splitlines()[0].split("<_io")[0].strip() if str(error) else type(error).__name__
        raise UserError(f"grid {grid['index']}: the picture is damaged ({reason}); draw the grids again") from error
