"""The method's objective. Shapes: B batch, L packed tokens of a canvas, C packed channels, T text tokens, D width."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dsd.flow import add_noise, velocity_target


@dataclass(frozen=True)
class Batch:
    """Pairs as the model sees them, and the randomness of this step."""

    latents: Tensor  # (B, L, C) clean canvas: reference on the left, target on the right
    cond_latents: Tensor  # (B, L, C) reference beside black, never noised; zero where dropped
    prompt_embeds: Tensor  # (B, T, D); the empty prompt's where dropped
    pooled_prompt_embeds: Tensor  # (B, P)
    noise: Tensor  # (B, L, C)
    sigmas: Tensor  # (B,)

    def to(self, device: torch.device) -> "Batch":
        return Batch(**{name: tensor.to(device, non_blocking=True) for name, tensor in vars(self).items()})


def flow_loss(model: Callable[..., Tensor], batch: Batch, token_weights: Tensor) -> Tensor:
    """Flow-matching loss of each sample, (B,): mean over both panels, tokens weighted by `token_weights` (L,)."""
    noisy_latents = add_noise(batch.latents, batch.noise, batch.sigmas)
    velocity = model(noisy_latents, batch)
    error = (velocity.float() - velocity_target(batch.latents, batch.noise).float()).square().mean(dim=-1)
    return (error * token_weights).sum(dim=1) / token_weights.sum()


def token_weights(target_mask: Tensor, reference_loss_weight: float) -> Tensor:
    """(L,) bool -> (L,): 1 on the target's tokens; on the reference's 1 is DSD's loss, 0 the target's alone."""
    return torch.where(target_mask, 1.0, reference_loss_weight)
