"""Guidance as a denoiser made of denoisers; the sampling loop never sees it.

`v = v(-,-) + s_i [v(img,-) - v(-,-)] + s_t [v(img,txt) - v(img,-)]` (released code). "No image" is the zero condition
latent, "no text" the negative (by default empty) prompt. v is linear in its three passes, so a pass whose coefficient
is 0 is not run, and the others run as one batch. Shapes: B batch, L tokens of what is drawn, C channels, S steps.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from dsd.models.canvas import Canvas
from dsd.models.student import Conditions, Kept, Student
from dsd.pipeline.precompute import Precomputed

Denoiser = Callable[[Tensor, int], Tensor]  # noisy latents (B, L, C), index of the step -> velocity (B, L, C)


@dataclass
class Memories:
    """What passes remember of references, by the name of the pass: another prompt or seed needs no look at them."""

    known: dict[str, tuple[Tensor, Kept]] = field(default_factory=dict)

    def of(self, name: str, cond_latents: Tensor) -> Kept:
        """Give what was remembered of these references, or room for it."""
        if name not in self.known or not _same(self.known[name][0], cond_latents):
            self.known[name] = cond_latents, Kept()
        return self.known[name][1]


@dataclass(frozen=True)
class Passes:
    """Makes denoisers of a student: one pass each, under conditions that no step changes."""

    student: Student
    canvas: Canvas
    guidance_scale: float  # distilled
    sigmas: Tensor  # (S,) the schedule, without its closing 0
    precomputed: Precomputed | None = None
    memories: Memories = field(default_factory=Memories)

    def under(self, conditions: Conditions, name: str = "all", steps: range | None = None) -> Denoiser:
        """Make the denoiser for `steps` (by default all). Each `name` has a step cache of its own."""
        num, modulate = len(conditions.cond_latents), None
        sigmas = self.sigmas[:, None].expand(-1, num).to(conditions.cond_latents.dtype)
        if self.precomputed is not None:
            steps = range(len(sigmas)) if steps is None else steps
            embeds, pooled = conditions.text
            if len(steps):
                modulate = self.precomputed.modulations(sigmas, steps, self.guidance_scale, pooled)
            conditions = replace(conditions, text=(self.precomputed.text(embeds), pooled))
        kept = self.memories.of(name, conditions.cond_latents)
        denoise = self.student.denoiser(conditions, self.canvas, self.guidance_scale, kept)

        def velocity(noisy_latents: Tensor, step: int) -> Tensor:
            if modulate is not None:
                modulate(step)
            with cache_context(self.student.transformer, name):
                return denoise(noisy_latents, sigmas[step])

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
        """Give the coefficients of v(img,txt), v(img,-) and v(-,-)."""
        return self.text, self.image - self.text, 1 - self.image

    @property
    def plain(self) -> bool:
        """Whether the formula is v(img,txt) alone."""
        return self.image == self.text == 1

    @property
    def needs_no_text(self) -> bool:
        """Whether a pass without text is needed."""
        return any(self.coefficients()[1:]) or (self.norm_balanced and not self.plain)


def guided(
    passes: Passes,
    full: Conditions,
    no_text: Conditions | None,
    scales: Scales,
    batched: bool = True,
    steps: range | None = None,
) -> Denoiser:
    """Make the denoiser of the formula above. `no_text` is needed where `scales.needs_no_text`.

    `batched=False` runs the passes one after another: for little memory, and for step caches, one a pass.
    """
    if not scales.needs_no_text:
        plain = passes.under(full, "img,txt", steps)
        return plain if scales.text == 1 else lambda noisy, step: scales.text * plain(noisy, step)
    assert no_text is not None
    nothing = Conditions(torch.zeros_like(full.cond_latents), no_text.text)
    weights = (1.0, 1.0, 1.0) if scales.norm_balanced else scales.coefficients()
    terms = [
        (weight, name, conditions)
        for weight, name, conditions in zip(weights, ("img,txt", "img,-", "-,-"), (full, no_text, nothing), strict=True)
        if weight != 0
    ]
    combine = _balanced(scales) if scales.norm_balanced else _weighted([weight for weight, _, _ in terms])
    if not batched:
        parts = [passes.under(conditions, name, steps) for _, name, conditions in terms]
        return lambda noisy, step: combine([velocity(noisy, step) for velocity in parts])

    num, together = len(terms), passes.under(Conditions.stack([c for _, _, c in terms]), "batch", steps)
    return lambda noisy, step: combine(list(together(noisy.repeat(num, 1, 1), step).chunk(num)))


def cache_context(transformer: Any, name: str) -> AbstractContextManager[None]:
    """Name a pass for the step caches of diffusers, where the transformer's class knows them."""
    return transformer.cache_context(name) if hasattr(transformer, "cache_context") else nullcontext()


def _same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and first.device == second.device and bool(torch.equal(first, second))


def _weighted(weights: list[float]) -> Callable[[list[Tensor]], Tensor]:
    return lambda passes: torch.stack([w * v for w, v in zip(weights, passes, strict=True)]).sum(0)


def _balanced(scales: Scales) -> Callable[[list[Tensor]], Tensor]:
    def combine(passes: list[Tensor]) -> Tensor:
        both, image, nothing = passes
        differences = torch.stack([image - nothing, both - image]).float()
        norms = differences.flatten(2).norm(dim=2)[:, :, None, None]
        towards_image, towards_text = differences * (norms.min(0).values / norms.clamp_min(1e-12))
        steered: Tensor = image + (scales.image - 1) * towards_image + scales.text * towards_text
        return steered.to(image.dtype)

    return combine
