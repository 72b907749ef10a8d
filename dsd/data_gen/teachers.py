"""Draw grids: a batch of prompts, each with its seed -> a batch of images."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Protocol

import torch
from diffusers import DiffusionPipeline, FluxPipeline
from PIL import Image

from dsd.flow import generator_at
from dsd.io.records import Prompt, layout_shape
from dsd.models.loading import load_pipeline, to_device
from dsd.models.quantize import quantize
from dsd.models.settings import Quantization
from dsd.models.speed import Speed, filled, is_compiled
from dsd.pipeline.precompute import Precomputed, ahead
from dsd.pipeline.prompt_encoding import text_of

SLICED = 256 * 256  # pixels of a panel; from here on the VAE decodes one grid at a time: each takes gigabytes


class Teacher(Protocol):
    """Draws grids. A grid depends on its own prompt and seed, never on the batch in which it is drawn."""

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Receive all prompts that follow, before the first of them is drawn."""

    def __call__(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Image.Image]: ...


class PipelineTeacher:
    """Any text-to-image pipeline of diffusers, frozen: FLUX.1-dev in the paper.

    Where the pipeline's family is known (`dsd.pipeline.prompt_encoding`), the text encoders encode all prompts first
    and then leave the device, which holds only the denoiser and the VAE while grids are drawn. Where blocks are
    compiled, a batch of fewer than `batch_size` prompts is filled up with its last one: another size would be compiled
    anew.
    """

    def __init__(
        self,
        path: str | DiffusionPipeline,
        dtype: str,
        panel_height: int,
        panel_width: int,
        max_sequence_length: int,
        num_inference_steps: int,
        guidance_scale: float,
        speed: Speed,
        quantization: Quantization = Quantization.none,
        quantized_parts: Sequence[str] = ("transformer",),
        gguf_kind: str = "Q8_0",
        device: str = "auto",
        batch_size: int = 1,
    ) -> None:
        self.device = to_device(device)
        self.panel_height, self.panel_width = panel_height, panel_width
        self.settings = {"num_inference_steps": num_inference_steps}
        pipeline = load_pipeline(path, dtype=dtype) if isinstance(path, str) else path
        quantize(pipeline, self.device, quantization.value, quantized_parts, gguf_kind)
        speed(pipeline, self.device, many=True)
        self.least = batch_size if is_compiled(pipeline.transformer) else 1  # grids of a call
        self.text, self.drawer = text_of(pipeline, max_sequence_length, guidance_scale, self.device)
        self.drawer.to(self.device)
        self.drawer.set_progress_bar_config(disable=True)
        flux = speed.precompute and type(pipeline) is FluxPipeline  # a pipeline whose forward pass is known
        self.precomputed = Precomputed(pipeline.transformer) if flux else None
        if panel_height * panel_width >= SLICED:
            self.drawer.vae.enable_slicing()

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Encode every distinct prompt once."""
        self.text.prepare([prompt.prompt for prompt in prompts])

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Image.Image]:
        """Draw prompts of one layout; an image is rows x panel_height high and columns x panel_width wide."""
        (layout,) = {prompt.layout for prompt in prompts}
        rows, columns = layout_shape(layout)
        texts, seeds_of_all = filled([prompt.prompt for prompt in prompts], self.least), filled(seeds, self.least)
        arguments = self.text.arguments(texts)
        with nullcontext() if self.precomputed is None else ahead(self.drawer, self.precomputed):
            drawn: list[Image.Image] = self.drawer(
                **arguments,
                generator=[generator_at(seed) for seed in seeds_of_all],
                height=rows * self.panel_height,
                width=columns * self.panel_width,
                **self.settings,
            ).images
        return drawn[: len(prompts)]
