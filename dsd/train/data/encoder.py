"""Encode pictures and captions for training, with the geometry and the text encoding of inference."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dsd.models.canvas import to_pixels
from dsd.models.families import Text
from dsd.models.student import Student

VARYING = ("transformers_version", "dtype", "torch_dtype")  # keys of a config that say nothing of the weights
SAMPLED = 64  # numbers of every tensor that go into a digest


@dataclass(frozen=True)
class Encoder:
    """A base's VAE and text encoders. Shapes: B batch, L tokens of what is drawn, R of the condition, C channels."""

    pipeline: Any
    student: Student  # how pictures are encoded; it needs no transformer
    max_sequence_length: int
    fit: str = "crop"  # how pictures are fitted into panels

    @torch.inference_mode()
    def drawn(
        self, references: Sequence[Sequence[Image.Image]], targets: Sequence[Image.Image], height: int, width: int
    ) -> Tensor:
        """Encode what the student learns to draw, (B, L, C), from the references and the target of each pair."""
        pixels = self._several(references, height, width), self._pixels(targets, height, width)
        return self.student.drawn(self.pipeline.vae, *pixels)

    @torch.inference_mode()
    def condition(self, references: Sequence[Sequence[Image.Image]], height: int, width: int) -> Tensor:
        """Encode the references of each pair for the student's condition, (B, R, C)."""
        return self.student.condition(self.pipeline.vae, self._several(references, height, width))

    @torch.inference_mode()
    def text(self, captions: Sequence[str]) -> Text:
        """Encode captions, (B, ...) each."""
        return self.student.family.encode_text(self.pipeline, captions, self.max_sequence_length)

    def about_latents(self, height: int, width: int) -> dict[str, str | int]:
        """List what latents depend on beside the pictures."""
        vae = self.pipeline.vae
        return {
            "vae": digest(vae), "height": height, "width": width, "fit": self.fit, "dtype": str(vae.dtype),
        }  # fmt: skip

    def about_text(self) -> dict[str, str | int]:
        """List what embeddings depend on beside the captions."""
        encoders = {name: digest(encoder) for name, encoder in self.encoders.items()}
        return {**encoders, "max_sequence_length": self.max_sequence_length, "dtype": str(self.text_dtype)}

    @property
    def encoders(self) -> dict[str, Any]:
        """The text encoders by name; each gives one tensor of a caption's text."""
        return self.student.family.text_encoders(self.pipeline)

    @property
    def text_dtype(self) -> torch.dtype:
        """Of the embeddings."""
        dtype: torch.dtype = list(self.encoders.values())[-1].dtype
        return dtype

    def _several(self, pictures: Sequence[Sequence[Image.Image]], height: int, width: int) -> Tensor:
        return torch.stack([self._pixels(some, height, width) for some in pictures])

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
