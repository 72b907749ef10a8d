"""Pictures on one sheet, for people to look at, and a sheet cut into its panels."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from dsd.records import layout_shape

PAD, LINE, INK, PAPER = 8, 15, (40, 40, 48), (255, 255, 255)


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
