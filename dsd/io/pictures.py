"""Save pictures with how they were made, put them on a sheet to look at, and cut a grid into its panels."""

import json
import textwrap
import warnings
from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import EpsImagePlugin, Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo, putchunk

from dsd.errors import UserError
from dsd.io.files import atomic
from dsd.io.inputs import regular_file
from dsd.io.records import layout_shape
from dsd.version import __version__

HEADER = 33  # bytes of a PNG before its other chunks: the signature and IHDR
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")  # that are read; JPEG includes MPO
SMALL = 128  # pixels; larger pictures travel as JPEG in a page
PAD, LINE, INK, PAPER = 8, 15, (40, 40, 48), (255, 255, 255)


def picture_format(path: str | Path) -> str:
    """Find Pillow's name of the format for a file's ending. UserError where there is none."""
    suffix = Path(path).suffix.lower()
    Image.init()
    if Image.EXTENSION.get(suffix) not in Image.SAVE:
        raise UserError(f"{path}: {suffix or 'no ending'} is no picture format; end the name with .png")
    return Image.EXTENSION[suffix]


def save_picture(picture: Image.Image, path: str | Path, prompt: str, seed: int, settings: Mapping[str, Any]) -> None:
    """Write a picture; a PNG carries prompt, seed, settings (JSON) and our version as text."""
    kind, said = picture_format(path), texts(prompt, seed, settings)
    with atomic(path) as temporary:
        picture.save(temporary, kind, **({"pnginfo": said} if kind == "PNG" else {}))


def save_png(data: bytes, path: Path, prompt: str, seed: int, settings: Mapping[str, Any]) -> None:
    """Write the bytes of a PNG that has no texts as `save_picture` writes the picture, without encoding it again."""
    file = BytesIO()
    file.write(data[:HEADER])
    for kind, text, *_ in texts(prompt, seed, settings).chunks:
        putchunk(file, kind, text)
    file.write(data[HEADER:])
    with atomic(path) as temporary:
        temporary.write_bytes(file.getvalue())


def texts(prompt: str, seed: int, settings: Mapping[str, Any]) -> PngInfo:
    """Make the texts of a PNG that say how it was made."""
    said = PngInfo()
    known = {"prompt": prompt, "seed": seed, "settings": json.dumps(settings), "software": f"dsd {__version__}"}
    for name, value in known.items():
        said.add_itxt(name, str(value))
    return said


def contact_sheet(
    images: Sequence[Image.Image], labels: Sequence[str], columns: int, cell: int = 256, lines: int = 4
) -> Image.Image:
    """Put images in rows of `columns`, each at most `cell` pixels wide and high, its label wrapped below it."""
    font = ImageFont.load_default(size=12)
    rows, shown = -(-len(images) // columns), [_fitted(image, cell) for image in images]
    tallest = max((image.height for image in shown), default=cell)
    height = tallest + (lines if any(labels) else 0) * LINE + PAD
    sheet = Image.new("RGB", (columns * (cell + PAD) + PAD, rows * height + PAD), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (image, label) in enumerate(zip(shown, labels, strict=True)):
        left, top = PAD + i % columns * (cell + PAD), PAD + i // columns * height
        sheet.paste(image, (left, top))
        for n, text in enumerate(textwrap.wrap(label, width=cell // 6)[:lines]):
            draw.text((left, top + tallest + n * LINE), text, INK, font)
    return sheet


def axes_sheet(
    images: Mapping[tuple[str, str], Image.Image],
    rows: tuple[str, Sequence[str]],
    columns: tuple[str, Sequence[str]],
    cell: int = 256,
) -> Image.Image:
    """Put a picture at each (row's value, column's value), with the values as labels.

    `rows` and `columns` are each a name and its values; a name of "" has no labels.
    """  # fmt: skip
    font, (row_name, row_values), (column_name, column_values) = ImageFont.load_default(size=14), rows, columns
    left = max((round(font.getlength(f"{row_name} {value}")) for value in row_values if row_name), default=0) + 2 * PAD
    top = 2 * LINE
    size = (left + len(column_values) * (cell + PAD), top + len(row_values) * (cell + PAD))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for x, column in enumerate(column_values):
        if column_name:
            draw.text((left + x * (cell + PAD) + cell // 2, LINE), f"{column_name} {column}", INK, font, anchor="mm")
        for y, row in enumerate(row_values):
            sheet.paste(_fitted(images[row, column], cell), (left + x * (cell + PAD), top + y * (cell + PAD)))
    for y, row in enumerate(row_values):
        if row_name:
            draw.text((PAD, top + y * (cell + PAD) + cell // 2), f"{row_name} {row}", INK, font, anchor="lm")
    return sheet


def _fitted(image: Image.Image, cell: int) -> Image.Image:
    """Fit an image into a square of `cell` pixels: enlarging repeats pixels, shrinking averages them."""
    scale = cell / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def cut(grid: Image.Image, layout: str) -> list[Image.Image]:
    """Cut a grid into panels of one size, row by row; a remainder of pixels on the right and below is dropped."""
    rows, columns = layout_shape(layout)
    height, width = grid.height // rows, grid.width // columns
    corners = [(column * width, row * height) for row in range(rows) for column in range(columns)]
    return [grid.crop((x, y, x + width, y + height)) for x, y in corners]


def read_picture(source: str | Path | bytes, name: str = "") -> Image.Image:
    """Read a picture from a regular file or its bytes as a person sees it, the first frame of an animated one.

    UserError says what is wrong with it.
    """
    where = name if isinstance(source, bytes) else str(source)
    file = BytesIO(source) if isinstance(source, bytes) else regular_file(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large pictures and odd metadata; an error says too large
            with Image.open(file, formats=readable_formats()) as image:
                image.load()
                return to_rgb(image)
    except MemoryError as error:
        raise UserError(f"{where}: not a readable picture (too large for the memory)") from error
    except Exception as error:  # Pillow has no common class for what is wrong with a file
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{where}: not a readable picture ({first_line})") from error


def readable_formats() -> list[str]:
    """List the formats of FORMATS that this Pillow reads: an old one has no AVIF."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def forbid_programs() -> None:
    """Keep Pillow from starting Ghostscript for a picture that is PostScript, whatever its name says."""
    EpsImagePlugin.gs_binary = False


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture of any mode to what a person sees: upright, 8 bits, on white."""
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF, for which Pillow has no common class: the picture stays as it is stored
        image = image.copy()
    if image.mode.startswith("I;16") or image.mode == "I":
        image = image.point(lambda value: value / 256).convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def png(image: Image.Image) -> bytes:
    """Encode an image as PNG: the same bytes for the same pixels."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def data_uri(image: Image.Image, largest: int) -> str:
    """Turn a picture into a data URI, at most `largest` pixels wide and high: PNG, or JPEG where it is large."""
    shown = image.convert("RGB")
    shown.thumbnail((largest, largest))
    if max(shown.size) <= SMALL:
        return "data:image/png;base64," + b64encode(png(shown)).decode()
    buffer = BytesIO()
    shown.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + b64encode(buffer.getvalue()).decode()
