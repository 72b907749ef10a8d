"""Pictures saved with how they were made, on one sheet for people to look at, and a sheet cut into its panels."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

import dsd
from dsd.errors import UserError
from dsd.manifest import atomic
from dsd.records import layout_shape

PAD, LINE, INK, PAPER = 8, 15, (40, 40, 48), (255, 255, 255)


def picture_format(path: str | Path) -> str:
    """Pillow's name of the format that a file's ending asks for. UserError where there is none."""
    suffix = Path(path).suffix.lower()
    Image.init()
    if Image.EXTENSION.get(suffix) not in Image.SAVE:
        raise UserError(f"{path}: {suffix or 'no ending'} is no picture format; end the name with .png")
    return Image.EXTENSION[suffix]


def save_picture(picture: Image.Image, path: str | Path, prompt: str, seed: int, settings: Mapping[str, Any]) -> None:
    """Write a picture whole or not at all; a PNG carries prompt, seed, settings (JSON) and our version as text."""
    kind, said = picture_format(path), PngInfo()
    known = {"prompt": prompt, "seed": seed, "settings": json.dumps(settings), "software": f"dsd {dsd.__version__}"}
    for name, value in known.items():
        said.add_itxt(name, str(value))
    with atomic(path) as temporary:
        picture.save(temporary, kind, **({"pnginfo": said} if kind == "PNG" else {}))


def contact_sheet(
    images: Sequence[Image.Image], labels: Sequence[str], columns: int, cell: int = 256, lines: int = 4
) -> Image.Image:
    """Images in rows of `columns`, each fitted into a square of `cell` pixels, its label wrapped below it."""
    font = ImageFont.load_default(size=12)
    rows = -(-len(images) // columns)
    height = cell + (lines if any(labels) else 0) * LINE + PAD
    sheet = Image.new("RGB", (columns * (cell + PAD) + PAD, rows * height + PAD), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        left, top = PAD + i % columns * (cell + PAD), PAD + i // columns * height
        scale = cell / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        # Enlarging keeps pixels visible as they are; shrinking averages them.
        fitted = image.convert("RGB").resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
        sheet.paste(fitted, (left, top))
        for n, text in enumerate(textwrap.wrap(label, width=cell // 6)[:lines]):
            draw.text((left, top + cell + n * LINE), text, INK, font)
    return sheet


def cut(sheet: Image.Image, layout: str) -> list[Image.Image]:
    """The panels, row by row, all of one size; a remainder of pixels on the right and below is dropped."""
    rows, columns = layout_shape(layout)
    height, width = sheet.height // rows, sheet.width // columns
    corners = [(column * width, row * height) for row in range(rows) for column in range(columns)]
    return [sheet.crop((x, y, x + width, y + height)) for x, y in corners]
