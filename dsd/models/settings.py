"""The settings of every stage that say which base model is used and at which size: `configs/model/*.yaml`."""

from dataclasses import dataclass
from enum import Enum

from omegaconf import II

from dsd.runs.settings import setting

MOST_REFERENCES = 4  # of one picture
GGUF_KINDS = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")  # what the package gguf quantises to, by falling size


class Quantization(Enum):
    """Fewer bits a weight, see `dsd.models.quantize`."""

    none = "none"
    int8 = "int8"
    fp8 = "fp8"
    fp8_weights = "fp8_weights"
    nf4 = "nf4"
    gguf = "gguf"


class Kind(Enum):
    """How a student takes references, see `dsd.models.student`."""

    canvas = "canvas"
    tokens = "tokens"


class Attention(Enum):
    """What reference tokens see, see `dsd.models.tokens`."""

    full = "full"
    cached = "cached"


@dataclass
class StudentSettings:
    """The kind of a student: `configs/student/*.yaml`."""

    kind: Kind = setting("canvas (the paper's: two panels, wide input) or tokens (references beside what is drawn)")
    positions: str | None = setting(
        "rule of the position ids: column, diagonal (UNO), kontext, flux2 or shared; null: the kind's or the family's",
        None,
    )
    attention: Attention | None = setting(
        "of reference tokens: cached (they see themselves alone, once a picture) or full; null: the family's own", None
    )


@dataclass
class ModelSettings:
    """A pipeline and how it is used. The tiny default and FLUX.1-dev differ in these values only."""

    name: str = setting("name of the base model")
    path: str = setting("pipeline folder, hub id, or pkg://package/folder")
    dtype: str = setting("of the weights: float32, bfloat16 or float16")
    panel_height: int = setting("of a panel, in pixels", least=16, most=16384)
    panel_width: int = setting("of a panel, in pixels", least=16, most=16384)
    max_sequence_length: int = setting("text tokens that the model reads of a caption", least=1, most=4096)
    num_inference_steps: int = setting("sampling steps", least=1)
    guidance_scale: float = setting("distilled guidance; true guidance where a model has that", least=-1e6, most=1e6)
    grid_sequence_length: int = setting(
        "text tokens that the model reads of a grid's prompt", II(".max_sequence_length"), least=1, most=4096
    )
    distilled: bool = setting(
        "distilled to few steps: it takes adapters that were trained on its base, and is no base of a training", False
    )
    license: str = setting(
        "licence of the weights at path, in the hub's names; manifests and data cards name it", "other",
        changes_results=False,
    )  # fmt: skip
