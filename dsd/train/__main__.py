"""`dsd-train`: pairs -> adapter. Reads a curation folder or a public set; writes an adapter, checkpoints and curves."""

import functools
import logging
import math
import os
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.training_utils import cast_training_params
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig
from tqdm import tqdm
from transformers.integrations import unset_hf_deepspeed_config

from dsd.errors import UserError
from dsd.models.adapter import ADAPTER, TARGETS, build_student, describe, read_adapter, without_lora
from dsd.models.canvas import POSITIONS, canvas_tokens
from dsd.models.flops import lora_step_flops, matmul_flops
from dsd.models.loading import load_pipeline, load_without_encoders
from dsd.models.settings import ModelConfig
from dsd.runs.command import claim, resolved, stage
from dsd.runs.manifest import is_finished, write_manifest
from dsd.train.activations import checkpoint_blocks
from dsd.train.curves import plot_curves
from dsd.train.data.encoder import Encoder
from dsd.train.data.pairs import CACHES, open_pairs
from dsd.train.data.sampling import Sampling
from dsd.train.data.table import Size
from dsd.train.hooks import Checkpoint, Ema, Hook, Log
from dsd.train.launchers import Share, Sharing
from dsd.train.loop import Plan, train, velocity_model
from dsd.train.loss import Model
from dsd.train.stopping import Stopping
from dsd.train.student import Student
from dsd.train.validation import Validation

log = logging.getLogger(__name__)


class Mode(Enum):
    """Train, or only fill the cache: `shard=i num_shards=n` divide that."""

    train = "train"
    encode = "encode"


@dataclass
class LoraSettings:
    """configs/lora/*.yaml"""

    rank: int = MISSING  # 0: no LoRA, all of the transformer is trained
    alpha: float = MISSING
    targets: str = MISSING  # attention (the released set) or all_linear
    use_rslora: bool = False
    use_dora: bool = False


@dataclass
class TrainConfig:
    """configs/train.yaml."""

    output_dir: str = MISSING
    experiment: str | None = None
    mode: Mode = Mode.train
    shard: int = 0
    num_shards: int = 1
    pairs: str = MISSING  # output_dir of dsd-curate, for data=curated
    data: Any = MISSING  # -> train.sources.PairSource
    cache: str = MISSING  # all, latents or off
    cache_dir: str = MISSING  # latents and embeddings, named by content; may be shared by runs
    buckets: list[list[int]] | None = None  # [height, width] of panels; none: the model's panel alone
    fit: str = MISSING
    seed: int = MISSING
    num_steps: int = MISSING
    batch_size: int = MISSING  # of a whole step: all processes and micro-batches together
    accumulation: int = MISSING
    learning_rate: float = MISSING
    warmup_steps: int = MISSING
    decay: float = MISSING
    max_grad_norm: float = MISSING
    guidance_scale: float = MISSING  # what the distilled guidance embedding sees in training
    text_dropout: float = MISSING
    condition_dropout: float = MISSING
    instruction_ratio: float = MISSING
    reference_loss_weight: float = MISSING
    positions: str = MISSING  # column or diagonal
    ema_half_life: float | None = None  # in samples
    mixed_precision: str = MISSING
    activation_gb: float | None = None  # what activations may take; none: no block is checkpointed
    compile: bool = False
    checkpoint_every: int = MISSING
    keep_checkpoints: int = MISSING
    log_every: int = MISSING
    device: str = "auto"
    model: ModelConfig = MISSING
    lora: LoraSettings = MISSING
    quantization: Any = MISSING  # -> (pipeline, device), models.quantize: of the frozen base (QLoRA)
    init_adapter: str | None = None  # an adapter to begin from; what is trained is a LoRA over it
    objective: Any = MISSING  # -> train.loss
    sigmas: Any = MISSING  # -> flow.Sigmas
    optimizer: Any = MISSING
    launcher: Any = MISSING  # -> train.launchers
    validation: Any = None  # -> train.validation.Validation
    logger: Any = MISSING


IGNORED = (  # how and where, not what; another launcher or number of processes may go on
    "experiment", "mode", "shard", "num_shards", "cache", "cache_dir", "accumulation", "activation_gb", "compile",
    "checkpoint_every", "keep_checkpoints", "log_every", "logger", "launcher", "validation",
)  # fmt: skip

TRAINABLE = ("none", "nf4", "int8", "fp8_weights")  # what a LoRA may be trained over


@stage("train", TrainConfig)
def main(cfg: DictConfig) -> None:
    check(cfg)
    source = instantiate(cfg.data)
    output_dir, began = Path(cfg.output_dir), time.monotonic()
    config_hash = claim(output_dir, cfg, IGNORED)
    if is_finished(output_dir, "train"):
        log.info("train: done already, in %s", output_dir)
        return

    accelerator, sharing = start(cfg, output_dir)
    model, on_main = cfg.model, accelerator.is_main_process
    sizes: list[Size] = [(h, w) for h, w in cfg.buckets or [[model.panel_height, model.panel_width]]]
    # encoders first and base afterwards: the two need never fit on the device together
    encoders: FluxPipeline = load_pipeline(
        model.path, model.dtype, str(accelerator.device), FluxPipeline, transformer=None
    )
    canvases = [canvas_tokens(encoders.vae_scale_factor, *size) for size in sizes]
    encoder = Encoder(encoders, model.max_sequence_length, cfg.fit)
    worker = cfg.shard * accelerator.num_processes + accelerator.process_index
    workers = cfg.num_shards * accelerator.num_processes
    wait = accelerator.wait_for_everyone
    pairs = open_pairs(source, encoder, sizes, cfg.cache, Path(cfg.cache_dir), worker, workers, wait, on_main)
    if cfg.mode is Mode.encode:
        log.info("train: part %d of %d is encoded in %s", cfg.shard, cfg.num_shards, cfg.cache_dir)
        return
    validation: Validation | None = instantiate(cfg.validation) if cfg.validation else None
    if validation is not None:
        validation.prepare(encoders)

    if cfg.cache == "all":  # otherwise they work at every step
        encoders.text_encoder = encoders.text_encoder_2 = None

    base = load_without_encoders(model.path, model.dtype)
    metadata = {
        "base": describe(base.transformer, model.path),
        "lora": resolved(cfg)["lora"],
        "task": "subject",
        "positions": cfg.positions,
        "geometry": {
            "panel_height": sizes[0][0], "panel_width": sizes[0][1], "max_sequence_length": model.max_sequence_length,
        },
        "config_hash": config_hash,
    }  # fmt: skip
    built, dtype = build(cfg, base, accelerator, max(canvases, key=math.prod))
    flops = lora_step_flops(built, max(map(math.prod, canvases)), model.max_sequence_length)

    def make_optimizer(divided: torch.nn.Module) -> torch.optim.Optimizer:
        return instantiate(cfg.optimizer)([p for p in divided.parameters() if p.requires_grad], lr=cfg.learning_rate)

    student = Student(*sharing.divide(accelerator, built, make_optimizer), accelerator, metadata, cfg.init_adapter)
    resumed = student.resume(output_dir / "checkpoints")
    accelerator.init_trackers("dsd", config={"config_hash": config_hash})
    log.info(
        "train: %d pairs, %.2f M trainable parameters, %s", len(pairs.bucket_of), student.num_parameters / 1e6,
        f"resuming at step {student.state.step}" if resumed else f"{cfg.num_steps} steps of {cfg.batch_size}",
    )  # fmt: skip

    sampling = Sampling(
        pairs, cfg.seed, instantiate(cfg.sigmas), cfg.text_dropout, cfg.condition_dropout, cfg.instruction_ratio,
        cfg.batch_size,
    )  # fmt: skip
    velocity = velocity_model(student.shared, student.model.config, dtype, cfg.guidance_scale, cfg.positions)
    by_tokens = {math.prod(canvas): canvas for canvas in canvases}
    told = Model(velocity, by_tokens, functools.partial(without_lora, student.model))
    objective = instantiate(cfg.objective)(told, cfg.reference_loss_weight)
    plan = Plan(
        cfg.num_steps, cfg.batch_size, cfg.accumulation, cfg.learning_rate, cfg.warmup_steps, cfg.decay,
        cfg.max_grad_norm,
    )  # fmt: skip
    stopping = Stopping(accelerator, student.state)
    with tqdm(
        initial=student.state.step, total=cfg.num_steps, desc="train", unit="step", mininterval=1, disable=not on_main
    ) as bar:
        hooks = between_steps(cfg, student, bar, flops, validation, stopping)
        train(accelerator, student.shared, student.optimizer, objective, sampling, plan, student.state, hooks, stopping)
    if student.state.step < cfg.num_steps:
        log.info("train: told to stop; step %d is saved, run the same command to go on", student.state.step)
        accelerator.end_training()
        return
    student.write(output_dir)
    accelerator.end_training()
    if not on_main:
        return
    final = plot_curves(output_dir)
    counts = {"steps": cfg.num_steps, "pairs": len(pairs.bucket_of), "samples": cfg.num_steps * cfg.batch_size}
    best = {"step": student.state.best_step, validation.metric: student.state.best} if validation is not None else None
    write_manifest(
        output_dir, "train", counts, None, config_hash=config_hash, source=source.fingerprint, **final, best=best,
        look="loss.png", seconds=round(time.monotonic() - began, 1),
    )  # fmt: skip
    made = output_dir / (ADAPTER if cfg.lora.rank else "transformer")
    look = output_dir / "loss.png"
    log.info("train: %d steps, loss %.4f, adapter in %s; look at %s", cfg.num_steps, final["loss"], made, look)


def build(
    cfg: DictConfig, pipeline: FluxPipeline, accelerator: Accelerator, largest: tuple[int, int]
) -> tuple[FluxTransformer2DModel, torch.dtype]:
    """The pipeline's transformer, which leaves it, as the student, and what it computes in: what is trained is fp32.

    `largest` is the canvas that memory must suffice for.
    """
    instantiate(cfg.quantization)(pipeline, accelerator.device)
    pipeline.transformer.to(accelerator.device)
    student = build_student(pipeline.transformer, **resolved(cfg)["lora"], seed=cfg.seed, init=cfg.init_adapter)
    pipeline.transformer, dtype = None, student.dtype
    cast_training_params(student, torch.float32)
    if cfg.activation_gb is not None:
        micro_batch = cfg.batch_size // (accelerator.num_processes * cfg.accumulation)
        checkpoint_blocks(student, cfg.activation_gb, micro_batch, *largest, cfg.model.max_sequence_length)
    if cfg.compile:
        student.compile_repeated_blocks()
    return student, dtype


def between_steps(
    cfg: DictConfig, student: Student, bar: tqdm, flops: float, validation: Validation | None, stopping: Stopping
) -> list[Hook]:
    """What happens after every step, in this order: a checkpoint knows what was measured."""
    output_dir, accelerator, state = Path(cfg.output_dir), student.accelerator, student.state
    peak = matmul_flops(accelerator.device) if accelerator.device.type == "cuda" else None
    file = output_dir / "metrics.jsonl"
    hooks: list[Hook] = [Log(file, cfg.log_every, bar, accelerator, state, cfg.batch_size, cfg.num_steps, flops, peak)]
    if cfg.ema_half_life is not None:
        hooks.append(Ema(student.tensors, cfg.ema_half_life, cfg.batch_size))
    if validation is not None:
        best = functools.partial(student.write, output_dir / "best")
        hooks.append(validation.hook(output_dir, accelerator, cfg.num_steps, state, student.model, cfg.positions, best))
    save = functools.partial(student.checkpoint, output_dir / "checkpoints", cfg.keep_checkpoints)
    return [*hooks, Checkpoint(save, cfg.checkpoint_every, cfg.num_steps, stopping)]


def start(cfg: DictConfig, output_dir: Path) -> tuple[Accelerator, Sharing]:
    """The processes, as the launcher has them share the work. UserError where a step cannot be divided among them."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if cfg.batch_size % (processes * cfg.accumulation):
        raise UserError(
            f"batch_size={cfg.batch_size} is not a multiple of {processes} processes x accumulation={cfg.accumulation}"
        )
    if processes == 1 and "RANK" not in os.environ and cfg.launcher._target_ != "dsd.train.launchers.ddp":
        name = cfg.launcher._target_.rsplit(".", 1)[-1]
        raise UserError(f"launcher={name} divides the work of several processes; start them with torchrun")
    share = Share(cfg.batch_size // (processes * cfg.accumulation), cfg.accumulation, cfg.max_grad_norm)
    device = "cpu" if cfg.device == "cpu" or not torch.cuda.is_available() else "cuda"
    sharing: Sharing = instantiate(cfg.launcher)(share, device)
    accelerator = Accelerator(
        mixed_precision=cfg.mixed_precision,
        log_with=list(cfg.logger.trackers) or None,
        project_dir=str(output_dir),
        **sharing.accelerator,
    )
    if not accelerator.is_main_process:  # it speaks for all
        logging.getLogger().setLevel(logging.WARNING)
    unset_hf_deepspeed_config()  # else transformers reads its models in slices under ZeRO-3
    return accelerator, sharing


def check(cfg: DictConfig) -> None:
    """Refuse values that cannot work before anything is loaded."""
    for name in ("num_steps", "batch_size", "accumulation", "checkpoint_every", "keep_checkpoints", "log_every"):
        if cfg[name] < 1:
            raise UserError(f"{name}={cfg[name]}: at least 1 is needed")
    for name in ("text_dropout", "condition_dropout", "instruction_ratio", "decay"):
        if not 0 <= cfg[name] <= 1:
            raise UserError(f"{name}={cfg[name]}: a share between 0 and 1 is needed")
    if cfg.lora.rank < 0:
        raise UserError(f"lora.rank={cfg.lora.rank}: at least 1 is needed, or 0 to train all of the transformer")
    if cfg.lora.targets not in TARGETS:
        raise UserError(f"lora.targets={cfg.lora.targets}: choose one of {', '.join(TARGETS)}")
    quantization = cfg.quantization._target_.rsplit(".", 1)[-1]
    if quantization not in TRAINABLE:
        raise UserError(f"quantization={quantization} cannot be trained over; choose one of {', '.join(TRAINABLE)}")
    if quantization != "none" and cfg.lora.rank == 0:
        raise UserError(f"quantization={quantization} is for a LoRA over it; all of the transformer needs none")
    if quantization == "nf4" and (cfg.device == "cpu" or not torch.cuda.is_available()):
        raise UserError("quantization=nf4 needs a GPU (bitsandbytes); use quantization=int8 or fp8_weights on a CPU")
    if cfg.init_adapter is not None:
        read_adapter(cfg.init_adapter)
    try:  # its package and its settings
        instantiate(cfg.optimizer)([torch.nn.Parameter(torch.zeros(1))], lr=cfg.learning_rate)
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer: {error}") from error
    if cfg.cache not in CACHES:
        raise UserError(f"cache={cfg.cache}: choose one of {', '.join(CACHES)}")
    if cfg.positions not in POSITIONS:
        raise UserError(f"positions={cfg.positions}: choose one of {', '.join(POSITIONS)}")
    if not 0 <= cfg.shard < cfg.num_shards:
        raise UserError(f"shard={cfg.shard} is outside 0..{cfg.num_shards - 1} (num_shards={cfg.num_shards})")
    if cfg.mode is Mode.train and cfg.num_shards > 1:
        raise UserError(f"num_shards={cfg.num_shards} divides mode=encode alone; training is divided by launcher=")


if __name__ == "__main__":
    main()
