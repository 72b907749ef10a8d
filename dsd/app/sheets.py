"""Sheets of pictures along two axes."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import gradio as gr
from PIL import Image

from dsd.app.engine import Engine
from dsd.app.report import Report
from dsd.io.pictures import axes_sheet, save_picture


@dataclass(frozen=True)
class Axis:
    """A name and its values."""

    name: str
    values: list[str]


def keep_sheet(engine: Engine, report: Report, rows: Axis, columns: Axis) -> Any:
    """Put what is drawn so far on a sheet, row by row, and write it; skip where nothing is new."""
    if not report.drawn or report.step:
        return gr.skip()
    places = [(row, column) for row in rows.values for column in columns.values]
    size = report.drawn[0].picture.size
    pictures = [one.picture for one in report.drawn] + [blank(size)] * (len(places) - len(report.drawn))
    sheet = axes_sheet(
        dict(zip(places, pictures, strict=True)), (rows.name, rows.values), (columns.name, columns.values)
    )
    names = "\n".join(str(one.path) for one in report.drawn)
    path = engine.folder.parent / "sheets" / f"sheet-{hashlib.sha256(names.encode()).hexdigest()[:16]}.png"
    first = report.drawn[0].wish
    save_picture(sheet, path, first.prompt, first.seed, engine.settings(first) | {"adapter": first.adapter})
    return str(path)


@lru_cache(maxsize=4)
def blank(size: tuple[int, int]) -> Image.Image:
    """Make what stands for a picture that is not drawn yet."""
    return Image.new("RGB", size, (235, 235, 238))
