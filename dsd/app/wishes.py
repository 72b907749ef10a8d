"""What a user asks for, checked where it enters: uploaded pictures, prompts, numbers, and what a PNG says of itself."""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import DictConfig
from PIL import Image
from pydantic import BaseModel, Field, ValidationError

from dsd.errors import UserError
from dsd.io.inputs import first_problem
from dsd.io.pictures import FORMATS, read_picture, readable_formats

MOST_STEPS, MOST_GUIDANCE, MOST_PROMPT = 200, 20.0, 4000
Number = Annotated[float, Field(ge=-MOST_GUIDANCE, le=MOST_GUIDANCE, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=16, le=16384, multiple_of=16)]
Seed = Annotated[int, Field(ge=0, lt=2**53)]  # a browser's numbers are exact below


class Drawing(BaseModel, extra="ignore"):
    """How a picture is drawn, by the pipeline's names: what the page sets, and what a PNG's `settings` hold."""

    height: Side
    width: Side
    num_inference_steps: Annotated[int, Field(ge=1, le=MOST_STEPS)]
    guidance_scale: Number
    image_guidance_scale: Number
    text_guidance_scale: Number
    negative_prompt: Annotated[str, Field(max_length=MOST_PROMPT)]
    no_cfg_until_timestep: Annotated[int, Field(ge=0, le=MOST_STEPS)]
    norm_balanced: bool
    fit: Literal["crop", "pad", "stretch"]


@dataclass(frozen=True)
class Wish:
    """One picture to draw."""

    references: tuple[Image.Image, ...]
    prompt: str
    seed: int
    drawing: Drawing
    adapter: str = ""  # by its name in the menu
    styles: tuple[tuple[str, float], ...] = ()  # names and weights
    asked: str = ""  # what the user wrote before it was enhanced
    stem: str = "picture"  # of the file's name


class Told(BaseModel, extra="ignore"):
    """What a PNG that we wrote says of itself."""

    prompt: Annotated[str, Field(max_length=MOST_PROMPT)]
    seed: Seed
    settings: dict[str, Any]


def drawing(values: Mapping[str, Any], most_side: int) -> Drawing:
    """Check the numbers of a request. UserError names the first that cannot work."""
    try:
        made = Drawing.model_validate(values)
    except ValidationError as error:
        raise UserError(first_problem(error)) from error
    for name in ("height", "width"):
        if getattr(made, name) > most_side:
            raise UserError(f"{name}={getattr(made, name)}: this server draws at most {most_side} pixels (most_side)")
    return made


def seed_of(value: Any) -> int:
    """Check a seed. UserError where it is none."""
    if not isinstance(value, int | float) or value != int(value) or not 0 <= value < 2**53:
        raise UserError(f"seed={value}: a whole number from 0 is needed")
    return int(value)


def prompts_of(text: Any) -> list[str]:
    """Split a text into prompts, one a line. UserError where there is none."""
    found = [line.strip() for line in str(text or "").splitlines() if line.strip()]
    if not found:
        raise UserError("prompt is empty; say what to draw")
    if (longest := max(map(len, found))) > MOST_PROMPT:
        raise UserError(f"a prompt of {longest} characters; at most {MOST_PROMPT} are read")
    return found


def numbers_of(text: Any, name: str) -> list[float]:
    """Read "1, 1.5, 2" as numbers. UserError where it is something else."""
    try:
        found = [float(part) for part in str(text).replace(";", ",").split(",") if part.strip()]
    except ValueError:
        found = []
    if not found or any(not abs(number) <= MOST_GUIDANCE for number in found):
        raise UserError(f"{name}: numbers such as 1, 1.5, 2 are needed, from -{MOST_GUIDANCE:g} to {MOST_GUIDANCE:g}")
    return list(dict.fromkeys(found))


def read_upload(path: Any, cfg: DictConfig) -> Image.Image:
    """Read an uploaded picture. UserError where it is none, or larger than this server takes."""
    if not path or not os.path.isfile(path):
        raise UserError("no reference; upload a picture, paste one, or choose an example")
    name = Path(path).name
    if os.path.getsize(path) > cfg.most_megabytes * 2**20:
        raise UserError(f"{name}: more than {cfg.most_megabytes} MB (most_megabytes)")
    width, height = size_of(path)
    if width * height > cfg.most_megapixels * 1e6:
        raise UserError(
            f"{name}: {width * height / 1e6:.0f} megapixels ({width} x {height}); this server takes at most "
            f"{cfg.most_megapixels:g} (most_megapixels)"
        )
    return read_picture(Path(path).read_bytes(), name)


def size_of(path: str | Path) -> tuple[int, int]:
    """Read width and height from a picture's header, before anything is decoded. UserError where it is no picture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own bound is lower
            with Image.open(path, formats=readable_formats()) as image:
                return image.size
    except Image.DecompressionBombError as error:
        raise UserError(f"{Path(path).name}: too many pixels for a reference; make it smaller") from error
    except Exception as error:  # Pillow has no common class for what is wrong with a file
        raise UserError(f"{Path(path).name}: no picture that can be read ({', '.join(FORMATS)})") from error


def read_settings(path: Any, most_side: int) -> tuple[str, int, Drawing, str]:
    """Read prompt, seed, settings and the adapter's name from a PNG that dsd-infer or this page wrote.

    The prompt is the one that was drawn. UserError where the file is no such PNG.
    """
    name = Path(str(path)).name
    size_of(str(path))
    try:
        with Image.open(str(path), formats=["PNG"]) as image:
            text = dict(image.text)  # type: ignore[attr-defined]
        told = Told(prompt=text["prompt"], seed=text["seed"], settings=json.loads(text["settings"]))
        adapter = told.settings.get("adapter", "")
        return told.prompt, told.seed, drawing(told.settings, most_side), adapter if isinstance(adapter, str) else ""
    except UserError as error:
        raise UserError(f"{name}: its settings cannot be drawn here: {error}") from error
    except Exception as error:  # no PNG, no such text, damaged text: Pillow has no common class
        raise UserError(f"{name}: it carries no settings; a PNG that dsd-infer or this page wrote is needed") from error


def wishes(
    references: Sequence[Image.Image], prompts: Sequence[str], number: int, seed: int, most: int, **others: Any
) -> list[Wish]:
    """Ask for `number` pictures of every prompt, with seeds from `seed` on. UserError where they are too many."""
    if not 1 <= number * len(prompts) <= most:
        raise UserError(f"{number * len(prompts)} pictures; one request takes 1 to {most} (most_pictures)")
    return [Wish(tuple(references), prompt, seed + k, **others) for prompt in prompts for k in range(number)]
