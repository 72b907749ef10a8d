"""The VAE and the text encoders of a base, as training needs them: with the geometry and words of inference."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FluxPipeline
from PIL import Image
from torch import Tensor

from dsd.models.canvas import condition_canvas, target_canvas, to_pixels

VARYING = ("transformers_version", "dtype", "torch_dtype")  # of a config file, not of what it describes
SAMPLED = 64  # numbers of every tensor that go into a digest


@dataclass(frozen=True)
class Encoder:
    """Shapes: B batch, L packed tokens of a canvas, C channels, T text tokens, D width, P pooled width."""

    pipeline: FluxPipeline
    max_sequence_length: int
    fit: str = "crop"  # of pictures into panels

    @torch.inference_mode()
    def canvas(
        self, references: Sequence[Image.Image], targets: Sequence[Image.Image], height: int, width: int
    ) -> Tensor:
        """What the model learns to draw, (B, L, C)."""
        pixels = [self._pixels(images, height, width) for images in (references, targets)]
        return target_canvas(self.pipeline.vae, *pixels)

    @torch.inference_mode()
    def condition(self, references: Sequence[Image.Image], height: int, width: int) -> Tensor:
        """What it is told of the references, (B, L, C)."""
        return condition_canvas(self.pipeline.vae, self._pixels(references, height, width))

    @torch.inference_mode()
    def text(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(B, T, D) and (B, P)."""
        embeds, pooled, _ = self.pipeline.encode_prompt(
            prompt=list(captions), prompt_2=None, max_sequence_length=self.max_sequence_length
        )
        return embeds, pooled

    def about_latents(self, height: int, width: int) -> dict[str, str | int]:
        """What latents depend on beside the pictures."""
        vae = self.pipeline.vae
        return {
            "vae": digest(vae), "height": height, "width": width, "fit": self.fit, "dtype": str(vae.dtype),
        }  # fmt: skip

    def about_text(self) -> dict[str, str | int]:
        """What embeddings depend on beside the words."""
        pipeline = self.pipeline
        return {
            "text_encoder": digest(pipeline.text_encoder), "text_encoder_2": digest(pipeline.text_encoder_2),
            "max_sequence_length": self.max_sequence_length, "dtype": str(pipeline.text_encoder_2.dtype),
        }  # fmt: skip

    def _pixels(self, images: Sequence[Image.Image], height: int, width: int) -> Tensor:
        pixels = [to_pixels(image, height, width, self.fit) for image in images]
        return torch.stack(pixels).to(self.pipeline.vae.device)


def digest(module: Any) -> str:
    """12 hex digits of an encoder: its config and some numbers of every tensor, whatever it was loaded from."""
    told = module.config
    config = told.to_dict() if hasattr(told, "to_dict") else dict(told)
    config = {name: value for name, value in config.items() if name not in VARYING and not name.startswith("_")}
    found = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in module.state_dict().items():
        sample = tensor.detach().flatten()[:SAMPLED].float().cpu()
        found.update(f"{name}{tuple(tensor.shape)}".encode() + sample.numpy().tobytes())
    return found.hexdigest()[:12]
