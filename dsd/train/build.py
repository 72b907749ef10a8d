"""Build what is trained: the base's transformer as a student, divided among the processes, with its optimiser."""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import cast_training_params
from omegaconf import DictConfig
from torch import nn

from dsd.models.adapter import build_student, describe
from dsd.models.canvas import Canvas
from dsd.models.flops import lora_step_flops
from dsd.models.loading import load_without_encoders
from dsd.models.quantize import quantize
from dsd.models.speed import compile_blocks
from dsd.models.student import Student
from dsd.runs.settings import plain
from dsd.train.launchers import Launcher, Share
from dsd.train.recompute import recompute_blocks
from dsd.train.settings import adapter_file
from dsd.train.trainee import Facts, Trainee

log = logging.getLogger(__name__)


def build_trainee(
    cfg: DictConfig, launcher: Launcher, accelerator: Accelerator, student: Student, canvases: Sequence[Canvas],
    num_references: int, config_hash: str, make_optimizer: Callable[..., torch.optim.Optimizer],
) -> Trainee:  # fmt: skip
    """Load the base, make it a student and divide it among the processes with its optimiser."""
    num_tokens = max(student.num_tokens(canvas, num_references) for canvas in canvases)
    pipeline = load_without_encoders(cfg.model.path, cfg.model.dtype)
    warn_of_distilled(pipeline, cfg.model)
    metadata = metadata_of(cfg, student, pipeline.transformer, config_hash)
    transformer, dtype = make_trainable(cfg, student, pipeline, accelerator.device)
    lighten(cfg, student, transformer, num_tokens, max(c.num_tokens for c in canvases), accelerator)
    flops = lora_step_flops(transformer, num_tokens, cfg.model.max_sequence_length, student.family)

    def optimizer_of(divided: nn.Module) -> torch.optim.Optimizer:
        return make_optimizer([p for p in divided.parameters() if p.requires_grad], lr=cfg.learning_rate)

    wrapped, optimizer = launcher.divide(accelerator, transformer, optimizer_of)
    facts = Facts(dtype, flops, metadata, init_of(cfg))
    return Trainee(wrapped, optimizer, accelerator, Path(cfg.output_dir), facts)


def warn_of_distilled(pipeline: Any, model: DictConfig) -> None:
    """Warn where the base takes few steps: training undoes the distillation (DiffSynth-Studio, issue 1313)."""
    if model.distilled or pipeline.config.get("is_distilled"):
        log.warning(
            "train: %s is distilled to few steps, which training on it undoes; train on its base, and draw with this "
            "one (dsd-infer model=... adapter=the/trained/folder)", model.path,
        )  # fmt: skip


def make_trainable(
    cfg: DictConfig, student: Student, pipeline: Any, device: torch.device
) -> tuple[Any, torch.dtype]:  # fmt: skip
    """Take the transformer out of its pipeline and make it trainable, in fp32; also the dtype that it computes in."""
    quantize(pipeline, device, cfg.quantization.value)
    pipeline.transformer.to(device)
    transformer = build_student(pipeline.transformer, student, **lora_of(cfg), seed=cfg.seed, init=init_of(cfg))
    pipeline.transformer, dtype = None, transformer.dtype
    cast_training_params(transformer, torch.float32)
    return transformer, dtype


def lighten(
    cfg: DictConfig, student: Student, transformer: Any, num_tokens: int, drawn: int, accelerator: Accelerator
) -> None:
    """Compile, and fit the activations of the largest pass into the budget, as the settings ask.

    Of its `num_tokens`, `drawn` are those of what is drawn.
    """
    if cfg.compile:
        compile_blocks(transformer)
    if cfg.activation_gb is not None:
        micro_batch, length = share_of(cfg).micro_batch, cfg.model.max_sequence_length
        remembered = num_tokens - drawn if student.about().get("attention") == "cached" else 0
        with accelerator.autocast():
            recompute_blocks(
                student.family, transformer, cfg.activation_gb, micro_batch, num_tokens, length, remembered
            )


def metadata_of(cfg: DictConfig, student: Student, base: Any, config_hash: str) -> dict[str, Any]:
    """Describe the student for its file: base, LoRA, geometry."""
    height, width = (cfg.buckets or [[cfg.model.panel_height, cfg.model.panel_width]])[0]
    return {
        "base": describe(base, cfg.model.path, student.family),
        "lora": lora_of(cfg),
        "task": "subject",
        "student": student.about(),
        "geometry": {
            "panel_height": height, "panel_width": width, "max_sequence_length": cfg.model.max_sequence_length,
        },
        "config_hash": config_hash,
    }  # fmt: skip


def lora_of(cfg: DictConfig) -> dict[str, Any]:
    """Give the LoRA's settings, alpha filled in."""
    settings: dict[str, Any] = plain(cfg)["lora"]
    return settings | {"alpha": float(settings["rank"] if settings["alpha"] is None else settings["alpha"])}


def init_of(cfg: DictConfig) -> str | None:
    """Find the file of the adapter that training begins from."""
    return None if cfg.init_adapter is None else str(adapter_file(cfg.init_adapter))


def share_of(cfg: DictConfig) -> Share:
    """Compute this process's share of a step."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    micro_batch = cfg.batch_size // (processes * cfg.accumulation)
    return Share(micro_batch, cfg.accumulation, cfg.max_grad_norm, cfg.timeout_minutes)
