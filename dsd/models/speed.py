"""Prepare a transformer to run fast: configs/speed/*.yaml. `exact` changes pictures by rounding alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch._dynamo
from diffusers import DiffusionPipeline, FirstBlockCacheConfig
from torch import nn

from dsd.errors import UserError

Item = TypeVar("Item")
MOST_GRAPHS = 128  # of a kind of block; torch's own limit of 8 is few for several sizes, guided and plain
# classes whose texts have lengths of their own: torch makes one graph for all lengths when it has seen two
LENGTHS_VARY = ("QwenImageTransformer2DModel", "ZImageTransformer2DModel")


@dataclass(frozen=True)
class Speed:
    """What is done once, before the first picture."""

    name: str
    fuse: bool  # merge LoRA into the weights
    compile: bool | None  # the blocks (about a minute). None: for many pictures on a GPU
    attention_backend: str | None  # a name of diffusers, such as _native_cudnn; None: torch's choice
    precompute: bool  # compute what no step changes once for a picture, see `dsd.pipeline.precompute`
    step_cache: float | None  # threshold of diffusers' FirstBlockCache; None: compute every step

    def __call__(self, pipeline: DiffusionPipeline, device: torch.device, many: bool = False) -> None:
        """Prepare the transformer of a pipeline that will run on `device`, for one picture or for many."""
        transformer = pipeline.transformer
        if self.attention_backend is not None:
            try:
                transformer.set_attention_backend(self.attention_backend)
            except (ValueError, RuntimeError, ImportError) as error:
                reason = str(error).strip().splitlines()[0]
                raise UserError(f"speed.attention_backend={self.attention_backend}: {reason}") from error
        if self.step_cache is not None:
            transformer.enable_cache(FirstBlockCacheConfig(threshold=self.step_cache))
        if self.compile or (self.compile is None and many and device.type == "cuda"):
            compile_blocks(transformer)


def compile_blocks(transformer: Any, **options: Any) -> None:
    """Compile the repeated blocks: a graph for each shape that they meet, which is faster than one for any shape.

    `options` are those of `torch.compile`. More than `MOST_GRAPHS` shapes are no error: the others run uncompiled.
    """
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, MOST_GRAPHS)
    dynamic = None if type(transformer).__name__ in LENGTHS_VARY else False
    transformer.compile_repeated_blocks(dynamic=dynamic, **options)


def is_compiled(transformer: nn.Module) -> bool:
    """Tell whether `compile_blocks` was called on a transformer."""
    return any(module._compiled_call_impl is not None for module in transformer.modules())


def filled(items: Sequence[Item], num: int) -> list[Item]:
    """Repeat the last item until there are `num`, so that compiled blocks meet one size of batch alone."""
    return [*items, *[items[-1]] * (num - len(items))]
