"""Guidance as a denoiser made of denoisers; the sampling loop never hears of it.

`v = v(-,-) + s_i [v(img,-) - v(-,-)] + s_t [v(img,txt) - v(img,-)]`: "no image" is the zero condition latent, "no text"
the negative (by default empty) prompt. As v is linear in its three passes, one whose coefficient is 0 is not run,
and the others run as one batch. Shapes: B batch, L packed tokens of a canvas, C packed channels, T text tokens, D
text width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]  # noisy latents (B, L, C), sigmas (B,) -> velocity (B, L, C)


@dataclass(frozen=True)
class Conditions:
    """What a pass is conditioned on."""

    cond_latents: Tensor  # (B, L, C) reference, never noised; zero for none
    prompt_embeds: Tensor  # (B, T, D)
    pooled_prompt_embeds: Tensor  # (B, P)

    @staticmethod
    def stack(passes: list["Conditions"]) -> "Conditions":
        return Conditions(*(torch.cat(parts) for parts in zip(*(vars(p).values() for p in passes), strict=True)))


@dataclass(frozen=True)
class Network:
    """The transformer as a denoiser under some conditions; what does not change between steps is held here."""

    transformer: FluxTransformer2DModel
    img_ids: Tensor  # (L, 3)
    txt_ids: Tensor  # (T, 3)
    guidance_scale: float  # distilled

    def under(self, conditions: Conditions) -> Denoiser:
        num = len(conditions.prompt_embeds)
        embeds = self.transformer.config.guidance_embeds
        guidance = torch.full((num,), self.guidance_scale, device=conditions.cond_latents.device) if embeds else None

        def velocity(noisy_latents: Tensor, sigmas: Tensor) -> Tensor:
            return self.transformer(
                hidden_states=torch.cat([noisy_latents, conditions.cond_latents], dim=-1),
                timestep=sigmas,
                guidance=guidance,
                pooled_projections=conditions.pooled_prompt_embeds,
                encoder_hidden_states=conditions.prompt_embeds,
                txt_ids=self.txt_ids,
                img_ids=self.img_ids,
                return_dict=False,
            )[0]

        return velocity


def coefficients(image_guidance_scale: float, text_guidance_scale: float) -> tuple[float, float, float]:
    """Of v(img,txt), v(img,-) and v(-,-)."""
    return text_guidance_scale, image_guidance_scale - text_guidance_scale, 1 - image_guidance_scale


def guided(
    network: Network,
    full: Conditions,
    no_text: Conditions | None,
    image_guidance_scale: float,
    text_guidance_scale: float,
    batched: bool = True,
) -> Denoiser:
    """The denoiser of the formula above; `no_text` is needed unless both scales are 1.

    `batched=False` runs its passes one after another, for small memory.
    """
    scales = coefficients(image_guidance_scale, text_guidance_scale)
    if scales[1:] == (0, 0):
        plain = network.under(full)
        return plain if scales[0] == 1 else lambda noisy, sigmas: scales[0] * plain(noisy, sigmas)
    assert no_text is not None
    nothing = Conditions(torch.zeros_like(full.cond_latents), no_text.prompt_embeds, no_text.pooled_prompt_embeds)
    terms = [(s, c) for s, c in zip(scales, (full, no_text, nothing), strict=True) if s != 0]
    if not batched:
        parts = [(scale, network.under(conditions)) for scale, conditions in terms]
        return lambda noisy, sigmas: torch.stack([s * velocity(noisy, sigmas) for s, velocity in parts]).sum(0)

    num, together = len(terms), network.under(Conditions.stack([conditions for _, conditions in terms]))

    def velocity(noisy_latents: Tensor, sigmas: Tensor) -> Tensor:
        passes = together(noisy_latents.repeat(num, 1, 1), sigmas.repeat(num)).chunk(num)
        return torch.stack([s * v for (s, _), v in zip(terms, passes, strict=True)]).sum(0)

    return velocity
