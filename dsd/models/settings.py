"""The settings of every stage that say which base model is used and at which size: `configs/model/*.yaml`."""

from dataclasses import dataclass
from enum import Enum

from dsd.runs.settings import setting


class Quantization(Enum):
    """Fewer bits a weight, see `dsd.models.quantize`."""

    none = "none"
    int8 = "int8"
    fp8 = "fp8"
    fp8_weights = "fp8_weights"
    nf4 = "nf4"
    gguf = "gguf"


@dataclass
class ModelSettings:
    """A pipeline and how it is used. The tiny default and FLUX.1-dev differ in these values only."""

    name: str = setting("name of the base model")
    path: str = setting("pipeline folder, hub id, or pkg://package/folder")
    dtype: str = setting("of the weights: float32, bfloat16 or float16")
    panel_height: int = setting("of a panel, in pixels", least=16)
    panel_width: int = setting("of a panel, in pixels", least=16)
    max_sequence_length: int = setting("text tokens that the model reads", least=1)
    num_inference_steps: int = setting("sampling steps", least=1)
    guidance_scale: float = setting("distilled guidance")
