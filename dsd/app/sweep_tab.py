"""The Sweep tab: one reference, prompt and seed under every pair of guidances, on a sheet."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from dsd.app.draw_tab import DRAWING, Wrap, stops, user_of
from dsd.app.engine import Engine
from dsd.app.form import Form, one_line, summary, wishes_of
from dsd.app.report import Report
from dsd.app.sheets import Axis, keep_sheet, sheet_parts
from dsd.app.wishes import numbers_of
from dsd.errors import UserError


def sweep_tab(engine: Engine, form: Form, gpu: Wrap, tab: gr.Tab) -> None:
    """Lay out the tab."""
    gr.Markdown("Draws the reference and the first prompt of the Draw tab once for every pair of guidances.")
    summary(form, tab)
    with gr.Row():
        image = gr.Textbox("1, 1.5, 2", label="Image guidance, the rows", elem_id="sweep-image")
        text = gr.Textbox("1, 2, 3", label="Text guidance, the columns", elem_id="sweep-text")
    said = "The seed and all other settings are those of the Draw tab."
    draw, stop, line, sheet = sheet_parts("Draw the sheet", said, "Sheet", "sweep")

    def sweep(request: gr.Request, image_scales: str, text_scales: str, **given: Any) -> Iterator[tuple[Any, ...]]:
        """Draw a sheet of image guidance x text guidance, with one reference, prompt and seed."""
        with one_line():
            rows = numbers_of(image_scales, "image guidance")
            columns = numbers_of(text_scales, "text guidance")
            if len(rows) * len(columns) > engine.cfg.most_pictures:
                raise UserError(
                    f"{len(rows)} x {len(columns)} pictures; one request takes at most {engine.cfg.most_pictures} "
                    "(most_pictures)"
                )
            first = wishes_of(engine, {**given, "pictures": 1})[0]
            scales = [{"image_guidance_scale": i, "text_guidance_scale": t} for i in rows for t in columns]
            asked = [replace(first, drawing=first.drawing.model_copy(update=scale)) for scale in scales]
            axes = Axis("image", [f"{i:g}" for i in rows]), Axis("text", [f"{t:g}" for t in columns])
            report = Report(asked)
            for _ in report.follow(engine, user_of(request)):
                yield keep_sheet(engine, report, *axes), report.line

    inputs = {"image_scales": image, "text_scales": text, **form.inputs}
    draw.click(gpu(sweep), None, [sheet, line], inputs_kwargs=inputs, api_name="sweep", **DRAWING)
    stop.click(stops(engine), None, None, api_visibility="private", queue=False)
