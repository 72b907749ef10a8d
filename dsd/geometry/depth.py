"""Compare the depth that a model of transformers sees in two pictures, such as Depth Anything V2 (arXiv 2406.09414)."""

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from dsd.errors import UserError
from dsd.geometry import refuse_unequal
from dsd.models.loading import to_device

log = logging.getLogger(__name__)


class Depth:
    """`depth_agreement`: correlation of both depths, which scale and shift do not change; 1 is the same depth.

    A pair in which a picture is flat all over has no score. `path` is a folder or a hub id.
    """

    names: ClassVar[Sequence[str]] = ("depth_agreement",)

    def __init__(self, path: str, device: str = "auto") -> None:
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation

        self.device = to_device(device)
        try:
            self.processor: Any = AutoImageProcessor.from_pretrained(path)
            network: Any = AutoModelForDepthEstimation.from_pretrained(path, use_safetensors=True)
        except (OSError, ValueError, KeyError) as error:
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            raise UserError(f"geometry.depth.path={path}: cannot be loaded: {reason}") from error
        self.network = network.to(self.device).eval()
        if self.device.type == "cpu":
            log.warning("geometry=depth: a depth model on a CPU takes seconds for each picture")

    def __call__(self, firsts: Sequence[Image.Image], seconds: Sequence[Image.Image]) -> list[dict[str, float]]:
        """Score each pair, in order."""
        return [self.score(first, second) for first, second in zip(firsts, seconds, strict=True)]

    def score(self, first: Image.Image, second: Image.Image) -> dict[str, float]:
        """Score one pair."""
        refuse_unequal(first, second)
        depths = [self.depth(image).ravel() for image in (first, second)]
        if any(np.ptp(depth) == 0 for depth in depths):
            return {}
        return {"depth_agreement": float(np.corrcoef(depths[0], depths[1])[0, 1])}

    @torch.inference_mode()
    def depth(self, image: Image.Image) -> np.ndarray:
        """Estimate depth as the model gives it, (H, W); most models give more where the scene is nearer."""
        inputs = self.processor(images=image.convert("RGB"), return_tensors="pt").to(self.device)
        sizes = [(image.height, image.width)]
        found = self.processor.post_process_depth_estimation(self.network(**inputs), target_sizes=sizes)
        depth: np.ndarray = found[0]["predicted_depth"].float().cpu().numpy()
        return depth

    def depth_map(self, image: Image.Image) -> Image.Image:
        """Draw the depth as a grey picture of the same size, from black (least) to white, to be used as a reference."""
        depth = self.depth(image)
        spread = (depth - depth.min()) / max(float(np.ptp(depth)), 1e-9)
        return Image.fromarray((spread * 255).round().astype(np.uint8)).convert("RGB")
