"""The student: a text-to-image transformer that also takes reference pictures.

Objective, sampler, cache and exporter know it by the protocol `Student`. There are two kinds. `CanvasStudent` is the
paper's: FLUX.1 with a widened input, which draws a canvas of two panels. `TokenStudent` (in `tokens.py`) appends the
references as tokens, as all of today's open models do. A student without a transformer knows its geometry and how
pictures are encoded for it. Shapes: B batch, L tokens of what is drawn, R tokens of the condition, C channels of a
token, N references of a picture, T text tokens.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dsd.errors import UserError
from dsd.models.canvas import BLACK, Canvas, canvas_of
from dsd.models.conditional import is_conditional, split
from dsd.models.families import Family, Text
from dsd.models.families.flux1 import FAMILY as FLUX1

Denoise = Callable[[Tensor, Tensor], Tensor]  # noisy latents (B, L, C), noise levels (B,) -> velocity (B, L, C)


@dataclass(frozen=True)
class Conditions:
    """What a pass of the transformer is conditioned on."""

    cond_latents: Tensor  # (B, R, C) references, never noised; zero for none
    text: Text  # what the family's text encoders say, (B, ...) each

    @staticmethod
    def stack(passes: list["Conditions"]) -> "Conditions":
        """Put several passes into one batch."""
        texts = zip(*(p.text for p in passes), strict=True)
        return Conditions(torch.cat([p.cond_latents for p in passes]), tuple(map(torch.cat, texts)))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Conditions":
        """Change every tensor."""
        return Conditions(change(self.cond_latents), tuple(map(change, self.text)))


@dataclass
class Kept:
    """What a denoiser remembers of its references: nothing at first."""

    memory: Any = None


class Student(Protocol):
    """Predicts velocities of what is drawn from references and a text."""

    @property
    def kind(self) -> str: ...  # canvas or tokens

    @property
    def family(self) -> Family: ...

    @property
    def transformer(self) -> Any: ...

    def num_tokens(self, canvas: Canvas, num_references: int = 1) -> int:
        """Count the image tokens of a pass."""
        ...

    @property
    def encodings(self) -> tuple[str, str]: ...  # names of what `drawn` and `condition` give, in the cache

    @property
    def most_references(self) -> int: ...  # of a picture

    @property
    def precomputable(self) -> bool: ...  # whether `dsd.pipeline.precompute` serves all of its passes

    @property
    def step_cacheable(self) -> bool: ...  # whether each step can be compared with the one before

    def about(self) -> dict[str, str]:
        """Describe the kind for an adapter's metadata."""
        ...

    def canvas(self, height: int, width: int) -> Canvas:
        """Make the canvas for an output of height x width pixels."""
        ...

    def drawn(self, vae: Any, references: Tensor, targets: Tensor) -> Tensor:
        """Encode what is learnt to be drawn, (B, L, C), from references (B, N, 3, H, W) and targets (B, 3, H, W)."""
        ...

    def drawn_key(self, references: str, target: str) -> str:
        """Name what `drawn` gives by the keys of its pictures."""
        ...

    def condition(self, vae: Any, references: Tensor) -> Tensor:
        """Encode references (B, N, 3, H, W) to `cond_latents` (B, R, C)."""
        ...

    def ids(self, canvas: Canvas, num_cond_tokens: int) -> Tensor:
        """Give the position ids (N, 3) of all image tokens of a pass without a memory."""
        ...

    def velocity(
        self, noisy_latents: Tensor, sigmas: Tensor, conditions: Conditions, canvas: Canvas, guidance_scale: float
    ) -> Tensor:
        """Predict the velocity (B, L, C) at noise levels `sigmas` (B,)."""
        ...

    def denoiser(
        self, conditions: Conditions, canvas: Canvas, guidance_scale: float, kept: Kept | None = None
    ) -> Denoise:
        """Make `velocity` under conditions that stay. `kept` is filled with what it remembers of the references."""
        ...

    def panels(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Cut decoded pixels (B, 3, H, W) into the output and, where it is drawn too, the reference."""
        ...

    def without_lora(self) -> AbstractContextManager[None]:
        """Within it, `velocity` is that of the weights below the LoRA."""
        ...

    def prepare(self, transformer: Any) -> None:
        """Make a base's transformer take references, in place, before a LoRA is added."""
        ...

    def fits(self, transformer: Any) -> bool:
        """Tell whether a transformer takes references as this kind gives them."""
        ...


@dataclass(frozen=True)
class CanvasStudent:
    """FLUX.1 whose input holds the noisy latents and the condition latents of one canvas (paper, section 3.3)."""

    transformer: Any = None  # diffusers' FluxTransformer2DModel
    dtype: torch.dtype = torch.float32  # of the computation
    positions: str = "column"  # of the panels, see `Canvas.ids`
    vae_scale_factor: int = 8
    wrapped: Any = None  # the transformer as a launcher wrapped it for training
    family: Family = FLUX1
    kind: str = "canvas"
    most_references: int = 1
    precomputable: bool = True
    step_cacheable: bool = True
    encodings: tuple[str, str] = ("canvas", "condition")  # names of what `drawn` and `condition` give, in the cache

    def about(self) -> dict[str, str]:
        """Describe the kind for an adapter's metadata."""
        return {"kind": self.kind, "family": self.family.name, "positions": self.positions}

    def canvas(self, height: int, width: int) -> Canvas:
        """Make the canvas for an output of height x width pixels: the reference's panel and the output's."""
        return canvas_of(height, width, self.vae_scale_factor, panels=2)

    def num_tokens(self, canvas: Canvas, num_references: int = 1) -> int:
        """Count the image tokens of a pass: the canvas's."""
        return canvas.num_tokens

    def drawn(self, vae: Any, references: Tensor, targets: Tensor) -> Tensor:
        """Encode [reference | target] as one image, (B, L, C)."""
        return self.family.encode(vae, torch.cat([self._only(references), targets], dim=-1))

    def drawn_key(self, references: str, target: str) -> str:
        """Name what `drawn` gives by the keys of its pictures."""
        return references + target

    def condition(self, vae: Any, references: Tensor) -> Tensor:
        """Encode each reference beside a black panel as one image, (B, L, C)."""
        reference = self._only(references)
        return self.family.encode(vae, torch.cat([reference, torch.full_like(reference, BLACK)], dim=-1))

    def ids(self, canvas: Canvas, num_cond_tokens: int) -> Tensor:
        """Give the position ids (L, 3) of the canvas."""
        return canvas.ids(self.positions)

    def velocity(
        self, noisy_latents: Tensor, sigmas: Tensor, conditions: Conditions, canvas: Canvas, guidance_scale: float
    ) -> Tensor:
        """Predict the velocity (B, L, C) at noise levels `sigmas` (B,)."""
        return self.family.velocity(
            self.transformer if self.wrapped is None else self.wrapped,
            torch.cat([noisy_latents, conditions.cond_latents], dim=-1).to(self.dtype),
            canvas.ids(self.positions, noisy_latents.device, noisy_latents.dtype),
            sigmas,
            tuple(part.to(self.dtype) for part in conditions.text),
            guidance_scale,
        )

    def denoiser(
        self, conditions: Conditions, canvas: Canvas, guidance_scale: float, kept: Kept | None = None
    ) -> Denoise:
        """Make `velocity` under conditions that stay."""
        return lambda noisy, sigmas: self.velocity(noisy, sigmas, conditions, canvas, guidance_scale)

    def panels(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Cut a decoded canvas: the output is the right panel, the redrawn reference the left one."""
        reference, output = pixels.chunk(2, dim=-1)
        return output, reference

    def without_lora(self) -> AbstractContextManager[None]:
        """Within it, `velocity` is that of the weights below the LoRA."""
        return lora_off(self.transformer)

    def prepare(self, transformer: Any) -> None:
        """Widen the input."""
        split(transformer)

    def fits(self, transformer: Any) -> bool:
        """Tell whether the input is wide."""
        return is_conditional(transformer)

    def _only(self, references: Tensor) -> Tensor:
        refuse_too_many(references.shape[1], self)
        return references[:, 0]


def refuse_too_many(num: int, student: Student) -> None:
    """Raise UserError where a picture has more references than a student takes."""
    if num > student.most_references:
        hint = "; student=tokens takes several" if student.most_references == 1 else ""
        raise UserError(
            f"{num} references for a picture: student={student.kind} takes at most {student.most_references}{hint}"
        )


@contextmanager
def lora_off(transformer: Any) -> Iterator[None]:
    """Within it, a transformer's LoRA does nothing."""
    transformer.disable_lora()
    try:
        yield
    finally:
        transformer.enable_lora()
