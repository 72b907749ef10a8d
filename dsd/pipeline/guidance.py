"""Guidance as a denoiser made of denoisers; the sampling loop never hears of it.

`v = v(-,-) + s_i [v(img,-) - v(-,-)] + s_t [v(img,txt) - v(img,-)]`: "no image" is the zero condition latent, "no text"
the negative (by default empty) prompt. As v is linear in its three passes, one whose coefficient is 0 is not run,
and the others run as one batch. Shapes: B batch, L packed tokens of a canvas, C packed channels, T text tokens, D
text width, S steps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from dsd.pipeline.precompute import Precomputed

Denoiser = Callable[[Tensor, int], Tensor]  # noisy latents (B, L, C), index of the step -> velocity (B, L, C)


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
    sigmas: Tensor  # (S,) the schedule, without its closing 0
    precomputed: Precomputed | None = None

    def under(self, conditions: Conditions, name: str = "all", steps: range | None = None) -> Denoiser:
        """The denoiser for `steps` (by default all). `name` keeps a step cache apart from other passes' caches."""
        num = len(conditions.prompt_embeds)
        embeds = self.transformer.config.guidance_embeds
        guidance = torch.full((num,), self.guidance_scale, device=self.sigmas.device) if embeds else None
        sigmas = self.sigmas[:, None].expand(-1, num).to(conditions.cond_latents.dtype)
        prompt_embeds, pooled, modulate = conditions.prompt_embeds, conditions.pooled_prompt_embeds, None
        if self.precomputed is not None:
            steps = range(len(sigmas)) if steps is None else steps
            if len(steps):
                modulate = self.precomputed.modulations(sigmas, steps, guidance, pooled)
            prompt_embeds = self.precomputed.text(prompt_embeds)

        def velocity(noisy_latents: Tensor, step: int) -> Tensor:
            if modulate is not None:
                modulate(step)
            with self.transformer.cache_context(name):
                return self.transformer(
                    hidden_states=torch.cat([noisy_latents, conditions.cond_latents], dim=-1),
                    timestep=sigmas[step],
                    guidance=guidance,
                    pooled_projections=pooled,
                    encoder_hidden_states=prompt_embeds,
                    txt_ids=self.txt_ids,
                    img_ids=self.img_ids,
                    return_dict=False,
                )[0]

        return velocity


@dataclass(frozen=True)
class Scales:
    """How strongly the reference and the text steer; (1, 1) is the plain conditional pass."""

    image: float = 1.0
    text: float = 1.0
    norm_balanced: bool = False
    """Shorten the longer of the two differences to the other's norm, against overexposure (SynCD, Kumari et al. 2025):
    `v(img,-) + (s_i - 1) d_img + s_t d_txt`, norms over a canvas."""

    def coefficients(self) -> tuple[float, float, float]:
        """Of v(img,txt), v(img,-) and v(-,-)."""
        return self.text, self.image - self.text, 1 - self.image

    @property
    def plain(self) -> bool:
        return self.image == self.text == 1

    @property
    def needs_no_text(self) -> bool:
        return any(self.coefficients()[1:]) or (self.norm_balanced and not self.plain)


def guided(
    network: Network,
    full: Conditions,
    no_text: Conditions | None,
    scales: Scales,
    batched: bool = True,
    steps: range | None = None,
) -> Denoiser:
    """The denoiser of the formula above; `no_text` is needed where `scales.needs_no_text`.

    `batched=False` runs its passes one after another, for small memory and for step caches, one context a pass.
    """
    if not scales.needs_no_text:
        plain = network.under(full, "img,txt", steps)
        return plain if scales.text == 1 else lambda noisy, step: scales.text * plain(noisy, step)
    assert no_text is not None
    nothing = Conditions(torch.zeros_like(full.cond_latents), no_text.prompt_embeds, no_text.pooled_prompt_embeds)
    weights = (1.0, 1.0, 1.0) if scales.norm_balanced else scales.coefficients()
    terms = [
        (weight, name, conditions)
        for weight, name, conditions in zip(weights, ("img,txt", "img,-", "-,-"), (full, no_text, nothing), strict=True)
        if weight != 0
    ]
    combine = _balanced(scales) if scales.norm_balanced else _weighted([weight for weight, _, _ in terms])
    if not batched:
        parts = [network.under(conditions, name, steps) for _, name, conditions in terms]
        return lambda noisy, step: combine([velocity(noisy, step) for velocity in parts])

    num, together = len(terms), network.under(Conditions.stack([c for _, _, c in terms]), "batch", steps)
    return lambda noisy, step: combine(together(noisy.repeat(num, 1, 1), step).chunk(num))


def _weighted(weights: list[float]) -> Callable[..., Tensor]:
    return lambda passes: torch.stack([w * v for w, v in zip(weights, passes, strict=True)]).sum(0)


def _balanced(scales: Scales) -> Callable[..., Tensor]:
    def combine(passes: list[Tensor]) -> Tensor:
        both, image, nothing = passes
        differences = torch.stack([image - nothing, both - image]).float()
        norms = differences.flatten(2).norm(dim=2)[:, :, None, None]
        towards_image, towards_text = differences * (norms.min(0).values / norms.clamp_min(1e-12))
        return (image + (scales.image - 1) * towards_image + scales.text * towards_text).to(image.dtype)

    return combine
