"""The Compare tab: two adapters, the same reference, prompt and seeds."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from dsd.app.draw_tab import DRAWING, Wrap, stops, user_of
from dsd.app.engine import Engine
from dsd.app.form import Form, menu, one_line, summary, wishes_of
from dsd.app.report import Report
from dsd.app.sheets import Axis, keep_sheet, sheet_parts
from dsd.errors import UserError


def compare_tab(engine: Engine, form: Form, gpu: Wrap, tab: gr.Tab) -> list[gr.Dropdown]:
    """Lay out the tab; return its menus of adapters."""
    choices = menu(engine)
    gr.Markdown("Draws the reference and the first prompt of the Draw tab by both adapters, with the same seeds.")
    summary(form, tab)
    with gr.Row():
        first = gr.Dropdown(choices, value=choices[0][1], label="Adapter, first row", allow_custom_value=True)
        second = gr.Dropdown(
            choices, value=choices[min(1, len(choices) - 1)][1], label="Adapter, second row", allow_custom_value=True
        )
        seeds = gr.Slider(1, 8, 3, step=1, precision=0, buttons=[], label="Seeds, from the Draw tab's on")
    said = "All other settings are those of the Draw tab."
    draw, stop, line, sheet = sheet_parts("Compare", said, "Comparison", "compare")

    def compare(
        request: gr.Request, first_adapter: str, second_adapter: str, seeds: int, **given: Any
    ) -> Iterator[tuple[Any, ...]]:
        """Draw the same seeds by two adapters; each is loaded once."""
        with one_line():
            if first_adapter == second_adapter:
                raise UserError("both rows have the same adapter; choose two")
            if 2 * seeds > engine.cfg.most_pictures:
                raise UserError(
                    f"{2 * seeds} pictures; one request takes at most {engine.cfg.most_pictures} (most_pictures)"
                )
            names = (first_adapter, second_adapter)
            start = [wishes_of(engine, {**given, "pictures": 1, "adapter": name})[0] for name in names]
            asked = [replace(wish, seed=wish.seed + k) for wish in start for k in range(seeds)]
            axes = Axis("adapter", list(names)), Axis("seed", [str(wish.seed) for wish in asked[:seeds]])
            report = Report(asked)
            for _ in report.follow(engine, user_of(request)):
                yield keep_sheet(engine, report, *axes), report.line

    inputs = {"first_adapter": first, "second_adapter": second, "seeds": seeds, **form.inputs}
    draw.click(gpu(compare), None, [sheet, line], inputs_kwargs=inputs, api_name="compare", **DRAWING)
    stop.click(stops(engine), None, None, api_visibility="private", queue=False)
    return [first, second]
