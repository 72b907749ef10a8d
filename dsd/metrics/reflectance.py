"""How far two pictures lie apart when their light is taken away: the reflectance of each, then a perceptual distance.

Reflectance: a single-scale retinex (Jobson, Rahman and Woodell 1997). A picture is divided by its own low frequencies,
colour by colour, since light changes slowly over a picture and multiplies what it falls on. A gamma curve keeps
products, so the pixels are taken as they are. Hard shadows are no low frequencies: they stay.
Distance: LPIPS without learnt weights, its "baseline" (arXiv 1801.03924, section 3 and equation 1 with w = 1):
features of several layers, of unit length at each place; squared differences, averaged over places and layers.
The package lpips is not used: its weights are pickles, and this project reads safetensors only.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch.nn.functional import normalize

from dsd.errors import UserError
from dsd.models.embeddings import load_timm
from dsd.models.loading import to_device

DARK = 0.02  # of 1; added to both sides of the division, so that noise in black is not made bright


def reflectance(image: Image.Image, sigma: float) -> np.ndarray:
    """Divide an RGB picture by its low frequencies: (H, W, 3) in [0, 1], .5 where a pixel is as its surroundings.

    `sigma` is that of the Gaussian, as a share of the picture's shorter side.
    """
    pixels = np.asarray(image, np.float32) / 255
    spread = sigma * min(image.size)
    light = gaussian_filter(pixels, (spread, spread, 0), mode="reflect")
    return np.clip((pixels + DARK) / (light + DARK) / 2, 0, 1)


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class ReflectanceDistance:
    """The distance of two pictures of one size. `model` is a network of timm that takes pictures of any size.

    `layers` are numbers of its intermediate features, all by default. `checkpoint` is a safetensors file in place of
    the published weights. Larger pictures are compared on copies of at most `size` pixels a side.
    """

    def __init__(
        self,
        model: str,
        checkpoint: str | None = None,
        layers: Sequence[int] | None = None,
        sigma: float = 0.1,
        size: int = 512,
        device: str = "auto",
    ) -> None:
        import timm

        data: Any = timm.data  # it ships no types
        self.layers, self.sigma, self.size = None if layers is None else list(layers), sigma, size
        self.device = to_device(device)
        self.network = load_timm(model, checkpoint).to(self.device).eval()
        settings = data.resolve_model_data_config(self.network)
        self.mean, self.std = (torch.tensor(settings[name], device=self.device) for name in ("mean", "std"))
        blank = Image.new("RGB", (96, 64))
        try:
            self(blank, blank)
        except (AssertionError, AttributeError, IndexError, RuntimeError) as error:
            raise UserError(
                f"features.model={model}, layers={layers}: gives no features of pictures of any size "
                f"({first_line(error)}); choose a convolutional network, and layers that it has"
            ) from error

    @torch.inference_mode()
    def __call__(self, first: Image.Image, second: Image.Image) -> float:
        """Measure two RGB pictures: 0 where they differ in light alone, at most 4 (2 where features are positive)."""
        pixels = torch.from_numpy(np.stack([self.prepared(image) for image in (first, second)])).to(self.device)
        inputs = ((pixels - self.mean) / self.std).permute(0, 3, 1, 2).contiguous()
        layers = self.network.forward_intermediates(inputs, indices=self.layers, intermediates_only=True)
        distances = []
        for features in layers:
            one, other = normalize(features.float(), dim=1, eps=1e-10)
            distances.append((one - other).square().sum(dim=0).mean())
        return float(torch.stack(distances).mean())

    def prepared(self, image: Image.Image) -> np.ndarray:
        """The reflectance of a copy of at most `size` pixels a side."""
        small = image.copy()
        small.thumbnail((self.size, self.size), Image.Resampling.LANCZOS)
        return reflectance(small, self.sigma)
