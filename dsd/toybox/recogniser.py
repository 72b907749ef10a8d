"""The recogniser of the toybox's measure: timm's ConvNeXt with one softmax for each attribute.

It has another architecture and other training data than the judge, and only measures use it, so that no stage is
optimised for what is measured.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from dsd.io.files import resolve
from dsd.models.loading import to_device
from dsd.toybox.fit import fit
from dsd.toybox.panels import Panels, PanelStream, draw_panels, through_vae
from dsd.toybox.world import ATTRIBUTES

SEED = 23
BATCH = 128
SIZES = [len(values) for values in ATTRIBUTES.values()]


def build_recogniser() -> nn.Module:
    """Make the untrained network."""
    return ConvNeXt(
        num_classes=sum(SIZES),
        depths=(1, 1, 2, 1),
        dims=(48, 96, 128, 192),
        kernel_sizes=5,
        patch_size=4,
        ls_init_value=None,
    )


def train_recogniser(folder: Path, out: Path, num_steps: int = 2000, lr: float = 2e-3, device: str = "cpu") -> None:
    """Train the recogniser and write it to `out`/recogniser; `folder` holds checkpoints."""
    torch.manual_seed(SEED)
    network = build_recogniser().to(device)
    vae = AutoencoderKL.from_pretrained(out / "teacher" / "vae").eval()
    stream = PanelStream(vae, SEED)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        batch = stream.batch(step, BATCH)
        truth = torch.as_tensor(np.concatenate([batch.subjects, batch.contexts], axis=1)).to(device)
        logits = network(batch.pixels.to(device) * 2 - 1).split(SIZES, dim=-1)
        losses = torch.stack([F.cross_entropy(part, truth[:, i]) for i, part in enumerate(logits)])
        right = torch.stack([(part.argmax(-1) == truth[:, i]).float().mean() for i, part in enumerate(logits)])
        return losses.mean(), {"accuracy": right.mean()}

    fit(network, loss_at, folder, num_steps=num_steps, lr=lr, weight_decay=0.05)
    where = out / "recogniser"
    where.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}, where / "model.safetensors"
    )
    (where / "accuracy.json").write_text(json.dumps(measure(Recogniser(str(where), device), vae), indent=2))


class Recogniser:
    """Read every attribute of the world off panels."""

    def __init__(self, path: str = "pkg://dsd.toybox/weights/recogniser", device: str = "auto") -> None:
        self.device = to_device(device)
        self.network = build_recogniser().to(self.device).eval()
        folder = Path(resolve(path))
        self.network.load_state_dict(load_file(folder / "model.safetensors"))
        accuracy = folder / "accuracy.json"  # written once it has been measured
        self.measured = json.loads(accuracy.read_text()) if accuracy.exists() else {}

    @torch.inference_mode()
    def probabilities(self, pixels: Tensor) -> dict[str, Tensor]:
        """Compute the probabilities of each attribute's values: (B, 3, 64, 64) in [0, 1] -> {attribute: (B, K)}."""
        logits = torch.cat([self.network(part.to(self.device) * 2 - 1) for part in pixels.split(256)])
        return {name: part.softmax(-1) for name, part in zip(ATTRIBUTES, logits.split(SIZES, dim=-1), strict=True)}

    def read(self, images: Sequence[Image.Image]) -> list[dict[str, str]]:
        """Read {attribute: value} off each panel; panels of another size are resized first."""
        if not images:
            return []
        pixels = [pil_to_tensor(i.convert("RGB").resize((64, 64))) for i in images]
        found = {name: p.argmax(-1).tolist() for name, p in self.probabilities(torch.stack(pixels) / 255).items()}
        return [{name: ATTRIBUTES[name][found[name][row]] for name in ATTRIBUTES} for row in range(len(images))]


def measure(recogniser: Recogniser, vae: AutoencoderKL, num: int = 2000) -> dict[str, Any]:
    """Measure the accuracy by attribute on held-out subjects, as drawn and through the VAE."""
    rng = np.random.default_rng((SEED, 99))
    drawn = draw_panels(rng, num, "held_out")
    return {name: accuracy(recogniser, p) for name, p in (("drawn", drawn), ("vae", through_vae(vae, drawn, rng)))}


def accuracy(recogniser: Recogniser, panels: Panels) -> dict[str, float]:
    """Measure the share of panels whose attribute is read correctly, by attribute, and the mean of these shares."""
    found, truth = recogniser.probabilities(panels.pixels), np.concatenate([panels.subjects, panels.contexts], axis=1).T
    result = {
        name: round(float((found[name].argmax(-1).cpu().numpy() == row).mean()), 4)
        for name, row in zip(ATTRIBUTES, truth, strict=True)
    }
    return result | {"mean": round(float(np.mean(list(result.values()))), 4)}
