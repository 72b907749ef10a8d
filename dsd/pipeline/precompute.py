"""Compute before the first step what no step changes: exact, by the transformer's own modules.

FLUX's modulations (AdaLN) are a quarter of its weights and see one vector a sample: time, guidance and pooled text.
All of that is known when a picture begins, so one matmul serves all steps. Position embeddings and the projected text
do not change at all. Shapes: S steps, B samples, D inner dimension, M modulations of a norm.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from types import TracebackType
from typing import Any, Self

import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.normalization import AdaLayerNormContinuous, AdaLayerNormZero, AdaLayerNormZeroSingle
from torch import Tensor, nn

MODULATED = (AdaLayerNormZero, AdaLayerNormZeroSingle, AdaLayerNormContinuous)


class Known(nn.Module):
    """Return a value that was computed before."""

    def __init__(self) -> None:
        super().__init__()
        self.value: Any = None

    def forward(self, _: Tensor) -> Any:
        return self.value


class Precomputed:
    """While entered, `transformer` reads modulations, projected text and position embeddings instead of computing them.

    Make one for a pipeline and enter it for each picture (`with precomputed.at(ids):`): the stand-ins are the same
    objects every time, which compiled blocks need.
    """

    def __init__(self, transformer: FluxTransformer2DModel) -> None:
        self.transformer = transformer
        self.norms: list[Any] = [module for module in transformer.modules() if isinstance(module, MODULATED)]
        self.known = [Known() for _ in self.norms]
        self.rope, self.same = Known(), nn.Identity()
        self.kept: tuple[Any, ...] = ()

    def at(self, ids: Tensor) -> Self:
        """Set the positions of text and image tokens, (T + L, 3)."""
        embed: Any = self.kept[0] if self.kept else self.transformer.pos_embed
        self.rope.value = embed(ids)
        return self

    def __enter__(self) -> Self:
        transformer: nn.Module = self.transformer  # whose own type knows the modules that stand there
        self.kept = (transformer.pos_embed, transformer.context_embedder, [norm.linear for norm in self.norms])
        transformer.pos_embed, transformer.context_embedder = self.rope, self.same
        for norm, known in zip(self.norms, self.known, strict=True):
            norm.linear = known
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.transformer.pos_embed, self.transformer.context_embedder, linears = self.kept
        for norm, linear, known in zip(self.norms, linears, self.known, strict=True):
            norm.linear, known.value = linear, None
        self.rope.value, self.kept = None, ()

    def text(self, prompt_embeds: Tensor) -> Tensor:
        """Project the text: (B, T, text width) -> (B, T, D)."""
        projected: Tensor = self.kept[1](prompt_embeds)
        return projected

    def modulations(self, sigmas: Tensor, steps: range, guidance_scale: float, pooled: Tensor) -> Callable[[int], None]:
        """For sigmas (S, B) at `steps`, make a function that puts a step's modulations where the blocks read them."""
        inputs = [sigmas[steps.start : steps.stop].flatten() * 1000]  # as the transformer's forward scales them
        if self.transformer.config["guidance_embeds"]:
            inputs.append(torch.full_like(inputs[0], guidance_scale) * 1000)
        embedded = self.transformer.time_text_embed(*inputs, pooled.repeat(len(steps), 1))
        tables = [
            linear(norm.silu(embedded)).unflatten(0, (len(steps), -1))
            for norm, linear in zip(self.norms, self.kept[2], strict=True)
        ]
        all_steps = torch.cat(tables, dim=-1)  # (S, B, sum of M)
        current = torch.empty_like(all_steps[0])
        views = current.split([table.shape[-1] for table in tables], dim=-1)

        def modulate(step: int) -> None:
            current.copy_(all_steps[step - steps.start])
            for known, view in zip(self.known, views, strict=True):
                known.value = view

        return modulate


@contextmanager
def ahead(pipeline: Any, precomputed: Precomputed) -> Iterator[None]:
    """Let the next call of diffusers' own `FluxPipeline` compute the modulations of all steps at its first step."""
    steps = count()
    modulate: Callable[[int], None] | None = None
    text: Tensor | None = None

    def before(_: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        nonlocal modulate, text
        if modulate is None:
            latents = inputs["hidden_states"]
            precomputed.at(torch.cat([inputs["txt_ids"], inputs["img_ids"]]))
            timesteps = pipeline.scheduler.timesteps.to(latents.dtype)[:, None].expand(-1, len(latents))
            pooled, all_steps = inputs["pooled_projections"], range(len(timesteps))
            modulate = precomputed.modulations(timesteps / 1000, all_steps, pipeline.guidance_scale, pooled)
            text = precomputed.text(inputs["encoder_hidden_states"])
        modulate(next(steps))
        return args, {**inputs, "encoder_hidden_states": text}

    hook = pipeline.transformer.register_forward_pre_hook(before, with_kwargs=True)
    try:
        with precomputed:
            yield
    finally:
        hook.remove()
