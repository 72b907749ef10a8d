"""Prepare a transformer to run fast: configs/speed/*.yaml. `exact` changes pictures by rounding alone."""

from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline, FirstBlockCacheConfig

from dsd.errors import UserError


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
            transformer.compile_repeated_blocks(fullgraph=self.step_cache is None)
