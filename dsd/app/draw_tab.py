"""The Draw tab: a reference and a prompt -> pictures."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from dsd.app.engine import Engine
from dsd.app.examples import examples
from dsd.app.form import (
    Form,
    guidance_fields,
    menu,
    more_fields,
    one_line,
    plain_markdown,
    seed_field,
    several,
    size_fields,
    upload_field,
    wishes_of,
)
from dsd.app.look import status
from dsd.app.report import Report
from dsd.app.wishes import prompts_of, read_settings, read_upload
from dsd.errors import UserError
from dsd.runs.settings import plain

AT_ONCE = 16  # requests that wait in the engine, which is fair between users; the others wait in Gradio's queue
DRAWING: dict[str, Any] = {"concurrency_limit": AT_ONCE, "concurrency_id": "draw", "show_progress": "hidden"}
Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


def draw_tab(engine: Engine, gpu: Wrap) -> Form:
    """Lay out the tab; return its fields. `gpu` wraps what draws, for a Space of ZeroGPU."""
    settings = plain(engine.cfg)["settings"]
    pixels = "pixels" if max(settings["width"], settings["height"]) <= 128 else ""
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            form, more_column = fields(engine, settings, pixels)
        with gr.Column(scale=7, min_width=320):
            with gr.Column(elem_id="go"):
                with gr.Row():
                    draw = gr.Button("Draw", variant="primary", scale=3, min_width=120, elem_id="draw")
                    stop = gr.Button("Stop", variant="stop", scale=1, min_width=80, elem_id="stop")
                line = gr.HTML(status(first_words(engine)), elem_id="status", padding=False)
            gallery = gr.Gallery(
                label="Pictures", columns=2, height="auto", object_fit="contain", format="png", interactive=False,
                buttons=["download", "fullscreen"], elem_id="pictures", elem_classes=pixels,
            )  # fmt: skip
            with gr.Row(elem_classes="tight"):
                save = gr.DownloadButton("Download PNG", size="sm", min_width=110, interactive=False, elem_id="save")
                reuse = gr.Button("Use as reference", size="sm", min_width=110, elem_id="reuse")
                again = gr.Button("Take its settings", size="sm", min_width=110, elem_id="again")
            load = gr.UploadButton(
                "Load settings from a picture (PNG)", size="sm", file_types=[".png"], type="filepath", elem_id="load"
            )
            redrawn = gr.Gallery(
                label="The reference as redrawn beside each picture", columns=4, height=170, object_fit="contain",
                format="png", interactive=False, buttons=[], visible=engine.adapters()[0].most_references == 1,
                elem_id="redrawn", elem_classes=pixels,
            )  # fmt: skip
    form.adapter.change(
        lambda name: several(engine, name), form.adapter, [more_column, redrawn], api_visibility="private", queue=False
    )
    drawn, picked = gr.State([]), gr.State(0)

    def draw_pictures(request: gr.Request, **given: Any) -> Iterator[tuple[Any, ...]]:
        """Draw the reference's subject as every line of the prompt says: pictures, references as redrawn, status."""
        with one_line():
            report = Report(wishes_of(engine, given))
            for _ in report.follow(engine, user_of(request)):
                paths = [str(one.path) for one in report.drawn]
                yield report.gallery(), report.redrawn(), report.line, paths

    event = draw.click(
        gpu(draw_pictures), None, [gallery, redrawn, line, drawn], inputs_kwargs=form.inputs, api_name="draw", **DRAWING
    )
    event.success(lambda paths: (0, saved(paths, 0)), drawn, [picked, save], api_visibility="private", queue=False)

    stop.click(stops(engine), None, None, api_name="stop", queue=False)

    def pick(event: gr.SelectData, paths: list[str]) -> tuple[int, Any]:
        return event.index, saved(paths, event.index)

    gallery.select(pick, drawn, [picked, save], api_visibility="private", queue=False)
    reuse.click(picked_path, [drawn, picked], form.reference, api_visibility="private", queue=False)
    loads_settings(engine, form, load, again, drawn, picked)
    return form


def fields(engine: Engine, settings: dict[str, Any], pixels: str) -> tuple[Form, gr.Accordion]:
    """Lay out the fields; return them, and what holds the field for more references."""
    reference = upload_field(
        label="Reference", sources=["upload", "clipboard", "webcam"], height=250, buttons=["fullscreen"],
        elem_id="reference", elem_classes=pixels,
    )  # fmt: skip
    choices = menu(engine)
    takes_more = engine.adapters()[0].most_references > 1
    with gr.Accordion("More references", open=False, visible=takes_more, elem_id="several") as more_column:
        more = gr.Gallery(
            label="More references of the same picture", type="filepath", columns=3, height=150, interactive=True,
            sources=["upload", "clipboard", "webcam"], object_fit="contain", elem_id="more", elem_classes=pixels,
        )  # fmt: skip
    prompt = gr.Textbox(
        label="Prompt", lines=3, max_lines=8, placeholder="What to draw of it. One prompt a line.", elem_id="prompt"
    )
    examples(engine, reference, prompt)
    asked = gr.State({})
    enhance_field(engine, reference, prompt, asked)
    image, text = guidance_fields(settings)
    with gr.Row():
        pictures = gr.Slider(
            1, engine.cfg.most_pictures, 1, step=1, precision=0, buttons=[], label="Pictures", min_width=150,
            elem_id="number", info="of each prompt",
        )  # fmt: skip
        with gr.Column(min_width=190):
            seed = seed_field()
    adapter = gr.Dropdown(choices, value=choices[0][1], label="Adapter", allow_custom_value=True, elem_id="adapter")
    with gr.Accordion("Size and steps", open=False):
        width, height, steps = size_fields(engine, settings)
    with gr.Accordion("More settings", open=False):
        others = more_fields(engine, settings)
    form = Form(
        reference=reference, prompt=prompt, adapter=adapter, pictures=pictures, seed=seed, width=width, height=height,
        image_guidance_scale=image, text_guidance_scale=text, num_inference_steps=steps, more_references=more,
        asked=asked, **others,
    )  # fmt: skip
    return form, more_column


def enhance_field(engine: Engine, reference: gr.Image, prompt: gr.Textbox, asked: gr.State) -> None:
    """Make the button that enhances every line of the prompt, and the line that says what became of it."""
    off = engine.enhancer is None
    button = gr.Button(
        "Enhance (needs vlm=)" if off else "Enhance", size="sm", interactive=not off, elem_id="enhance"
    )  # fmt: skip
    became = gr.Markdown(visible=not off, elem_id="became")

    def enhance(reference: Any, prompt: str, known: dict[str, str]) -> tuple[str, str, dict[str, str]]:
        """Describe the reference, and enrich every line of the prompt with what was seen."""
        with one_line():
            picture = read_upload(reference, engine.cfg)
            before = prompts_of(prompt)
            after = [engine.enhance(picture, line) for line in before]
        said = "\n".join(f"- you wrote: {plain_markdown(line)}" for line in before)
        return "\n".join(after), said, known | dict(zip(after, before, strict=True))

    button.click(enhance, [reference, prompt, asked], [prompt, became, asked], api_name="enhance")


def loads_settings(
    engine: Engine, form: Form, load: gr.UploadButton, again: gr.Button, drawn: gr.State, picked: gr.State
) -> None:
    """Fill the fields from a PNG that we wrote: an uploaded one, or the one that is picked."""
    names = [
        "prompt",
        "seed",
        "adapter",
        *("pictures", "width", "height", "image_guidance_scale"),
        "text_guidance_scale",
    ]
    names += [
        "num_inference_steps",
        "guidance_scale",
        "negative_prompt",
        "no_cfg_until_timestep",
        "norm_balanced",
        "fit",
    ]
    outputs = [form.inputs[name] for name in names]

    def load_settings(picture: Any) -> list[Any]:
        """Read prompt, seed and settings from a PNG that this page or dsd-infer wrote."""
        with one_line():
            prompt, seed, drawing, adapter = read_settings(picture, engine.cfg.most_side)
        known = {choice.name for choice in engine.adapters()}
        values = {
            **drawing.model_dump(), "prompt": prompt, "seed": seed, "pictures": 1,
            "adapter": adapter if adapter in known else gr.skip(),
        }  # fmt: skip
        return [values[name] for name in names]

    def load_picked(paths: list[str], index: int) -> list[Any]:
        return load_settings(picked_path(paths, index))

    load.upload(load_settings, load, outputs, api_name="load_settings")
    again.click(load_picked, [drawn, picked], outputs, api_visibility="private")


def picked_path(paths: list[str], index: int) -> str:
    """Find the picture that is picked. It says so where there is none."""
    with one_line():
        if not 0 <= index < len(paths):
            raise UserError("no picture is drawn yet")
        return paths[index]


def saved(paths: list[str], index: int) -> Any:
    """Make the download button give the picked picture."""
    there = 0 <= index < len(paths)
    return gr.update(value=paths[index] if there else None, interactive=there)


def stops(engine: Engine) -> Callable[[gr.Request], None]:
    """Make what a Stop button does."""

    def stop(request: gr.Request) -> None:
        """Stop the pictures of this session at their next step."""
        engine.stop(user_of(request))

    return stop


def user_of(request: gr.Request) -> str:
    """Return the id of the session that asks. A session is one open page or one client of the API."""
    return str(request.session_hash or request.client)


def first_words(engine: Engine) -> str:
    """Say what to do first."""
    if engine.adapters()[0].path is None and engine.cfg.model.name == "toybox":
        return f"No finished adapter below {Path(engine.cfg.runs)}/: run make demo first, or give adapter="
    return "Choose a reference, say what to draw of it, and press Draw."
