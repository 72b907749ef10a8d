"""Show what a picture will be before its last step.

Two successive noisy latents give the step's velocity, and that gives the clean latents that it points to.
"""

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dsd.flow import denoised


class Previewer:
    """Decodes the clean latents that every so many steps point to. One for a picture."""

    def __init__(self, pipeline: Any, settings: Mapping[str, Any], every: int) -> None:
        self.pipeline, self.every, self.last = pipeline, every, settings["num_inference_steps"] - 1
        self.size = settings["height"], settings["width"]
        self.before: Tensor | None = None

    @torch.no_grad()
    def __call__(self, step: int, latents: Tensor) -> Image.Image | None:
        """Return a preview after this step (counted from 0), None where none is due. `latents` are (1, L, C)."""
        before, self.before = self.before, latents
        if not self.every or step % self.every or step >= self.last or before is None:
            return None
        sigmas = self.pipeline.scheduler.sigmas.to(latents.device)
        velocity = (latents.float() - before.float()) / (sigmas[step + 1] - sigmas[step])
        clean = denoised(latents.float(), velocity, sigmas[step + 1 : step + 2])
        if not clean.isfinite().all():  # the last step tells what is wrong
            return None
        canvas = self.pipeline.student.canvas(*self.size)
        shown: Image.Image = self.pipeline.decode(clean.to(latents.dtype), canvas, "pil", False).images[0]
        return shown
