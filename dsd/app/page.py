"""The page: tabs over one engine."""

from typing import Any

import gradio as gr
from gradio.events import api

from dsd.app.compare_tab import compare_tab
from dsd.app.data import views
from dsd.app.data_tab import data_tab
from dsd.app.draw_tab import Wrap, draw_tab, user_of
from dsd.app.engine import Engine
from dsd.app.form import menu
from dsd.app.sweep_tab import sweep_tab
from dsd.version import __version__

KEPT = (3600, 86400)  # seconds between looks at Gradio's temporary files, and the age at which they are removed
WAITING = 64  # requests that may wait in Gradio's queue


def build(engine: Engine, gpu: Wrap = lambda function: function) -> gr.Blocks:
    """Build the page. `gpu` wraps the functions that draw, such as `spaces.GPU` on a Space of ZeroGPU."""
    model = engine.cfg.model.name
    page = gr.Blocks(title="Diffusion Self-Distillation", analytics_enabled=False, fill_width=True, delete_cache=KEPT)
    with page:
        gr.Markdown(
            "# Diffusion Self-Distillation\nOne picture of a subject and a sentence; out comes the same subject in a "
            f"new context. Base model: {model}, dsd {__version__}.",
            elem_id="title",
        )
        with gr.Tab("Draw", id="draw"):
            form = draw_tab(engine, gpu)
        with gr.Tab("Sweep", id="sweep") as tab:
            sweep_tab(engine, form, gpu, tab)
        with gr.Tab("Compare", id="compare") as tab:
            others = compare_tab(engine, form, gpu, tab)
        with gr.Tab("Data", id="data"):
            view = data_tab(engine)

        def menus() -> list[Any]:
            choices = menu(engine)
            return [gr.update(choices=choices)] * (1 + len(others)) + [gr.update(choices=views(engine.cfg.runs))]

        def adapters() -> list[str]:
            """List the adapters that can draw; `adapter` takes these names."""
            return [choice.name for choice in engine.adapters()]

        def left(request: gr.Request) -> None:
            engine.stop(user_of(request))

        page.load(menus, None, [form.adapter, *others, view], api_visibility="private", queue=False)
        page.unload(left)
        api(adapters, api_name="adapters", queue=False)
    page.queue(max_size=WAITING)
    return page
