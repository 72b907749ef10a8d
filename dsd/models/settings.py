"""The part of every stage's config that says which model and at which size: `configs/model/*.yaml`."""

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class ModelConfig:
    """A FLUX-like pipeline and how it is used. The tiny default and FLUX.1-dev differ in these values only."""

    name: str = MISSING
    path: str = MISSING  # pipeline folder, hub id, or pkg://package/folder
    dtype: str = MISSING  # of the weights: float32, bfloat16, float16
    panel_height: int = MISSING  # pixels
    panel_width: int = MISSING
    max_sequence_length: int = MISSING  # T5 tokens
    num_inference_steps: int = MISSING
    guidance_scale: float = MISSING  # distilled guidance
