"""The settings of `dsd-train`: configs/train.yaml."""

import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import MISSING, DictConfig, OmegaConf

from dsd.errors import UserError
from dsd.io.files import resolve
from dsd.models.settings import Kind, ModelSettings, StudentSettings
from dsd.runs.settings import ShardSettings, check_path, setting


class Mode(Enum):
    """Train, or only fill the cache."""

    train = "train"
    encode = "encode"


class Cached(Enum):
    """What is encoded once and kept in cache_dir, see `dsd.train.data.cache`."""

    all = "all"
    latents = "latents"
    off = "off"


class Fit(Enum):
    """How a picture is fitted into a panel, see `dsd.models.canvas.to_pixels`."""

    crop = "crop"
    pad = "pad"
    stretch = "stretch"


class Precision(Enum):
    """Automatic mixed precision, by accelerate's names."""

    no = "no"
    bf16 = "bf16"
    fp16 = "fp16"


class Trainable(Enum):
    """The quantisations through which gradients pass, see `dsd.models.quantize`."""

    none = "none"
    nf4 = "nf4"
    int8 = "int8"
    fp8_weights = "fp8_weights"


class Logger(Enum):
    """Where metrics go beside metrics.jsonl."""

    wandb = "wandb"
    tensorboard = "tensorboard"


class Targets(Enum):
    """Which matrices get a LoRA, see `dsd.models.adapter.TARGETS`."""

    attention = "attention"
    all_linear = "all_linear"


@dataclass
class LoraSettings:
    """The LoRA that is trained."""

    rank: int = setting("of the LoRA; 0 trains the whole transformer", least=0)
    alpha: float | None = setting("the LoRA is scaled by alpha / rank; null: alpha = rank", above=0)
    targets: Targets = setting("matrices with a LoRA: attention (the released set) or all_linear")
    use_rslora: bool = setting("scale by alpha / sqrt(rank) (arXiv 2312.03732)")
    use_dora: bool = setting("train magnitudes apart from directions (arXiv 2402.09353)")


_HOW: dict[str, Any] = {"changes_results": False}
UNIT = 16  # pixels of a token: panels are whole tokens high and wide
BELOW: dict[str, dict[str, float]] = {  # ranges of numbers below a group
    "sigmas.std": {"least": 0}, "sigmas.shift": {"above": 0}, "objective.beta": {"above": 0},
    "optimizer.weight_decay": {"least": 0}, "optimizer.eps": {"above": 0}, "data.num": {"least": 1},
    "data.panel": {"least": 1}, "data.border": {"least": 0}, "data.scenes.mip": {"least": 0},
    "data.scenes.references": {"least": 1}, "data.scenes.mix": {"least": 0}, "data.scenes.seed": {"least": 0},
    "validation.every": {"least": 1},
    "validation.artist.num_inference_steps": {"least": 1}, "validation.artist.batch_size": {"least": 1},
    "validation.artist.height": {"least": UNIT}, "validation.artist.width": {"least": UNIT},
}  # fmt: skip
NUMBERS = (*BELOW, "sigmas.mean", "data.least_quality", "data.least_score")


@dataclass
class TrainSettings(ShardSettings):
    """Train a student on pairs: an adapter that draws a reference's subject anew (paper, section 3.3)."""

    examples: ClassVar[tuple[str, ...]] = (
        "dsd-train pairs=outputs/pairs output_dir=outputs/train",
        "dsd-train experiment=toybox_demo/train validation=toybox num_steps=600",
        "torchrun --nproc_per_node 8 -m dsd.train experiment=paper/train launcher=fsdp2 accumulation=5",
    )
    mode: Mode = setting("train, or encode: only fill the cache, divided by shard= and num_shards=", **_HOW)
    pairs: str = setting("folder of dsd-curate, for data=curated and data=preferences", **_HOW)
    cache: Cached = setting("encoded once and kept: all, latents (captions are encoded at every step) or off", **_HOW)
    cache_dir: str = setting("latents and embeddings, named by content; runs may share it", **_HOW)
    buckets: list[list[int]] | None = setting(
        "panel sizes such as [[512,512],[576,448]]: each pair takes the one nearest to its target's proportions; "
        "null: the model's panel", None, least=1,
    )  # fmt: skip
    fit: Fit = setting("of pictures into panels, as at inference: crop, pad or stretch")
    seed: int = setting("of the shuffles, noise, noise levels, dropout and LoRA", least=0, most=2**63 - 1)
    num_steps: int = setting("optimiser steps", least=1)
    batch_size: int = setting("pairs of a whole step: all processes and micro-batches together", least=1)
    accumulation: int = setting(
        "micro-batches of a step in each process; weights are equal up to rounding", least=1, **_HOW
    )
    learning_rate: float = setting("between warm-up and decay", above=0)
    warmup_steps: int = setting("first steps, in which the rate rises from 0", least=0)
    decay: float = setting("share of the steps, at the end, in which the rate falls to 0", least=0, most=1)
    max_grad_norm: float = setting("longer gradients are shortened to it", above=0)
    guidance_scale: float = setting("what the distilled guidance embedding sees in training", least=0)
    text_dropout: float = setting("share of samples with the empty prompt", least=0, most=1)
    condition_dropout: float = setting("share of samples without reference, drawn independently", least=0, most=1)
    instruction_ratio: float = setting("share of captions that are instructions, not descriptions", least=0, most=1)
    reference_loss_weight: float = setting("of the canvas's left panel: 1 is the paper's, 0 the target alone", least=0)
    init_adapter: str | None = setting("adapter to begin from; the LoRA is trained over it", None, **_HOW)
    ema_half_life: float | None = setting("of a moving average of the weights, in samples", None, above=0)
    mixed_precision: Precision = setting("no, bf16 or fp16")
    activation_gb: float | None = setting(
        "what activations may take; as many blocks are computed twice as that needs; weights are equal up to rounding",
        None, least=0, **_HOW,
    )  # fmt: skip
    compile: bool = setting("compile the repeated blocks; weights are equal up to rounding", **_HOW)
    checkpoint_every: int = setting("steps between checkpoints", least=1, **_HOW)
    keep_checkpoints: int = setting("the last checkpoints that stay, beside the best", least=1, **_HOW)
    timeout_minutes: float = setting(
        "longest wait of a process for the others; then all end, and the same command goes on", above=0, most=10_000,
        **_HOW,
    )  # fmt: skip
    log_every: int = setting("steps between lines of metrics.jsonl", least=1, **_HOW)
    loggers: list[Logger] = setting("more places for metrics: [wandb], [tensorboard] or both", factory=list, **_HOW)
    quantization: Trainable = setting("fewer bits a frozen weight (QLoRA): none, nf4, int8 or fp8_weights")
    lora: LoraSettings = MISSING
    model: ModelSettings = setting("base model", group=True)
    student: StudentSettings = setting("how the base takes references: canvas or tokens", group=True)
    data: Any = setting("where pairs come from", group=True, ignored=("path", "paths", "negatives", "captions"))
    objective: Any = setting("what is minimised", group=True)
    sigmas: Any = setting("how noise levels are drawn", group=True)
    optimizer: Any = setting("optimiser", group=True)
    launcher: Any = setting(
        "how the processes that torchrun starts share the work; weights are equal up to rounding", group=True, **_HOW
    )
    validation: Any = setting("pictures drawn and measured while training", None, group=True, **_HOW)
    card: Any = setting("judge card, where validation measures by a vision-language model", None, group=True, **_HOW)
    vlm: Any = setting("vision-language model, where validation measures by one", None, group=True, **_HOW)

    @staticmethod
    def check(cfg: DictConfig) -> None:
        """Refuse settings that do not go together, and folders that are not there."""
        check_below_groups(cfg)
        refuse_odd_sizes(cfg.buckets)
        if cfg.num_shards > 1 and cfg.mode is Mode.train:
            raise UserError(f"num_shards={cfg.num_shards} divides mode=encode alone; training is divided by launcher=")
        refuse_uneven(cfg.batch_size, cfg.accumulation)
        if cfg.student.kind is Kind.tokens and cfg.lora.rank == 0:
            raise UserError("student=tokens is written as a LoRA; lora.rank=0 (the whole transformer) is for a canvas")
        if cfg.quantization is not Trainable.none and cfg.lora.rank == 0:
            raise UserError(
                f"quantization={cfg.quantization.value} is for a LoRA; lora.rank=0 trains the whole transformer"
            )
        if cfg.quantization is Trainable.nf4 and cfg.device == "cpu":
            raise UserError(NEEDS_GPU)
        if OmegaConf.select(cfg, "data.path") == cfg.pairs:  # other sets do not read it
            check_path("pairs", cfg.pairs, "curation")
        if cfg.init_adapter is not None and not adapter_file(cfg.init_adapter).is_file():
            raise UserError(
                f"init_adapter={cfg.init_adapter}: no such adapter; train one with dsd-train, or give its folder"
            )


NEEDS_GPU = "quantization=nf4 needs a GPU (bitsandbytes); use quantization=int8 or fp8_weights on a CPU"


def check_below_groups(cfg: DictConfig) -> None:
    """Check the numbers of the chosen groups: their kind and their range."""
    for key in NUMBERS:
        value = OmegaConf.select(cfg, key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{key}={value}: a number is needed")
        bounds = BELOW.get(key, {})
        if value < bounds.get("least", value):
            raise UserError(f"{key}={value}: at least {bounds['least']} is needed")
        if "above" in bounds and value <= bounds["above"]:
            raise UserError(f"{key}={value}: more than {bounds['above']} is needed")


def refuse_odd_sizes(buckets: Any) -> None:
    """Raise UserError where a panel size is no pair of multiples of 16."""
    for size in buckets or ():
        if len(size) != 2 or any(number % UNIT for number in size):
            raise UserError(f"buckets: {list(size)} is no [height, width] of positive multiples of {UNIT} pixels")


def refuse_uneven(batch_size: int, accumulation: int) -> None:
    """Raise UserError where a step cannot be divided among the processes of torchrun."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if batch_size % (processes * accumulation):
        raise UserError(
            f"batch_size={batch_size} is not a multiple of {processes} processes x accumulation={accumulation}"
        )


def adapter_file(path: str) -> Path:
    """Find the adapter's file: in a folder of dsd-train, or the file itself."""
    where = Path(resolve(path))
    return where / "adapter.safetensors" if where.is_dir() else where
