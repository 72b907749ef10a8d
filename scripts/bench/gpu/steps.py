"""A training step without a stage around it: what `train.py` and the training section time."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.training_utils import cast_training_params
from torch import Tensor

from dsd.models.adapter import build_student
from dsd.models.canvas import Canvas
from dsd.models.student import CanvasStudent, Conditions
from dsd.train.data.batch import Batch
from dsd.train.loss import FlowMatching


def trainable(base: Any, device: torch.device, rank: int, targets: str) -> Any:
    """Make a transformer a trainable student, in place. The added weights are random and made on the device."""
    with device:
        student = build_student(base, CanvasStudent(), rank, rank, targets)
    cast_training_params(student, torch.float32)
    return student


def random_batch(student: Any, size: int, canvas: Canvas, text: int) -> Batch:
    """Draw a batch of noise, the same every time."""
    config, generator = student.config, torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    shape = (size, canvas.num_tokens, config["out_channels"])
    latents, cond_latents = draw(*shape), draw(*shape)
    embeds, pooled = draw(size, text, config["joint_attention_dim"]), draw(size, config["pooled_projection_dim"])
    conditions = Conditions(cond_latents, (embeds, pooled))
    return Batch(canvas, latents, conditions, draw(*shape), torch.rand(size, generator=generator))


def stepper(transformer: Any, optimizer: torch.optim.Optimizer, batch: Batch) -> Callable[[], Tensor]:
    """Make a function that takes one step and returns its loss, which stays on the device."""
    device = batch.latents.device
    objective = FlowMatching(CanvasStudent(transformer, transformer.dtype), 1.0, 1.0)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def step() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = objective(batch).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step
