"""Draw a job: the student, and the baselines it is measured against."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from dsd.errors import UserError
from dsd.flow import generator_at
from dsd.models import student as students
from dsd.models.canvas import to_pixels
from dsd.models.loading import load_pipeline
from dsd.models.speed import Speed, filled, is_compiled
from dsd.pipeline.pipeline import DSDPipeline
from dsd.pipeline.prompt_encoding import text_of

References = list[Image.Image]  # of one picture


class Method(Protocol):
    """Draws pictures. A picture never depends on the others of its batch."""

    most_references: int | None  # of one picture; None: any number

    def __call__(
        self, references: Sequence[References], prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[Image.Image]:
        """Draw a picture for every job's references, prompt and seed."""
        ...


@dataclass(frozen=True)
class Parts:
    """What a method is made of."""

    path: str  # of the base: folder, hub id or pkg://
    distilled: bool  # whether the base takes adapters that were trained before its distillation
    dtype: str
    device: torch.device
    settings: Mapping[str, Any]  # how a picture is drawn, by the pipeline's names
    adapter: str | None
    transformer: str | None
    lora: str | None
    style_loras: Sequence[str]
    speed: Speed
    prepare: Callable[[DiffusionPipeline], None]  # quantises, speeds up and places a pipeline
    batch_size: int = 1  # of a full batch


class Student:
    """The conditional model: a base with an adapter, or a released transformer with its LoRA."""

    def __init__(self, parts: Parts, name: str, takes_adapter: bool) -> None:
        speed = parts.speed
        self.settings, self.one_by_one = dict(parts.settings), speed.step_cache is not None
        self.pipeline: Any = DSDPipeline.from_base(
            parts.path, parts.adapter, parts.transformer, parts.lora, dict(map(weighted, parts.style_loras)),
            fuse=speed.fuse, dtype=parts.dtype, distilled=parts.distilled,
        )  # fmt: skip
        self.most_references: int | None = self.pipeline.student.most_references
        if self.one_by_one:
            refuse_step_cache(self.pipeline.student)
        self.pipeline.precompute = speed.precompute
        self.pipeline.remember = True
        self.pipeline.guidance_batching = not self.one_by_one  # a step cache has one context a pass
        parts.prepare(self.pipeline)
        # blocks are compiled for the size of a batch, so that a smaller one is filled up
        self.least = parts.batch_size if is_compiled(self.pipeline.transformer) else 1
        self.pipeline.set_progress_bar_config(disable=True)

    def __call__(
        self, references: Sequence[References], prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[Image.Image]:
        """Draw every reference's subject as its prompt says."""
        alike = len({len(some) for some in references}) == 1  # a call takes equally many references for each picture
        if self.one_by_one or not alike:  # a step cache compares whole batches
            jobs = zip(references, prompts, seeds, strict=True)
            return [picture for reference, prompt, seed in jobs for picture in self.draw([reference], [prompt], [seed])]
        batch = (filled(references, self.least), filled(prompts, self.least), filled(seeds, self.least))
        return self.draw(*batch)[: len(prompts)]

    def draw(self, references: Sequence[References], prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """Draw one batch, whose pictures have equally many references."""
        generators = [generator_at(seed) for seed in seeds]
        images: list[Image.Image] = self.pipeline(
            list(prompts), list(references), generator=generators, **self.settings
        ).images
        return images


def refuse_step_cache(student: students.Student) -> None:
    """Raise UserError where steps of a student cannot be compared with the ones before."""
    if not student.step_cacheable:
        told = " ".join(f"student.{name}={value}" for name, value in student.about().items())
        raise UserError(f"speed.step_cache (speed=cached) does not go with {told}; use speed=exact")


def weighted(style_lora: str) -> tuple[str, float]:
    """Read "ink.safetensors:0.8" as ("ink.safetensors", 0.8); without a number, the weight is 1."""
    path, _, weight = style_lora.rpartition(":")
    try:
        found = (path, float(weight)) if path else (style_lora, 1.0)
    except ValueError:
        return style_lora, 1.0
    if not math.isfinite(found[1]):
        raise UserError(f"style_loras={style_lora}: the weight is not a finite number")
    return found


class TextOnly:
    """The base model by itself: what a prompt can tell without a picture."""

    most_references = None

    def __init__(self, parts: Parts, name: str, takes_adapter: bool) -> None:
        self.settings = {key: parts.settings[key] for key in ("height", "width", "num_inference_steps")}
        pipeline = load_pipeline(parts.path, dtype=parts.dtype, device=str(parts.device))
        length, guidance = parts.settings["max_sequence_length"], parts.settings["guidance_scale"]
        self.text, self.pipeline = text_of(pipeline, length, guidance, parts.device)
        self.pipeline.to(parts.device)
        self.pipeline.set_progress_bar_config(disable=True)

    @torch.inference_mode()
    def __call__(
        self, references: Sequence[References], prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[Image.Image]:
        """Draw the prompts."""
        self.text.prepare(prompts)
        images: list[Image.Image] = self.pipeline(
            **self.text.arguments(prompts), generator=[generator_at(seed) for seed in seeds],
            callback_on_step_end=refuse_nan, **self.settings,
        ).images  # fmt: skip
        return images


def refuse_nan(pipeline: Any, step: int, timestep: Any, state: dict[str, Any]) -> dict[str, Any]:
    """Raise UserError where the last step of a diffusers pipeline left NaN: it would be decoded to a black picture."""
    if step == pipeline.num_timesteps - 1 and not state["latents"].isfinite().all():
        raise UserError("the transformer returned NaN or infinity; its weights are damaged, or float16 overflows")
    return state


class CopyPaste:
    """The reference as it is: everything kept, nothing followed."""

    most_references = None

    def __init__(self, parts: Parts, name: str, takes_adapter: bool) -> None:
        self.size = parts.settings["height"], parts.settings["width"], parts.settings["fit"]

    def __call__(
        self, references: Sequence[References], prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[Image.Image]:
        """Fit the first references into the panel."""
        height, width, fit = self.size
        pixels = [to_pixels(some[0], height, width, fit) / 2 + 0.5 for some in references]
        return [to_pil_image((panel * 255).round().byte()) for panel in pixels]
