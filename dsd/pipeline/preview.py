"""Drawing with a student that is still being trained: `dsd-train` is given this by its config."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from dsd.flow import generator_at
from dsd.models.canvas import to_pixels
from dsd.pipeline.pipeline import DSDPipeline


class LiveStudent:
    """Fixed references, prompts and seeds; the text encoders are needed once, at the beginning."""

    def __init__(
        self,
        height: int,
        width: int,
        num_inference_steps: int,
        guidance_scale: float,
        image_guidance_scale: float,
        text_guidance_scale: float,
        max_sequence_length: int,
        seed: int,
        batch_size: int,
    ) -> None:
        self.size, self.length = (height, width), max_sequence_length
        self.seed, self.batch_size = seed, batch_size
        self.settings: dict[str, Any] = {
            "height": height, "width": width, "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale, "image_guidance_scale": image_guidance_scale,
            "text_guidance_scale": text_guidance_scale, "max_sequence_length": max_sequence_length,
        }  # fmt: skip

    @torch.inference_mode()
    def prepare(self, pipeline: Any, references: Sequence[Image.Image], prompts: Sequence[str]) -> None:
        encode = {"prompt_2": None, "max_sequence_length": self.length}
        self.text = [part.cpu() for part in pipeline.encode_prompt(prompt=list(prompts), **encode)[:2]]
        parts = {name: None if "text" in name or "token" in name else p for name, p in pipeline.components.items()}
        self.pipeline = DSDPipeline(**parts)
        self.pipeline.set_progress_bar_config(disable=True)
        empty = pipeline.encode_prompt(prompt=[""], **encode)[:2]
        self.pipeline.__dict__["_negative"] = {("", empty[0].shape[1]): empty}  # of guidance's textless pass
        self.pixels = torch.stack([to_pixels(image, *self.size) for image in references])

    @torch.inference_mode()
    def __call__(self, transformer: Any, positions: str) -> list[Image.Image]:
        self.pipeline.transformer, self.pipeline.positions = transformer, positions
        was_training = transformer.training
        images: list[Image.Image] = []
        transformer.eval()
        for start in range(0, len(self.pixels), self.batch_size):
            part = slice(start, start + self.batch_size)
            device = self.pipeline.vae.device
            embeds, pooled = (text[part].to(device) for text in self.text)
            generators = [generator_at(self.seed, number) for number in range(start, start + len(embeds))]
            images += self.pipeline(
                image=self.pixels[part], prompt_embeds=embeds, pooled_prompt_embeds=pooled, generator=generators,
                return_dict=False, **self.settings,
            )[0]  # fmt: skip
        transformer.train(was_training)
        self.pipeline.transformer = None
        return images
