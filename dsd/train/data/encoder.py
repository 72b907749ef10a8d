"""Encode pictures and captions for training, with the geometry and the text encoding of inference."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FluxPipeline
from PIL import Image
from torch import Tensor

from dsd.models.canvas import condition_canvas, target_canvas, to_pixels

VARYING = ("transformers_version", "dtype", "torch_dtype")  # keys of a config that say nothing of the weights
SAMPLED = 64  # numbers of every tensor that go into a digest


@dataclass(frozen=True)
class Encoder:
    """A base's VAE and text encoders. Shapes: B batch, L packed tokens of a canvas, C packed channels, T text tokens,
    D text width, P pooled width.
    """

    pipeline: FluxPipeline
    max_sequence_length: int
    fit: str = "crop"  # how pictures are fitted into panels

    @torch.inference_mode()
    def canvas(
        self, references: Sequence[Image.Image], targets: Sequence[Image.Image], height: int, width: int
    ) -> Tensor:
        """Encode what the student learns to draw, [reference | target], to (B, L, C)."""
        pixels = [self._pixels(images, height, width) for images in (references, targets)]
        return target_canvas(self.pipeline.vae, *pixels)

    @torch.inference_mode()
    def condition(self, references: Sequence[Image.Image], height: int, width: int) -> Tensor:
        """Encode the references for the student's condition, (B, L, C)."""
        return condition_canvas(self.pipeline.vae, self._pixels(references, height, width))

    @torch.inference_mode()
    def text(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encode captions to embeddings (B, T, D) and pooled embeddings (B, P)."""
        embeds, pooled, _ = self.pipeline.encode_prompt(
            prompt=list(captions), prompt_2=None, max_sequence_length=self.max_sequence_length
        )
        return embeds, pooled

    def about_latents(self, height: int, width: int) -> dict[str, str | int]:
        """List what latents depend on beside the pictures."""
        vae = self.pipeline.vae
        return {
            "vae": digest(vae), "height": height, "width": width, "fit": self.fit, "dtype": str(vae.dtype),
        }  # fmt: skip

    def about_text(self) -> dict[str, str | int]:
        """List what embeddings depend on beside the captions."""
        pipeline = self.pipeline
        return {
            "text_encoder": digest(pipeline.text_encoder), "text_encoder_2": digest(pipeline.text_encoder_2),
            "max_sequence_length": self.max_sequence_length, "dtype": str(pipeline.text_encoder_2.dtype),
        }  # fmt: skip

    def _pixels(self, images: Sequence[Image.Image], height: int, width: int) -> Tensor:
        pixels = [to_pixels(image, height, width, self.fit) for image in images]
        return torch.stack(pixels).to(self.pipeline.vae.device)


def digest(module: Any) -> str:
    """Name an encoder by 12 hex digits of its config and of some numbers of every tensor."""
    config = dict(module.config) if isinstance(module.config, Mapping) else module.config.to_dict()
    config = {name: value for name, value in config.items() if name not in VARYING and not name.startswith("_")}
    found = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in module.state_dict().items():
        sample = tensor.detach().flatten()[:SAMPLED].float().cpu()
        found.update(f"{name}{tuple(tensor.shape)}".encode() + sample.numpy().tobytes())
    return found.hexdigest()[:12]
