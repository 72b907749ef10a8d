"""SDEdit (arXiv 2108.01073): noise the reference in part, and let the base draw it again from there as a prompt says.

It is what people use without any training: image-to-image of every interface. The class is diffusers' own.
"""

from collections.abc import Sequence
from inspect import signature
from math import ceil
from typing import Any

import torch
from diffusers import AutoPipelineForImage2Image
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from dsd.errors import UserError
from dsd.flow import generator_at
from dsd.infer.methods import Parts, References, refuse_nan
from dsd.models.canvas import to_pixels
from dsd.models.loading import class_of, load_pipeline
from dsd.pipeline.prompt_encoding import text_of


class SDEdit:
    """The base's image-to-image at a strength: the share of the steps that is drawn, 0 < strength <= 1.

    diffusers draws whole steps and rounds their number up: of 5 steps, strengths 0.3 and 0.4 both draw 2.
    """

    most_references = None

    def __init__(self, parts: Parts, name: str, takes_adapter: bool, strength: float) -> None:
        steps = parts.settings["num_inference_steps"]
        refuse_strength(strength, steps)
        self.size = parts.settings["height"], parts.settings["width"], parts.settings["fit"]
        self.settings = {"num_inference_steps": steps, "strength": strength}
        pipeline = load_pipeline(parts.path, dtype=parts.dtype, device=str(parts.device))
        length, guidance = parts.settings["max_sequence_length"], parts.settings["guidance_scale"]
        self.text, drawer = text_of(pipeline, length, guidance, parts.device)
        self.pipeline: Any = image_to_image(drawer, parts.path).to(parts.device)
        self.pipeline.set_progress_bar_config(disable=True)

    @torch.inference_mode()
    def __call__(
        self, references: Sequence[References], prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[Image.Image]:
        """Draw the first reference of every picture again as its prompt says."""
        height, width, fit = self.size
        self.text.prepare(prompts)
        pictures: list[Image.Image] = self.pipeline(
            image=[to_pil_image(to_pixels(some[0], height, width, fit) / 2 + 0.5) for some in references],
            height=height, width=width, generator=[generator_at(seed) for seed in seeds],
            callback_on_step_end=refuse_nan, **self.text.arguments(prompts), **self.settings,
        ).images  # fmt: skip
        return pictures


def refuse_strength(strength: object, steps: int) -> None:
    """Raise UserError where a strength is none, or stands for less than one step."""
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 < strength <= 1:
        raise UserError(f"method.strength={strength}: a number above 0 and at most 1 is needed")
    if int(steps * strength) < 1:
        raise UserError(
            f"method.strength={strength} is less than one of {steps} steps; raise it to {ceil(1000 / steps) / 1000}, "
            "or raise settings.num_inference_steps"
        )


def image_to_image(pipeline: Any, path: str) -> Any:
    """Make the image-to-image pipeline of the same parts. UserError where diffusers has none for this base."""
    try:
        found = AutoPipelineForImage2Image.from_pipe(pipeline)
    except ValueError:
        found = None
    takes_strength = found is not None and "strength" in signature(type(found).__call__).parameters
    if not takes_strength:  # FLUX.2's takes references instead
        raise UserError(
            f"method=sdedit: diffusers has no image-to-image pipeline with a strength for model.path={path}, a "
            f"{class_of(path)}"
        )
    return found
