"""The student: a text-to-image transformer that also takes a reference.

Objective, sampler, cache and exporter know it by the protocol `Student`. `CanvasStudent` is the paper's: FLUX.1 with a
widened input, which draws a canvas of two panels. Shapes: B batch, L packed tokens of a canvas, C packed channels, T
text tokens, D text width, P pooled width.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dsd.models.canvas import Canvas, canvas_of


@dataclass(frozen=True)
class Conditions:
    """What a pass of the transformer is conditioned on."""

    cond_latents: Tensor  # (B, L, C) reference, never noised; zero for none
    prompt_embeds: Tensor  # (B, T, D)
    pooled_prompt_embeds: Tensor  # (B, P)

    @staticmethod
    def stack(passes: list["Conditions"]) -> "Conditions":
        """Put several passes into one batch."""
        return Conditions(*(torch.cat(parts) for parts in zip(*(vars(p).values() for p in passes), strict=True)))


class Student(Protocol):
    """Predicts velocities on a canvas from a reference and a text."""

    def canvas(self, height: int, width: int) -> Canvas:
        """Make the canvas for an output of height x width pixels."""
        ...

    def velocity(
        self, noisy_latents: Tensor, sigmas: Tensor, conditions: Conditions, canvas: Canvas, guidance_scale: float
    ) -> Tensor:
        """Predict the velocity (B, L, C) at noise levels `sigmas` (B,)."""
        ...

    def without_lora(self) -> AbstractContextManager[None]:
        """Within it, `velocity` is that of the weights below the LoRA."""
        ...


@dataclass(frozen=True)
class CanvasStudent:
    """FLUX.1 whose input holds the noisy latents and the condition latents of one canvas."""

    transformer: Any  # diffusers' FluxTransformer2DModel
    dtype: torch.dtype  # of the computation
    positions: str = "column"  # of the panels, see `Canvas.ids`
    vae_scale_factor: int = 8
    wrapped: Any = None  # the transformer as a launcher wrapped it for training

    def canvas(self, height: int, width: int) -> Canvas:
        """Make the canvas for an output of height x width pixels."""
        return canvas_of(height, width, self.vae_scale_factor)

    def velocity(
        self, noisy_latents: Tensor, sigmas: Tensor, conditions: Conditions, canvas: Canvas, guidance_scale: float
    ) -> Tensor:
        """Predict the velocity (B, L, C) at noise levels `sigmas` (B,)."""
        return flux_velocity(
            self.transformer if self.wrapped is None else self.wrapped,
            torch.cat([noisy_latents, conditions.cond_latents], dim=-1).to(self.dtype),
            sigmas,
            conditions.prompt_embeds.to(self.dtype),
            conditions.pooled_prompt_embeds.to(self.dtype),
            canvas.ids(self.positions, noisy_latents.device, noisy_latents.dtype),
            torch.full_like(sigmas, guidance_scale) if self.transformer.config.guidance_embeds else None,
        )

    @contextmanager
    def without_lora(self) -> Iterator[None]:
        """Within it, `velocity` is that of the weights below the LoRA."""
        self.transformer.disable_lora()
        try:
            yield
        finally:
            self.transformer.enable_lora()


def flux_velocity(
    transformer: Any, tokens: Tensor, sigmas: Tensor, prompt_embeds: Tensor, pooled_prompt_embeds: Tensor, ids: Tensor,
    guidance: Tensor | None,
) -> Tensor:  # fmt: skip
    """Call FLUX.1's transformer: tokens (B, L, C') at positions `ids` (L, 3), noise levels (B,) -> (B, L, C)."""
    velocity: Tensor = transformer(
        hidden_states=tokens,
        timestep=sigmas,
        guidance=guidance,
        pooled_projections=pooled_prompt_embeds,
        encoder_hidden_states=prompt_embeds,
        txt_ids=ids.new_zeros(prompt_embeds.shape[1], 3),
        img_ids=ids,
        return_dict=False,
    )[0]
    return velocity
