"""How fast a transformer runs: configs/speed/*.yaml. `exact` changes no picture but by rounding; `cached` does."""

from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline, FirstBlockCacheConfig

from dsd.errors import UserError


@dataclass(frozen=True)
class Speed:
    """What is done once, before the first picture."""

    name: str
    fuse: bool  # merge LoRA into the weights
    compile: bool | None  # the blocks, each kind once; worth its minute for many pictures. None: those, on a GPU
    attention_backend: str | None  # diffusers' names, such as _native_cudnn; None leaves torch's choice
    precompute: bool  # modulations, projected text and positions once for a picture (the student's pipeline)
    step_cache: float | None  # threshold of diffusers' FirstBlockCache; None computes every step

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
