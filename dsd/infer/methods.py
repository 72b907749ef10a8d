"""Ways to answer a job: the student, and the baselines it is measured against."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from dsd.flow import generator_at
from dsd.models.canvas import to_pixels
from dsd.models.loading import load_pipeline, to_device
from dsd.models.speed import Speed
from dsd.pipeline.pipeline import DSDPipeline

Prepare = Callable[[DiffusionPipeline, torch.device], None]  # see quantize.py and memory.py


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
    norm_balanced: bool
    guidance_batching: bool | None
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
        style_loras: Sequence[str],
        quantization: Prepare,
        memory: Prepare,
        speed: Speed,
    ) -> None:
        where = to_device(device)
        self.settings, self.one_by_one = dict(settings), speed.step_cache is not None
        self.pipeline: Any = DSDPipeline.from_base(
            path, adapter, transformer, lora, dict(map(weighted, style_loras)), fuse=speed.fuse, dtype=dtype
        )
        quantization(self.pipeline, where)
        speed(self.pipeline, where)
        self.pipeline.precompute = speed.precompute
        self.pipeline.guidance_batching = not self.one_by_one  # a step cache has one context a pass
        memory(self.pipeline, where)
        self.pipeline.set_progress_bar_config(disable=True)

    def __call__(
        self, references: Sequence[Image.Image], prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[Image.Image]:
        if self.one_by_one and len(prompts) > 1:  # a step cache looks at its whole batch
            jobs = zip(references, prompts, seeds, strict=True)
            return [picture for reference, prompt, seed in jobs for picture in self([reference], [prompt], [seed])]
        generators = [generator_at(seed) for seed in seeds]
        return self.pipeline(list(prompts), list(references), generator=generators, **self.settings).images


def weighted(style_lora: str) -> tuple[str, float]:
    """ "ink.safetensors:0.8" -> ("ink.safetensors", 0.8); without a number, 1."""
    path, _, weight = style_lora.rpartition(":")
    try:
        return (path, float(weight)) if path else (style_lora, 1.0)
    except ValueError:
        return style_lora, 1.0


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
