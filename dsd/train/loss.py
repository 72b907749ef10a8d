"""The method's objective. Shapes: B batch, L packed tokens of a canvas, C packed channels, T text tokens, D width."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dsd.errors import UserError
from dsd.flow import add_noise, velocity_target
from dsd.models.canvas import target_mask


@dataclass(frozen=True)
class Batch:
    """Pairs as the model sees them, and the randomness of this step."""

    latents: Tensor  # (B, L, C) clean canvas: reference on the left, target on the right
    cond_latents: Tensor  # (B, L, C) reference beside black, never noised; zero where dropped
    prompt_embeds: Tensor  # (B, T, D); the empty prompt's where dropped
    pooled_prompt_embeds: Tensor  # (B, P)
    noise: Tensor  # (B, L, C)
    sigmas: Tensor  # (B,)
    rejected: Tensor | None = None  # (B, L, C) clean canvas of a worse target, where there is one
    rows: tuple[int, ...] = ()  # which pairs, to name them where something is wrong

    def to(self, device: torch.device) -> "Batch":
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Batch(**{name: t.to(device, non_blocking=True) for name, t in tensors.items()}, rows=self.rows)


@dataclass(frozen=True)
class Model:
    """What an objective is told of the student."""

    velocity: Callable[[Tensor, Batch, int, int], Tensor]  # noisy latents, batch, rows and columns of tokens
    canvases: Mapping[int, tuple[int, int]]  # number of tokens -> rows, columns
    without_lora: Callable[[], AbstractContextManager]  # within it, `velocity` is that of the weights it began from


@dataclass(frozen=True)
class FlowMatching:
    """The paper's objective: (batch) -> loss of each sample, (B,)."""

    model: Model
    reference_loss_weight: float  # 1: both panels, the paper's; 0: the target's alone

    def __call__(self, batch: Batch) -> Tensor:
        rows, columns = self.model.canvases[batch.latents.shape[1]]
        weights = token_weights(target_mask(rows, columns), self.reference_loss_weight).to(batch.latents.device)
        return flow_loss(lambda noisy, batch: self.model.velocity(noisy, batch, rows, columns), batch, weights)


@dataclass(frozen=True)
class SubjectFidelity:
    """Second stage, SFO (arXiv 2506.03621): the true target is preferred to one that the model drew from a blurred
    reference and a generic prompt. The loss is Diffusion-DPO's (arXiv 2311.12908, eq. 14), on velocities. UserError
    where pairs have no worse target.
    """

    model: Model
    reference_loss_weight: float
    beta: float

    def __call__(self, batch: Batch) -> Tensor:
        if batch.rejected is None:
            raise UserError("objective=sfo needs worse targets beside the pairs: data=preferences data.negatives=...")
        flow = FlowMatching(self.model, self.reference_loss_weight)
        worse = replace(batch, latents=batch.rejected)  # with the same noise, time, words and condition
        with torch.no_grad(), self.model.without_lora():
            before = flow(batch) - flow(worse)
        return -torch.nn.functional.logsigmoid(-0.5 * self.beta * (flow(batch) - flow(worse) - before))


def flow_loss(model: Callable[..., Tensor], batch: Batch, token_weights: Tensor) -> Tensor:
    """Flow-matching loss of each sample, (B,): mean over both panels, tokens weighted by `token_weights` (L,)."""
    noisy_latents = add_noise(batch.latents, batch.noise, batch.sigmas)
    velocity = model(noisy_latents, batch)
    error = (velocity.float() - velocity_target(batch.latents, batch.noise).float()).square().mean(dim=-1)
    return (error * token_weights).sum(dim=1) / token_weights.sum()


def token_weights(target_mask: Tensor, reference_loss_weight: float) -> Tensor:
    """(L,) bool -> (L,): 1 on the target's tokens; on the reference's 1 is DSD's loss, 0 the target's alone."""
    return torch.where(target_mask, 1.0, reference_loss_weight)
