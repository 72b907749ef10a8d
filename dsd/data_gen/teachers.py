"""What draws grids: a batch of prompts, each with its seed -> a batch of images."""

from collections.abc import Sequence
from typing import Protocol

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from dsd.flow import generator_at
from dsd.models.base import load_pipeline
from dsd.records import Prompt, layout_shape


class Teacher(Protocol):
    """Draws sheets. A sheet depends on its own prompt and seed, never on the batch it is drawn in."""

    def __call__(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Image.Image]: ...


class PipelineTeacher:
    """Any text-to-image pipeline of diffusers: FLUX.1-dev in the paper, frozen."""

    def __init__(
        self,
        path: str,
        dtype: str,
        panel_height: int,
        panel_width: int,
        max_sequence_length: int,
        num_inference_steps: int,
        guidance_scale: float,
        device: str = "auto",
    ) -> None:
        self.pipeline: DiffusionPipeline = load_pipeline(path, dtype=dtype, device=device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.panel_height, self.panel_width = panel_height, panel_width
        self.settings = {
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "max_sequence_length": max_sequence_length,
        }

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Image.Image]:
        """All prompts must share a layout; images are rows x panel_height high, columns x panel_width wide."""
        (layout,) = {prompt.layout for prompt in prompts}
        rows, columns = layout_shape(layout)
        return self.pipeline(
            prompt=[prompt.prompt for prompt in prompts],
            generator=[generator_at(seed) for seed in seeds],
            height=rows * self.panel_height,
            width=columns * self.panel_width,
            **self.settings,
        ).images
