"""`dsd-train`: pairs -> adapter. Reads a curation folder; writes an adapter, checkpoints and a loss curve."""

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
from accelerate import Accelerator
from diffusers import FluxPipeline
from diffusers.training_utils import cast_training_params
from hydra.utils import instantiate
from matplotlib.figure import Figure
from omegaconf import MISSING, DictConfig
from tqdm import tqdm

from dsd.app import claim, resolved, stage
from dsd.errors import UserError
from dsd.manifest import atomic, is_finished, read_manifest, write_manifest
from dsd.models.adapter import ADAPTER, adapter_state, build_student, describe, save_adapter, trainable_parameters
from dsd.models.base import load_pipeline
from dsd.models.config import ModelConfig
from dsd.models.latents import canvas_tokens, target_mask
from dsd.shards import read_shards
from dsd.train.checkpoint import TrainState, load_checkpoint, save_checkpoint
from dsd.train.encoded import Sampling, encode_pairs
from dsd.train.hooks import Checkpoint, Hook, Log
from dsd.train.loop import Plan, train, velocity_model
from dsd.train.loss import token_weights
from dsd.train.stopping import Stopping

log = logging.getLogger(__name__)
matplotlib.use("agg")


@dataclass
class LoraSettings:
    """configs/lora/*.yaml"""

    rank: int = MISSING
    alpha: float = MISSING
    targets: str = MISSING  # attention (the released set) or all_linear
    use_rslora: bool = False
    use_dora: bool = False


@dataclass
class TrainConfig:
    """configs/train.yaml."""

    output_dir: str = MISSING
    experiment: str | None = None
    pairs: str = MISSING  # output_dir of dsd-curate
    cache_dir: str = MISSING  # latents and embeddings, named by content; may be shared by runs
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
    mixed_precision: str = MISSING
    checkpoint_every: int = MISSING
    keep_checkpoints: int = MISSING
    log_every: int = MISSING
    device: str = "auto"
    model: ModelConfig = MISSING
    lora: LoraSettings = MISSING
    sigmas: Any = MISSING
    optimizer: Any = MISSING
    logger: Any = MISSING


IGNORED = ("experiment", "cache_dir", "checkpoint_every", "keep_checkpoints", "log_every", "logger")


@stage("train", TrainConfig)
def main(cfg: DictConfig) -> None:
    check(cfg)
    source = read_manifest(cfg.pairs, "curation")
    if not source["counts"]["pairs"]:
        raise UserError(f"pairs={cfg.pairs}: it holds no pair; loosen the selection of dsd-curate")
    output_dir, began = Path(cfg.output_dir), time.monotonic()
    config_hash = claim(output_dir, cfg, IGNORED)
    if is_finished(output_dir, "train"):
        log.info("train: done already, in %s", output_dir)
        return

    accelerator = Accelerator(
        mixed_precision=cfg.mixed_precision,
        log_with=list(cfg.logger.trackers) or None,
        project_dir=str(output_dir),
        cpu=cfg.device == "cpu",
    )
    if cfg.batch_size % (accelerator.num_processes * cfg.accumulation):
        raise UserError(
            f"batch_size={cfg.batch_size} is not a multiple of {accelerator.num_processes} processes x "
            f"accumulation={cfg.accumulation}"
        )
    model = cfg.model
    pipeline: FluxPipeline = load_pipeline(model.path, model.dtype, str(accelerator.device), FluxPipeline)
    rows, columns = canvas_tokens(pipeline.vae_scale_factor, model.panel_height, model.panel_width)
    base = describe(pipeline.transformer, model.path)
    with accelerator.main_process_first():
        geometry = (model.panel_height, model.panel_width, model.max_sequence_length)
        identity = {"path": model.path, "dtype": model.dtype, "fingerprint": base["fingerprint"]}
        pairs = encode_pairs(read_shards(cfg.pairs, "pairs"), pipeline, identity, Path(cfg.cache_dir), *geometry)

    student = build_student(pipeline.transformer, **resolved(cfg)["lora"], seed=cfg.seed)
    cast_training_params(student, torch.float32)
    del pipeline  # VAE and text encoders have done their work
    parameters = trainable_parameters(student)
    optimizer = instantiate(cfg.optimizer)(list(parameters.values()), lr=cfg.learning_rate)
    state = TrainState()
    resumed = load_checkpoint(output_dir / "checkpoints", state, parameters, optimizer)
    transformer, optimizer = accelerator.prepare(student, optimizer)
    accelerator.init_trackers("dsd", config={"config_hash": config_hash})

    stopping = Stopping(accelerator, state)

    def save() -> None:
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            save_checkpoint(output_dir / "checkpoints", state, parameters, optimizer.optimizer, cfg.keep_checkpoints)

    log.info(
        "train: %d pairs, %.2f M trainable parameters, %s",
        len(pairs), sum(p.numel() for p in parameters.values()) / 1e6,
        f"resuming at step {state.step}" if resumed else f"{cfg.num_steps} steps of {cfg.batch_size}",
    )  # fmt: skip
    sampling = Sampling(
        cfg.seed, instantiate(cfg.sigmas), cfg.text_dropout, cfg.condition_dropout, cfg.instruction_ratio
    )
    weights = token_weights(target_mask(rows, columns), cfg.reference_loss_weight).to(accelerator.device)
    plan = Plan(
        cfg.num_steps,
        cfg.batch_size,
        cfg.accumulation,
        cfg.learning_rate,
        cfg.warmup_steps,
        cfg.decay,
        cfg.max_grad_norm,
    )
    bar = tqdm(
        initial=state.step, total=cfg.num_steps, desc="train", unit="step", mininterval=1,
        disable=not accelerator.is_main_process,
    )  # fmt: skip
    hooks: list[Hook] = [
        Log(output_dir / "metrics.jsonl", cfg.log_every, bar, accelerator, state, cfg.batch_size, cfg.num_steps),
        Checkpoint(save, cfg.checkpoint_every, cfg.num_steps, stopping),
    ]
    velocity = velocity_model(transformer, rows, columns, cfg.guidance_scale)
    with bar:
        train(
            accelerator, transformer, optimizer, velocity, pairs, sampling, weights, plan, state, hooks, stopping,
        )  # fmt: skip
    accelerator.end_training()
    if state.step < cfg.num_steps:
        log.info("train: told to stop; step %d is saved, run the same command to go on", state.step)
        return
    if not accelerator.is_main_process:
        return
    metadata = {
        "base": base,
        "lora": resolved(cfg)["lora"],
        "task": "subject",
        "geometry": dict(zip(("panel_height", "panel_width", "max_sequence_length"), geometry, strict=True)),
        "config_hash": config_hash,
        "num_steps": cfg.num_steps,
    }
    save_adapter(output_dir / ADAPTER, adapter_state(student), metadata)
    final = plot_loss(output_dir)
    write_manifest(
        output_dir,
        "train",
        {"steps": cfg.num_steps, "pairs": len(pairs), "samples": cfg.num_steps * cfg.batch_size},
        config_hash=config_hash,
        pairs_config_hash=source["config_hash"],
        loss=final,
        look="loss.png",
        seconds=round(time.monotonic() - began, 1),
    )
    log.info(
        "train: %d steps, loss %.4f, adapter in %s; look at %s",
        state.step,
        final,
        output_dir / ADAPTER,
        output_dir / "loss.png",
    )


def check(cfg: DictConfig) -> None:
    """Refuse values that cannot work before anything is loaded."""
    for name in ("num_steps", "batch_size", "accumulation", "checkpoint_every", "keep_checkpoints", "log_every"):
        if cfg[name] < 1:
            raise UserError(f"{name}={cfg[name]}: at least 1 is needed")
    for name in ("text_dropout", "condition_dropout", "instruction_ratio", "decay"):
        if not 0 <= cfg[name] <= 1:
            raise UserError(f"{name}={cfg[name]}: a share between 0 and 1 is needed")
    if cfg.lora.rank < 1:
        raise UserError(f"lora.rank={cfg.lora.rank}: at least 1 is needed")


def plot_loss(output_dir: Path) -> float:
    """Draw metrics.jsonl as loss.png; returns the mean loss of the last tenth."""
    lines = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    steps, losses = [line["step"] for line in lines], [line["loss"] for line in lines]
    axes = (figure := Figure(figsize=(7, 4), layout="constrained")).subplots()
    axes.plot(steps, losses, lw=1)
    axes.set(xlabel="step", ylabel="flow-matching loss", title=str(output_dir))
    axes.grid(alpha=0.3)
    with atomic(output_dir / "loss.png") as temporary:
        figure.savefig(temporary, dpi=120)
    tail = losses[-max(1, len(losses) // 10) :]
    return round(sum(tail) / len(tail), 6)


if __name__ == "__main__":
    main()
