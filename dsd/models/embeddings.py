"""Embed pictures (and texts), to tell how alike two panels are before any vision-language model is asked.

A similarity below says another subject; one very near 1 says a copy of the picture, which teaches copying (SynCD).
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from dsd.errors import UserError
from dsd.models.loading import to_device


class Features(Protocol):
    """Turns pictures, and where `knows_text` also texts, into vectors."""

    name: str  # the key of its score
    knows_text: bool

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Embed pictures: (B, D), unit length."""
        ...

    def text(self, captions: Sequence[str]) -> Tensor:
        """Embed texts: (B, D), unit length. Only where `knows_text`."""
        ...


class TransformersFeatures:
    """The class token of a vision model of transformers, such as DINOv2."""

    knows_text = False

    def __init__(self, name: str, path: str, device: str = "auto") -> None:
        from transformers import AutoImageProcessor, AutoModel

        self.name, self.device = name, to_device(device)
        try:
            self.processor = AutoImageProcessor.from_pretrained(path)
            self.network = AutoModel.from_pretrained(path, use_safetensors=True).to(self.device).eval()
        except (OSError, ValueError) as error:
            raise UserError(f"features.path={path}: cannot be loaded: {str(error).strip().splitlines()[0]}") from error

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Embed pictures: (B, D), unit length."""
        inputs = self.processor(images=[image.convert("RGB") for image in images], return_tensors="pt")
        hidden = self.network(**inputs.to(self.device)).last_hidden_state[:, 0]
        return torch.nn.functional.normalize(hidden.float(), dim=-1)

    def text(self, captions: Sequence[str]) -> Tensor:
        """A vision model knows no text."""
        raise NotImplementedError


def load_timm(model: str, checkpoint: str | None = None, head: bool = False, key: str = "features") -> Any:
    """Load a network of timm, by default without its head, with the published weights or those of a safetensors file.

    `key` is the setting that an error names. UserError where the network cannot be loaded.
    """
    import timm
    from safetensors import SafetensorError

    own = {"file": checkpoint, "hf_hub_id": None}
    chosen: dict[str, Any] = {"pretrained_cfg_overlay": own} if checkpoint else {}
    chosen |= {} if head else {"num_classes": 0}
    if checkpoint and not checkpoint.endswith(".safetensors"):
        raise UserError(f"{key}.checkpoint={checkpoint}: a safetensors file is needed")
    try:
        return timm.create_model(model, pretrained=True, **chosen)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(f"{key}.model={model}: cannot be loaded: {reason}") from error


class TimmFeatures:
    """The pooled features of a vision model of timm: DINO, and any other that timm or a "hf-hub:" id names.

    `checkpoint` is a safetensors file in place of the published weights. `head` keeps the last layer: that of a model
    of face recognition gives its embedding, that of a classifier gives classes.
    """

    knows_text = False

    def __init__(
        self, name: str, model: str, checkpoint: str | None = None, device: str = "auto", head: bool = False
    ) -> None:
        import timm

        self.name, self.device = name, to_device(device)
        data: Any = timm.data  # it ships no types
        network = load_timm(model, checkpoint, head)
        settings = data.resolve_model_data_config(network)
        self.transform = data.create_transform(**settings, is_training=False)
        self.network = network.to(self.device).eval()

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Embed pictures: (B, D), unit length."""
        pixels = torch.stack([self.transform(image.convert("RGB")) for image in images])
        features: Tensor = self.network(pixels.to(self.device))
        return torch.nn.functional.normalize(features.float(), dim=-1)

    def text(self, captions: Sequence[str]) -> Tensor:
        """A vision model knows no text."""
        raise NotImplementedError


class OpenClipFeatures:
    """A CLIP of open_clip: `model` is its name, or `local-dir:folder`, or `hf-hub:id`."""

    knows_text = True

    def __init__(self, name: str, model: str, pretrained: str | None = None, device: str = "auto") -> None:
        import open_clip

        self.name, self.device = name, to_device(device)
        try:
            network, _, self.transform = open_clip.create_model_and_transforms(model, pretrained=pretrained)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"features.model={model}: cannot be loaded: {str(error).strip().splitlines()[0]}"
            ) from error
        self.network, self.tokenizer = network.to(self.device).eval(), open_clip.get_tokenizer(model)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Embed pictures: (B, D), unit length."""
        pixels = torch.stack([self.transform(image.convert("RGB")) for image in images])
        embeddings: Tensor = self.network.encode_image(pixels.to(self.device), normalize=True).float()
        return embeddings

    @torch.inference_mode()
    def text(self, captions: Sequence[str]) -> Tensor:
        """Embed texts: (B, D), unit length."""
        tokens = self.tokenizer(list(captions)).to(self.device)
        embeddings: Tensor = self.network.encode_text(tokens, normalize=True).float()
        return embeddings
