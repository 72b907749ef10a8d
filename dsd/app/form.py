"""What the Draw tab asks for, and the wishes that follow. The Sweep and Compare tabs read the same fields."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from html import escape
from pathlib import Path
from random import SystemRandom
from typing import Any

import gradio as gr

from dsd.app.adapters import chosen, find_styles
from dsd.app.engine import Engine
from dsd.app.wishes import MOST_STEPS, Wish, drawing, prompts_of, read_upload, seed_of, wishes
from dsd.errors import UserError

PRESETS = {"Plain": (1.0, 1.0), "Faithful": (1.5, 1.0), "Creative": (1.0, 2.0)}  # image, text guidance
MOST_SEED = 2**32 - 1  # of the dice


@dataclass(frozen=True)
class Form:
    """The fields. Their names are those of the API; settings of a drawing have the pipeline's names."""

    reference: gr.Image
    prompt: gr.Textbox
    adapter: gr.Dropdown
    pictures: gr.Slider
    seed: gr.Number
    width: gr.Slider
    height: gr.Slider
    image_guidance_scale: gr.Slider
    text_guidance_scale: gr.Slider
    num_inference_steps: gr.Slider
    more_references: gr.Gallery
    styles: gr.Dropdown
    style_weight: gr.Slider
    guidance_scale: gr.Slider
    negative_prompt: gr.Textbox
    no_cfg_until_timestep: gr.Slider
    norm_balanced: gr.Checkbox
    fit: gr.Radio
    asked: gr.State  # {enhanced prompt: what the user wrote}

    @property
    def inputs(self) -> dict[str, Any]:
        """The fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@contextmanager
def one_line() -> Iterator[None]:
    """Show a UserError in the page, in one line."""
    try:
        yield
    except UserError as error:
        raise gr.Error(escape(str(error)), title="That did not work", print_exception=False) from error


def upload_field(**others: Any) -> gr.Image:
    """Make a picture field whose file is handed on as it was uploaded.

    Gradio itself would decode it, of any size, before we see it, and its error for a text file says little.
    """
    field = gr.Image(type="filepath", image_mode=None, **others)

    def as_uploaded(payload: Any) -> str | None:
        return None if payload is None else payload.path

    field.preprocess = as_uploaded  # type: ignore[method-assign]
    return field


def wishes_of(engine: Engine, given: Mapping[str, Any]) -> list[Wish]:
    """Check a request; the first thing that cannot work is a UserError."""
    cfg = engine.cfg
    prompts = prompts_of(given["prompt"])
    files = [given["reference"], *(file for file, _ in given["more_references"] or ())]
    references = [read_upload(file, cfg) for file in files]
    styles = tuple((name, float(given["style_weight"])) for name in given["styles"] or ())
    made = wishes(
        references, prompts, int(given["pictures"]), seed_of(given["seed"]), cfg.most_pictures,
        drawing=drawing(given, cfg.most_side), adapter=chosen(given["adapter"], engine.adapters()).name, styles=styles,
        stem=Path(files[0]).stem[:60],
    )  # fmt: skip
    known = given["asked"] or {}
    return [replace(wish, asked=known.get(wish.prompt, "")) for wish in made]


def menu(engine: Engine) -> list[tuple[str, str]]:
    """List adapters as (label, name); the label tells another base."""
    here = engine.cfg.model.path

    def label(name: str, base: str) -> str:
        return name if base in ("", here) else f"{name} (for {Path(base).name})"

    return [(label(choice.name, choice.base), choice.name) for choice in engine.adapters()]


def several(engine: Engine, adapter: str) -> tuple[Any, Any]:
    """Show the field for more references to a student that takes several, else the reference that it redraws."""
    with one_line():
        several = chosen(adapter, engine.adapters()).most_references > 1
    return gr.update(visible=several), gr.update(visible=not several)


def summary(form: Form, tab: gr.Tab) -> None:
    """Show within another tab what it takes from the Draw tab, whenever it is opened."""
    with gr.Row(equal_height=True):
        thumb = gr.Image(
            height=96, width=96, min_width=96, scale=0, interactive=False, buttons=[], show_label=False,
            elem_classes="thumb", type="filepath",
        )  # fmt: skip
        text = gr.Markdown()

    def show(reference: Any, prompt: str, seed: Any, steps: int) -> tuple[Any, str]:
        first = next(iter(prompt.strip().splitlines()), "")
        words = plain_markdown(first) if first else "*no prompt yet; write one in the Draw tab*"
        return reference or None, f"From the Draw tab: {words}\n\nseed {seed}, {steps} steps"

    inputs = [form.reference, form.prompt, form.seed, form.num_inference_steps]
    tab.select(show, inputs, [thumb, text], api_visibility="private", queue=False, show_progress="hidden")


def plain_markdown(text: str) -> str:
    """Show a text as it is within Markdown."""
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]<>()#+-.!|~" else letter for letter in text)


def dice() -> int:
    """Throw a seed."""
    return SystemRandom().randint(0, MOST_SEED)


def guidance_fields(settings: Mapping[str, Any]) -> tuple[gr.Slider, gr.Slider]:
    """Make both guidances, with the buttons of the presets."""
    with gr.Row(elem_classes="tight"):
        buttons = {name: gr.Button(name, size="sm", min_width=60, elem_id=f"preset-{name.lower()}") for name in PRESETS}
    image = gr.Slider(
        0, 5, settings["image_guidance_scale"], step=0.05, buttons=[], label="Image guidance", elem_id="image-guidance",
        info="How strongly the reference steers: more keeps the subject closer. 1 is no extra pass.",
    )  # fmt: skip
    text = gr.Slider(
        0, 10, settings["text_guidance_scale"], step=0.05, buttons=[], label="Text guidance", elem_id="text-guidance",
        info="How strongly the prompt steers: more follows the words closer. 1 is no extra pass.",
    )  # fmt: skip
    for name, button in buttons.items():
        button.click(lambda values=PRESETS[name]: values, None, [image, text], api_visibility="private", queue=False)
    return image, text


def seed_field() -> gr.Number:
    """Make the seed with its dice."""
    with gr.Row(elem_classes="tight"):
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, scale=3, min_width=110, elem_id="seed")
        roll = gr.Button("\u2684 Dice", size="sm", scale=1, min_width=64, elem_id="dice")
    roll.click(dice, None, seed, api_visibility="private", queue=False)
    return seed


def size_fields(engine: Engine, settings: Mapping[str, Any]) -> tuple[gr.Slider, gr.Slider, gr.Slider]:
    """Make width, height and steps."""
    most = engine.cfg.most_side
    with gr.Row():
        width = gr.Slider(
            16, most, settings["width"], step=16, buttons=[], label="Width", elem_id="width", min_width=120
        )
        height = gr.Slider(
            16, most, settings["height"], step=16, buttons=[], label="Height", elem_id="height", min_width=120
        )
    steps = gr.Slider(
        1, MOST_STEPS, settings["num_inference_steps"], step=1, precision=0, buttons=[], label="Steps", elem_id="steps"
    )
    return width, height, steps


def more_fields(engine: Engine, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Make the fields that most people leave as they are."""
    known = list(find_styles(engine.cfg))
    styled = bool(known)
    return {
        "styles": gr.Dropdown(known, value=[], multiselect=True, label="Style LoRAs", visible=styled),
        "style_weight": gr.Slider(-2, 2, 0.8, step=0.05, buttons=[], label="Weight of the styles", visible=styled),
        "guidance_scale": gr.Slider(
            0, 20, settings["guidance_scale"], step=0.1, buttons=[], label="Distilled guidance",
            info="FLUX's own number; 3.5 is usual. Models without it ignore it.",
        ),
        "negative_prompt": gr.Textbox(
            settings["negative_prompt"], label="Negative prompt", info="Read where a guidance is not 1."
        ),
        "no_cfg_until_timestep": gr.Slider(
            0, MOST_STEPS, settings["no_cfg_until_timestep"], step=1, precision=0, buttons=[],
            label="Plain first steps", info="Steps before guidance begins.",
        ),
        "norm_balanced": gr.Checkbox(
            settings["norm_balanced"], label="Balance the guidances",
            info="Against overexposure at strong guidance (SynCD).",
        ),
        "fit": gr.Radio(["crop", "pad", "stretch"], value=settings["fit"], label="Fit the reference by"),
    }  # fmt: skip
