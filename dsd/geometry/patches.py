"""Match the patches of two pictures by a vision model's features, such as DINOv2's patch tokens."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from dsd.errors import UserError
from dsd.geometry import refuse_unequal
from dsd.models.embeddings import load_timm
from dsd.models.loading import to_device


class Patches:
    """`patch_matches` and `patch_drift`, from patches that are each other's nearest neighbour (mutual matches).

    `patch_matches` is the share of patches whose mutual match lies within one patch of their own place. `patch_drift`
    is the median distance of all mutual matches from their own place, in pixels of the picture; a pair without a mutual
    match has none. `model` is a name of timm or a "hf-hub:" id. `checkpoint` is a safetensors file in place of the
    published weights. `layer` counts the model's intermediate features, from the end where it is negative.
    """

    names: ClassVar[Sequence[str]] = ("patch_matches", "patch_drift")

    def __init__(self, model: str, checkpoint: str | None = None, layer: int = -1, device: str = "auto") -> None:
        import timm

        self.layer, self.device = layer, to_device(device)
        data: Any = timm.data  # it ships no types
        network = load_timm(model, checkpoint, key="geometry.patches")
        if not hasattr(network, "forward_intermediates"):
            raise UserError(f"geometry.patches.model={model}: timm gives no patches of it; choose a ViT or a convnet")
        whole = {**data.resolve_model_data_config(network), "crop_pct": 1.0, "crop_mode": "squash"}
        self.transform = data.create_transform(**whole, is_training=False)  # to the model's size, nothing cut off
        self.network: Any = network.to(self.device).eval()

    def __call__(self, firsts: Sequence[Image.Image], seconds: Sequence[Image.Image]) -> list[dict[str, float]]:
        """Score each pair, in order."""
        return [self.score(first, second) for first, second in zip(firsts, seconds, strict=True)]

    def score(self, first: Image.Image, second: Image.Image) -> dict[str, float]:
        """Score one pair."""
        refuse_unequal(first, second)
        features = self.features([first, second])
        places, found = mutual_matches(*features)
        rows, columns = features.shape[-2:]
        moved = (found - places).float()  # (M, 2), in rows and columns of patches
        near = int((moved.abs() <= 1).all(dim=1).sum())
        scores = {"patch_matches": near / (rows * columns)}
        if len(moved):
            pixels = moved * torch.tensor([second.height / rows, second.width / columns])
            scores["patch_drift"] = float(pixels.norm(dim=1).median())
        return scores

    @torch.inference_mode()
    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Compute the features of every patch: (B, C, rows, columns), unit length over C."""
        pixels = torch.stack([self.transform(image.convert("RGB")) for image in images]).to(self.device)
        maps: list[Tensor] = self.network.forward_intermediates(pixels, norm=True, intermediates_only=True)
        return torch.nn.functional.normalize(maps[self.layer].float().cpu(), dim=1)


def mutual_matches(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Match patches (C, H, W) that are each other's nearest neighbour: their (row, column) in both, (M, 2) each."""
    columns = first.shape[-1]
    likeness = first.flatten(1).T @ second.flatten(1)  # (H x W, H x W)
    forward, backward = likeness.argmax(dim=1), likeness.argmax(dim=0)
    here = torch.arange(len(forward))
    here = here[backward[forward] == here]
    return rows_and_columns(here, columns), rows_and_columns(forward[here], columns)


def rows_and_columns(numbers: Tensor, columns: int) -> Tensor:
    """Number (M,) of a patch, counted row by row -> (M, 2) as (row, column)."""
    return torch.stack([numbers // columns, numbers % columns], dim=1)
