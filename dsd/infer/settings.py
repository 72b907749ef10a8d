"""The settings of `dsd-infer`: configs/infer.yaml."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import MISSING, DictConfig, ListConfig

from dsd.errors import UserError
from dsd.io.files import resolve
from dsd.io.hub import names_repo
from dsd.lights import preset
from dsd.models.settings import GGUF_KINDS, MOST_REFERENCES, ModelSettings, Quantization
from dsd.runs.settings import ShardSettings, check_path, setting


class Offload(Enum):
    """Where weights wait while they are not used, see `dsd.pipeline.offload`."""

    none = "none"
    model = "model"
    sequential = "sequential"
    group = "group"


class Fit(Enum):
    """How a picture is fitted into a panel, see `dsd.models.canvas.to_pixels`."""

    crop = "crop"
    pad = "pad"
    stretch = "stretch"


@dataclass
class DrawingSettings:
    """How a picture is drawn, by the pipeline's own names."""

    height: int = setting("of the output, in pixels; a multiple of 16", least=16, most=16384)
    width: int = setting("of the output, in pixels; a multiple of 16", least=16, most=16384)
    num_inference_steps: int = setting("sampling steps", least=1)
    guidance_scale: float = setting("distilled guidance", least=-1e6, most=1e6)
    image_guidance_scale: float = setting("how strongly the reference steers; 1 is no extra pass", least=-1e6, most=1e6)
    text_guidance_scale: float = setting("how strongly the prompt steers; 1 is no extra pass", least=-1e6, most=1e6)
    negative_prompt: str = setting("prompt of the passes without text")
    no_cfg_until_timestep: int = setting("first steps that take the plain conditional pass", least=0)
    norm_balanced: bool = setting("shorten the longer of the two guidance differences (SynCD)")
    guidance_batching: bool | None = setting(
        "passes as one batch; null: what speed= needs; changes pictures by rounding alone", changes_results=False
    )
    fit: Fit = setting("of references into the panel: crop, pad or stretch")
    max_sequence_length: int = setting("text tokens that the model reads", least=1, most=4096)


DESCRIBE = (
    "Describe this image as a prompt for a text-to-image model, in one line of at most 77 tokens: the main "
    "subject first, with every visible trait that makes it recognisable (kind, shape, colours, materials, "
    "markings, clothing, accessories), then environment, pose, lighting, camera and style. Answer with the "
    "prompt alone."
)
ENRICH = (
    "A text-to-image model redraws the subject of a reference image in a new context. The reference: "
    '"{description}". The user asks for: "{prompt}". Enrich the user\'s prompt with the details of the '
    "subject, and only those: keep everything the user wrote, contradict none of it, and do not take over the"
    " reference's environment or pose. One line of at most 77 tokens. Answer with the prompt alone."
)


@dataclass
class EnhanceSettings:
    """The wording of the two calls that enhance a prompt."""

    describe: str = setting("asks for a description of the reference", DESCRIBE)
    enrich: str = setting("asks for the enriched prompt; {description} and {prompt} are filled in", ENRICH)


@dataclass
class WeightSettings:
    """Which weights draw, how they are held in memory, and what enhances prompts: of `dsd-infer` and `dsd-app`."""

    adapter: str | None = setting(
        "folder of dsd-train, its adapter.safetensors, or user/name on the hub", None, changes_results=False
    )
    transformer: str | None = setting(
        "released layout: folder of the transformer, or user/name on the hub (with its LoRA)", None,
        changes_results=False,
    )  # fmt: skip
    lora_weights: str | None = setting("released layout: file of the LoRA", None, changes_results=False)
    style_loras: list[str] = setting("LoRAs of others on top: file or hub id, each with :weight", factory=list)
    offload: Offload = setting(
        "where weights wait: none, model, sequential, group; changes pictures by rounding alone", changes_results=False
    )
    quantization: Quantization = setting("fewer bits a weight: none, int8, fp8, fp8_weights, nf4, gguf")
    quantized_parts: list[str] = setting("parts of the pipeline that int8 and fp8 change")
    gguf_kind: str = setting("Q8_0, Q5_1, Q5_0, Q4_1 or Q4_0, of quantization=gguf")
    cache_dir: str = setting("answers of vlm=", changes_results=False)
    settings: DrawingSettings = MISSING
    enhance: EnhanceSettings = field(default_factory=EnhanceSettings)
    model: ModelSettings = setting("base model", group=True)
    speed: Any = setting(
        "how the transformer is prepared (speed.compile changes pictures by rounding alone)",
        group=True,
        ignored=("compile",),
    )
    vlm: Any = setting("language model that enhances prompts", None, group=True, ignored=("cache", "limits"))


@dataclass
class InferSettings(WeightSettings, ShardSettings):
    """Draw the subject of a reference picture in a new context, for one picture or a whole set of jobs."""

    examples: ClassVar[tuple[str, ...]] = (
        'dsd-infer image=examples/critter-1.png prompt="a white tall critter, beach" adapter=outputs/demo/train',
        "dsd-infer adapter=outputs/demo/train jobs=folder jobs.path=references output_dir=outputs/drawn",
        "dsd-infer -m image=a.png prompt=beach adapter=outputs/train settings.image_guidance_scale=1,1.5,2",
    )
    image: Any = setting("a reference; for a student with reference tokens also several: [a.png,b.png]", None)
    prompt: str | None = setting("what to draw of it", None)
    preset: str | None = setting(
        "a light or style of dsd/lights.yaml in place of a prompt: golden_hour", None, null_is_absent=True
    )
    output: str | None = setting("file of the one picture; null: a name in output_dir", None, changes_results=False)
    seed: int = setting("of the first picture's noise", least=0, most=2**63 - 1)
    batch_size: int = setting(
        "pictures drawn at once; changes pictures by rounding alone, 1 grey level of 255",
        least=1,
        changes_results=False,
    )
    rows_per_shard: int = setting("jobs of a shard, the unit of resuming", least=1)
    png: bool = setting("write every result of a set as a PNG as well", True, changes_results=False)
    verbose: bool = setting("say where the time went (also -v)", False, changes_results=False)
    method: Any = setting("what draws", group=True)
    jobs: Any = setting("a set of references and prompts", None, group=True, ignored=("path",))

    @staticmethod
    def check(cfg: DictConfig) -> None:
        """Refuse settings that do not go together, and files that are not there."""
        check_sizes(cfg)
        check_sources(cfg)
        check_speed(cfg)
        if cfg.method.takes_adapter:
            check_weights(cfg)


def check_sizes(cfg: DictConfig) -> None:
    """Refuse sizes that no model draws."""
    for name in ("height", "width"):
        if cfg.settings[name] % 16:
            raise UserError(f"settings.{name}={cfg.settings[name]}: a positive multiple of 16 is needed")


def check_speed(cfg: DictConfig) -> None:
    """Refuse values of speed= and gguf_kind= that are unknown."""
    threshold = cfg.speed.get("step_cache")
    if threshold is not None and not (isinstance(threshold, int | float) and threshold > 0):
        raise UserError(f"speed.step_cache={threshold}: a number above 0 is needed, or null for none")
    if cfg.gguf_kind not in GGUF_KINDS:
        raise UserError(f"gguf_kind={cfg.gguf_kind} is unknown; choose one of {', '.join(GGUF_KINDS)}")


def check_weights(cfg: DictConfig) -> None:
    """Refuse ways to hold the weights that do not go together, and an adapter that is not there."""
    quantization = cfg.quantization.value
    if quantization != "none" and not cfg.speed.fuse:
        raise UserError(f"quantization={quantization} needs fused LoRA; leave speed.fuse=true")
    if cfg.offload is Offload.sequential and quantization != "none":
        raise UserError(
            "offload=sequential takes every layer's weights apart, which quantised weights do not survive "
            f"(quantization={quantization}); use offload=model or offload=group"
        )
    if cfg.offload is Offload.group and quantization == "nf4":
        raise UserError("offload=group cannot move bitsandbytes' weights; use offload=model with nf4")
    if cfg.adapter is not None and cfg.transformer is not None:
        raise UserError("give either adapter= (of dsd-train) or transformer= (a released folder)")
    if cfg.adapter is not None and not names_repo(cfg.adapter):
        path = Path(resolve(cfg.adapter))
        if not (path if path.suffix else path / "adapter.safetensors").is_file():
            raise UserError(f"{path}: no such adapter; train one with dsd-train, or give adapter=its/folder")


def images_of(image: Any) -> list[str]:
    """List the references of one picture. UserError where it is no name, or no list of few."""
    images = list(image) if isinstance(image, ListConfig | list) else [image]
    if not all(isinstance(one, str) and one for one in images):
        raise UserError(f"image={image}: give the file of a picture, or several as [a.png,b.png]")
    if not 0 < len(images) <= MOST_REFERENCES:
        raise UserError(f"image: {len(images)} references; a picture takes 1 to {MOST_REFERENCES}")
    return images


def prompt_of(cfg: DictConfig) -> str:
    """Give the prompt of a single picture: as it is, or the phrase of a preset. UserError where that is unknown."""
    said: str = cfg.prompt if cfg.preset is None else preset(cfg.preset)
    return said


def check_sources(cfg: DictConfig) -> None:
    """Refuse a run without a picture and a prompt, or without jobs."""
    if cfg.jobs:
        return
    if cfg.prompt is not None and cfg.preset is not None:
        raise UserError(f"prompt={cfg.prompt} and preset={cfg.preset}: give one of them")
    if cfg.image is None or (cfg.prompt is None and cfg.preset is None):
        raise UserError("nothing to draw: give image=reference.png prompt='...', or jobs=folder|jsonl|parquet|toybox")
    if not prompt_of(cfg).strip():
        raise UserError("prompt is empty; say what to draw")
    for image in images_of(cfg.image):
        if not Path(image).is_file():
            raise UserError(f"image={image}: no such picture")
    if cfg.lora_weights is not None:
        check_path("lora_weights", cfg.lora_weights, "file")
