"""The student whose references are tokens: they follow what is drawn and are told apart by their position ids.

Nothing of the transformer changes but its LoRA, so stock pipelines load it. With `attention=full` all tokens see each
other, as in FLUX.1 Kontext and FLUX.2. With `attention=cached` references see themselves alone, at time 0. Nothing of
them then depends on the noise, the prompt or the step, so that their keys and values are computed once a picture,
exactly (as FLUX.2-klein's KV variant does).
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dsd.models.canvas import Canvas, canvas_of
from dsd.models.families import Family
from dsd.models.positions import RULES
from dsd.models.settings import MOST_REFERENCES
from dsd.models.student import Conditions, Denoise, Kept, lora_off, refuse_too_many


@dataclass(frozen=True)
class TokenStudent:
    """A transformer that sees reference tokens (B, R, C) beside the noisy ones (B, L, C)."""

    family: Family
    transformer: Any = None
    dtype: torch.dtype = torch.float32  # of the computation
    positions: str = "kontext"  # rule of the ids, see `dsd.models.positions`
    attention: str = "cached"
    vae_scale_factor: int = 8
    wrapped: Any = None  # the transformer as a launcher wrapped it for training
    kind: str = "tokens"
    most_references: int = MOST_REFERENCES
    encodings: tuple[str, str] = ("target", "reference")  # names of what `drawn` and `condition` give, in the cache

    @property
    def precomputable(self) -> bool:
        """Whether every pass has the modulations of its step: the references' own pass has those of time 0."""
        return self.attention == "full" and self.family.precomputable

    @property
    def step_cacheable(self) -> bool:
        """Whether each step can be compared with the one before: the first one also sees the references if cached."""
        return self.attention == "full" and self.family.step_cacheable

    def about(self) -> dict[str, str]:
        """Describe the kind for an adapter's metadata."""
        return {
            "kind": self.kind, "family": self.family.name, "positions": self.positions, "attention": self.attention,
        }  # fmt: skip

    def canvas(self, height: int, width: int) -> Canvas:
        """Make the canvas for an output of height x width pixels: the output alone."""
        return canvas_of(height, width, self.vae_scale_factor, panels=1)

    def num_tokens(self, canvas: Canvas, num_references: int = 1) -> int:
        """Count the image tokens of a pass: those of what is drawn and of the references."""
        return canvas.num_tokens * (1 + num_references)

    def drawn(self, vae: Any, references: Tensor, targets: Tensor) -> Tensor:
        """Encode targets, (B, L, C)."""
        return self.family.encode(vae, targets)

    def drawn_key(self, references: str, target: str) -> str:
        """Name what `drawn` gives by the keys of its pictures: the target alone."""
        return target

    def condition(self, vae: Any, references: Tensor) -> Tensor:
        """Encode references (B, N, 3, H, W) one after another, (B, N * L, C)."""
        refuse_too_many(references.shape[1], self)
        tokens = self.family.encode(vae, references.flatten(0, 1))
        together: Tensor = tokens.unflatten(0, references.shape[:2]).flatten(1, 2)
        return together

    def ids(self, canvas: Canvas, num_cond_tokens: int) -> Tensor:
        """Give the position ids of what is drawn and of the references, (L + R, 3)."""
        return torch.cat(self._places(canvas, num_cond_tokens))

    def velocity(
        self, noisy_latents: Tensor, sigmas: Tensor, conditions: Conditions, canvas: Canvas, guidance_scale: float
    ) -> Tensor:
        """Predict the velocity (B, L, C) at noise levels `sigmas` (B,)."""
        return self.denoiser(conditions, canvas, guidance_scale)(noisy_latents, sigmas)

    def denoiser(
        self, conditions: Conditions, canvas: Canvas, guidance_scale: float, kept: Kept | None = None
    ) -> Denoise:
        """Make `velocity` under conditions that stay. `kept` holds what was remembered of the references."""
        self.prepare(self.transformer)  # it may have been loaded anew: quantised, or from a saved pipeline
        transformer = self.transformer if self.wrapped is None else self.wrapped
        references, text = conditions.cond_latents.to(self.dtype), tuple(t.to(self.dtype) for t in conditions.text)
        ids, reference_ids = self._places(canvas, references.shape[1])
        kept = Kept() if kept is None else kept

        def full(noisy: Tensor, sigmas: Tensor) -> Tensor:
            tokens, places = torch.cat([noisy.to(self.dtype), references], dim=1), torch.cat([ids, reference_ids])
            velocity = self.family.velocity(transformer, tokens, places, sigmas, text, guidance_scale)
            return velocity[:, : noisy.shape[1]]

        def cached(noisy: Tensor, sigmas: Tensor) -> Tensor:
            velocity, kept.memory = self.family.remembering_velocity(
                transformer, noisy.to(self.dtype), ids, references, reference_ids, sigmas, text, guidance_scale,
                kept.memory,
            )  # fmt: skip
            return velocity

        return cached if self.attention == "cached" else full

    def panels(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Give decoded pixels as they are: the reference is not drawn."""
        return pixels, None

    def without_lora(self) -> AbstractContextManager[None]:
        """Within it, `velocity` is that of the weights below the LoRA."""
        return lora_off(self.transformer)

    def prepare(self, transformer: Any) -> None:
        """Let the blocks keep the references' keys and values."""
        if self.attention == "cached":
            self.family.allow_memory(transformer)

    def fits(self, transformer: Any) -> bool:
        """Tell whether the input is that of the base."""
        return bool(transformer.config.in_channels == transformer.out_channels)

    def _places(self, canvas: Canvas, num_cond_tokens: int) -> tuple[Tensor, Tensor]:
        """Place what is drawn, (L, 3), and the references, (R, 3)."""
        return RULES[self.positions](canvas.rows, canvas.columns, num_cond_tokens // canvas.num_tokens)
