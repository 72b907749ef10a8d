"""What draws grids: a batch of prompts, each with its seed -> a batch of images."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from dsd.flow import generator_at
from dsd.models.loading import load_pipeline, to_device
from dsd.models.speed import Speed
from dsd.records import Prompt, layout_shape

EMBEDDINGS = {  # what a pipeline's encode_prompt returns first, by the names that its __call__ gives them
    "FluxPipeline": ("prompt_embeds", "pooled_prompt_embeds"),
    "Flux2Pipeline": ("prompt_embeds",),
    "StableDiffusion3Pipeline": (
        "prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds",
    ),
}  # fmt: skip
OTHER_PROMPTS = {"StableDiffusion3Pipeline": {"prompt_2": None, "prompt_3": None}}  # must be named; None repeats prompt
READ_AT_ONCE = 16


class Teacher(Protocol):
    """Draws sheets. A sheet depends on its own prompt and seed, never on the batch it is drawn in."""

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Hear of all prompts to come, before the first of them is drawn."""

    def __call__(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Image.Image]: ...


class PipelineTeacher:
    """Any text-to-image pipeline of diffusers: FLUX.1-dev in the paper, frozen.

    For the pipelines of `EMBEDDINGS` the text encoders read all prompts first and then leave the device, which holds
    the denoiser and the VAE alone while grids are drawn. Any other pipeline is called as it is, whole.
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
        quantization: Callable[[DiffusionPipeline, torch.device], None],
        device: str = "auto",
    ) -> None:
        self.device = to_device(device)
        self.panel_height, self.panel_width = panel_height, panel_width
        self.max_sequence_length = max_sequence_length
        self.settings = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
        pipeline = load_pipeline(path, dtype=dtype) if isinstance(path, str) else path
        quantization(pipeline, self.device)
        speed(pipeline, self.device, many=True)
        self.known: dict[str, dict[str, Tensor]] = {}
        separate = type(pipeline).__name__ in EMBEDDINGS
        self.reader: Any
        self.reader, self.drawer = split(pipeline) if separate else (None, pipeline)
        self.drawer.to(self.device)
        self.drawer.set_progress_bar_config(disable=True)

    @torch.inference_mode()
    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Encode every distinct prompt once; the embeddings wait in the host's memory."""
        if self.reader is None:
            return
        kind = type(self.reader).__name__
        self.known = {}
        self.reader.to(self.device)
        distinct = list(dict.fromkeys(prompt.prompt for prompt in prompts))
        for start in range(0, len(distinct), READ_AT_ONCE):
            texts = distinct[start : start + READ_AT_ONCE]
            encoded = self.reader.encode_prompt(
                prompt=texts, **OTHER_PROMPTS.get(kind, {}), max_sequence_length=self.max_sequence_length
            )
            rows = zip(*(part.cpu().split(1) for part in encoded[: len(EMBEDDINGS[kind])]), strict=True)
            for text, row in zip(texts, rows, strict=True):
                self.known[text] = dict(zip(EMBEDDINGS[kind], row, strict=True))
        if self.device.type == "cuda":
            self.reader.to("cpu", silence_dtype_warnings=True)
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Image.Image]:
        """All prompts must share a layout; images are rows x panel_height high, columns x panel_width wide."""
        (layout,) = {prompt.layout for prompt in prompts}
        rows, columns = layout_shape(layout)
        return self.drawer(
            **self._text([prompt.prompt for prompt in prompts]),
            generator=[generator_at(seed) for seed in seeds],
            height=rows * self.panel_height,
            width=columns * self.panel_width,
            **self.settings,
        ).images

    def _text(self, prompts: Sequence[str]) -> dict[str, Any]:
        if self.reader is None:
            return {"prompt": list(prompts), "max_sequence_length": self.max_sequence_length}
        rows = [self.known[prompt] for prompt in prompts]
        return {name: torch.cat([row[name] for row in rows]).to(self.device) for name in rows[0]}


def split(pipeline: Any) -> tuple[Any, Any]:
    """The text encoders alone, and the rest: two pipelines that share what they hold."""
    text = {name for name in pipeline.components if name.startswith(("text_encoder", "tokenizer"))}
    reading = {name: part if name in text else None for name, part in pipeline.components.items()}
    drawing = {name: None if name in text else part for name, part in pipeline.components.items()}
    return type(pipeline)(**reading), type(pipeline)(**drawing)
