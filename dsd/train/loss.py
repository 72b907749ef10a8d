"""The objectives of training: flow matching (the paper's) and subject fidelity (a second stage).

Shapes: B batch, L packed tokens of a canvas, C packed channels.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dsd.errors import UserError
from dsd.flow import add_noise, velocity_target
from dsd.models.student import Student
from dsd.train.data.batch import Batch


@dataclass(frozen=True)
class FlowMatching:
    """The paper's objective."""

    student: Student
    guidance_scale: float  # what the distilled guidance embedding sees
    reference_loss_weight: float  # 1: both panels, as in the paper; 0: the target's alone

    def __call__(self, batch: Batch) -> Tensor:
        """Compute the loss of each sample, (B,)."""
        weights = token_weights(batch.canvas.target_mask(), self.reference_loss_weight).to(batch.latents.device)
        return flow_loss(self.student, batch, self.guidance_scale, weights)


@dataclass(frozen=True)
class SubjectFidelity:
    """Prefer the true target to one that the student drew from a blurred reference and a generic prompt.

    SFO (arXiv 2506.03621) with the loss of Diffusion-DPO (arXiv 2311.12908, eq. 14) on velocities.
    """

    student: Student
    guidance_scale: float
    reference_loss_weight: float
    beta: float

    def __call__(self, batch: Batch) -> Tensor:
        """Compute the loss of each sample, (B,). UserError where pairs have no negative."""
        if batch.negative is None:
            raise UserError("objective=sfo needs negatives beside the pairs: data=preferences data.negatives=...")
        flow = FlowMatching(self.student, self.guidance_scale, self.reference_loss_weight)
        negative = replace(batch, latents=batch.negative)  # noise, noise level and conditions are the same
        with torch.no_grad(), self.student.without_lora():
            before = flow(batch) - flow(negative)
        return -torch.nn.functional.logsigmoid(-0.5 * self.beta * (flow(batch) - flow(negative) - before))


def flow_loss(student: Student, batch: Batch, guidance_scale: float, token_weights: Tensor) -> Tensor:
    """Compute the flow-matching loss of each sample, (B,): mean over its tokens, weighted by `token_weights` (L,)."""
    noisy_latents = add_noise(batch.latents, batch.noise, batch.sigmas)
    velocity = student.velocity(noisy_latents, batch.sigmas, batch.conditions, batch.canvas, guidance_scale)
    error = (velocity.float() - velocity_target(batch.latents, batch.noise).float()).square().mean(dim=-1)
    return (error * token_weights).sum(dim=1) / token_weights.sum()


def token_weights(target_mask: Tensor, reference_loss_weight: float) -> Tensor:
    """Weigh tokens, (L,) bool -> (L,): 1 on the target's panel, `reference_loss_weight` on the reference's."""
    return torch.where(target_mask, 1.0, reference_loss_weight)
