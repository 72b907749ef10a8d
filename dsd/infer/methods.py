"""Ways to answer a job: the student, and the baselines it is measured against."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from dsd.errors import UserError
from dsd.flow import generator_at
from dsd.infer.pipeline import DSDPipeline
from dsd.models.base import load_pipeline
from dsd.models.latents import to_pixels


class Method(Protocol):
    """References and prompts, each with its seed -> images; one never depends on the others of its batch."""

    def __call__(
        self, references: Sequence[Image.Image], prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[Image.Image]: ...


@dataclass
class Settings:
    """How a picture is drawn: the pipeline's own names."""

    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    image_guidance_scale: float
    text_guidance_scale: float
    negative_prompt: str
    no_cfg_until_timestep: int
    guidance_batching: bool
    fit: str
    max_sequence_length: int


class Student:
    """The conditional model: a base with an adapter, or a released transformer with its LoRA."""

    def __init__(
        self,
        name: str,
        path: str,
        dtype: str,
        device: str,
        settings: Any,
        adapter: str | None,
        transformer: str | None,
        lora: str | None,
    ) -> None:
        if adapter is None and transformer is None:
            raise UserError(
                "no adapter: give adapter=path/to/the/train/folder (or transformer= and lora_weights= as released)"
            )
        self.settings = dict(settings)
        self.pipeline: Any = DSDPipeline.from_base(path, adapter, transformer, lora, dtype=dtype, device=device)
        self.pipeline.set_progress_bar_config(disable=True)

    def __call__(
        self, references: Sequence[Image.Image], prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[Image.Image]:
        generators = [generator_at(seed) for seed in seeds]
        return self.pipeline(list(prompts), list(references), generator=generators, **self.settings).images


class TextOnly:
    """The base model by itself: what a prompt can tell without a picture."""

    def __init__(self, name: str, path: str, dtype: str, device: str, settings: Any) -> None:
        known = ("height", "width", "num_inference_steps", "guidance_scale", "max_sequence_length")
        self.settings = {name: settings[name] for name in known}
        self.pipeline = load_pipeline(path, dtype=dtype, device=device)
        self.pipeline.set_progress_bar_config(disable=True)

    @torch.inference_mode()
    def __call__(
        self, references: Sequence[Image.Image], prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[Image.Image]:
        generators = [generator_at(seed) for seed in seeds]
        return self.pipeline(prompt=list(prompts), generator=generators, **self.settings).images


class CopyPaste:
    """The reference as it is: everything kept, nothing followed."""

    def __init__(self, name: str, settings: Any) -> None:
        self.size = settings["height"], settings["width"], settings["fit"]

    def __call__(
        self, references: Sequence[Image.Image], prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[Image.Image]:
        height, width, fit = self.size
        pixels = [to_pixels(image, height, width, fit) / 2 + 0.5 for image in references]
        return [to_pil_image((panel * 255).round().byte()) for panel in pixels]
