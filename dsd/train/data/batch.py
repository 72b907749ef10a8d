"""What a step of training is given. Shapes: B batch, L packed tokens of a canvas, C packed channels."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dsd.models.canvas import Canvas
from dsd.models.student import Conditions


@dataclass(frozen=True)
class Batch:
    """Samples of one size, and the randomness of this step."""

    canvas: Canvas
    latents: Tensor  # (B, L, C) clean: what the student learns to draw
    conditions: Conditions  # zero latents and the empty prompt where they are dropped
    noise: Tensor  # (B, L, C)
    sigmas: Tensor  # (B,)
    negative: Tensor | None = None  # (B, L, C) like `latents`, with a worse target; None where the pairs have none
    positions: tuple[int, ...] = ()  # of the pairs in their source; they name them in an error message

    def to(self, device: torch.device) -> "Batch":
        """Move all tensors to a device; to a GPU from pinned memory, so that nothing waits for the copies."""

        def moved(tensor: Tensor) -> Tensor:
            pinned = tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor
            return pinned.to(device, non_blocking=True)

        return replace(
            self,
            latents=moved(self.latents),
            conditions=self.conditions.map(moved),
            noise=moved(self.noise),
            sigmas=moved(self.sigmas),
            negative=None if self.negative is None else moved(self.negative),
        )
