"""Draw with a student that is still being trained; `configs/validation` names it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from dsd.flow import generator_at
from dsd.models.canvas import to_pixels
from dsd.models.families import family_of
from dsd.models.speed import filled, is_compiled
from dsd.pipeline.pipeline import CLASSES


class Preview:
    """Draws fixed references, prompts and seeds. The text encoders are needed once, by `prepare`."""

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
        """Encode texts and references, while the text encoders are there."""
        family = family_of(pipeline)
        self.text = [part.cpu() for part in family.encode_text(pipeline, prompts, self.length)]
        parts: dict[str, Any] = {
            name: None if "text" in name or "token" in name else p for name, p in pipeline.components.items()
        }
        self.pipeline = CLASSES[family.name](**parts)
        self.pipeline.set_progress_bar_config(disable=True)
        empty = family.encode_text(pipeline, [""], self.length)
        self.pipeline.kept_negatives["", empty[0].shape[1]] = empty
        self.pixels = torch.stack([to_pixels(image, *self.size) for image in references])

    @torch.inference_mode()
    def __call__(self, transformer: Any, about: Mapping[str, Any]) -> list[Image.Image]:
        """Draw every reference with the transformer as it is now; `about` describes the student."""
        self.pipeline.transformer, self.pipeline.about = transformer, about
        was_training = transformer.training
        images: list[Image.Image] = []
        transformer.eval()
        size, device = min(self.batch_size, len(self.pixels)), self.pipeline.vae.device
        for start in range(0, len(self.pixels), size):
            numbers = range(start, min(start + size, len(self.pixels)))
            part = filled(numbers, size if is_compiled(transformer) else 1)
            text = dict(zip(("prompt_embeds", "pooled_prompt_embeds"), (t[part].to(device) for t in self.text)))
            generators = [generator_at(self.seed, number) for number in part]
            drawn = self.pipeline(
                image=self.pixels[part], generator=generators, return_dict=False, **text, **self.settings,
            )[0]  # fmt: skip
            images += drawn[: len(numbers)]
        transformer.train(was_training)
        self.pipeline.transformer = None
        return images
