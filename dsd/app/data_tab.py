"""The Data tab: grids, kept and rejected pairs, and people's labels."""

from typing import Any

import gradio as gr

from dsd.app.data import EVERY, browse, labels_in, views
from dsd.app.engine import Engine
from dsd.app.form import one_line
from dsd.app.look import cards


def data_tab(engine: Engine) -> gr.Dropdown:
    """Lay out the tab; return its menu."""
    runs = engine.cfg.runs
    known, files = views(runs), ["", *labels_in(runs)]
    with gr.Row():
        view = gr.Dropdown(
            known, value=None, label="Finished folder", elem_id="view", scale=2, allow_custom_value=True,
            info=None if known else f"Nothing finished below {runs}/ yet.",
        )  # fmt: skip
        reason = gr.Dropdown([EVERY], value=EVERY, label="Rejected because", elem_id="reason", allow_custom_value=True)
        labels = gr.Dropdown(files, value="", label="Labels of dsd-label", allow_custom_value=True)
        number = gr.Number(1, label="Page", precision=0, minimum=1, elem_id="page-number", min_width=80)
    said = gr.Markdown("Choose a folder.", elem_id="said")
    records = gr.HTML(elem_id="cards")

    def show(view: str, reason: str, page: int, labels: str) -> tuple[Any, ...]:
        """Browse a finished folder: pictures with what was said of them."""
        with one_line():
            found = browse(runs, view, reason, page, labels)
        line = f"{found.num_rows} records, page {min(max(page or 1, 1), found.num_pages)} of {found.num_pages}"
        choices = gr.update(choices=[EVERY, *found.reasons])
        return cards((one.picture, one.headline, one.words) for one in found.cards), line, choices

    inputs, outputs = [view, reason, number, labels], [records, said, reason]
    number.input(show, inputs, outputs, api_visibility="private")
    for field in (reason, labels):
        field.input(
            lambda name, reason, _, labels: show(name, reason, 1, labels), inputs, outputs, api_visibility="private"
        ).success(lambda: 1, None, number, api_visibility="private", queue=False)
    view.input(
        lambda name, labels: show(name, EVERY, 1, labels), [view, labels], outputs, api_visibility="private"
    ).success(lambda: (1, EVERY), None, [number, reason], api_visibility="private", queue=False)
    return view
