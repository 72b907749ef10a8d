"""Sheets of pictures along two axes."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import gradio as gr
from PIL import Image

from dsd.app.engine import Engine
from dsd.app.look import status
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


def sheet_parts(action: str, said: str, label: str, name: str) -> tuple[gr.Button, gr.Button, gr.HTML, gr.Image]:
    """Lay out what draws a sheet: its button, the Stop button, the line that says how far it is, and the sheet.

    `name` is the button's id in the page; the line's is `<name>-status`.
    """
    with gr.Row():
        draw = gr.Button(action, variant="primary", scale=3, elem_id=name)
        stop = gr.Button("Stop", variant="stop", scale=1, min_width=80)
    line = gr.HTML(status(said), elem_id=f"{name}-status")
    sheet = gr.Image(
        label=label, type="filepath", format="png", interactive=False, elem_id=f"{name}-sheet",
        buttons=["download", "fullscreen"],
    )  # fmt: skip
    return draw, stop, line, sheet


@lru_cache(maxsize=4)
def blank(size: tuple[int, int]) -> Image.Image:
    """Make what stands for a picture that is not drawn yet."""
    return Image.new("RGB", size, (235, 235, 238))
