"""Guidance by image and text: `v = v(-,-) + s_i [v(img,-) - v(-,-)] + s_t [v(img,txt) - v(img,-)]`.

A denoised picture is the noisy one minus sigma times the velocity, and the coefficients add up to 1. So the same
formula holds for denoised pictures, which is what ComfyUI's guiders combine. Balancing compares norms of differences;
sigma cancels there, too. Shapes: (B, C, H, W) or any other with the batch first.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scales:
    """How strongly the reference and the text steer; (1, 1) is the plain conditional pass."""

    image: float = 1.0
    text: float = 1.0
    norm_balanced: bool = False  # shorten the longer difference to the other's norm (SynCD, Kumari et al. 2025)

    def weights(self) -> tuple[float, float, float]:
        """Give the coefficients of (img,txt), (img,-) and (-,-); the balanced form needs all three passes."""
        if self.norm_balanced and not self.image == self.text == 1:
            return 1.0, 1.0, 1.0
        return self.text, self.image - self.text, 1 - self.image


def guided(passes: Callable[[list[int]], list[Tensor]], scales: Scales) -> Tensor:
    """Combine the passes; `passes` runs those of the given numbers, 0 (img,txt), 1 (img,-), 2 (-,-), and no others."""
    weights = scales.weights()
    wanted = [number for number, weight in enumerate(weights) if weight != 0]
    found = passes(wanted)
    if scales.norm_balanced and len(wanted) == 3:
        return balanced(found[0], found[1], found[2], scales)
    return torch.stack([weights[number] * part for number, part in zip(wanted, found)]).sum(0)


def balanced(both: Tensor, image: Tensor, nothing: Tensor, scales: Scales) -> Tensor:
    """Compute `v(img,-) + (s_i - 1) d_img + s_t d_txt`, the longer of the differences shortened to the other's norm."""
    differences = torch.stack([image - nothing, both - image]).float()
    norms = differences.flatten(2).norm(dim=2)
    shorter = norms.min(0).values / norms.clamp_min(1e-12)
    towards_image, towards_text = differences * shorter.reshape(*shorter.shape, *[1] * (image.ndim - 1))
    steered = image + (scales.image - 1) * towards_image + scales.text * towards_text
    return steered.to(image.dtype)


def is_plain(sigma: float, sigmas: Tensor, num_plain: int) -> bool:
    """Tell whether a noise level belongs to the first `num_plain` steps of a schedule (S + 1,), which falls to 0."""
    if num_plain <= 0:
        return False
    return num_plain >= len(sigmas) - 1 or sigma > float(sigmas[num_plain])
