"""The training loop. The method is in `loss.py`, what a step draws in `encoded.py`, the rest in `hooks.py`."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from dsd.models.latents import img_ids
from dsd.train.checkpoint import TrainState
from dsd.train.encoded import EncodedPairs, Sampling
from dsd.train.hooks import Hook
from dsd.train.loss import Batch, flow_loss


@dataclass(frozen=True)
class Plan:
    """How many steps of how many samples, and how fast."""

    num_steps: int
    batch_size: int  # of the whole step: all processes, all micro-batches
    accumulation: int  # micro-batches a step and process
    learning_rate: float
    warmup_steps: int
    decay: float  # share of the steps, at the end, in which the rate falls to 0
    max_grad_norm: float

    def rate(self, step: int) -> float:
        """The learning rate of a step: warm-up, plateau, linear fall."""
        falling = (self.num_steps - step) / (self.decay * self.num_steps) if self.decay else 1.0
        return self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup_steps), falling)


def velocity_model(
    transformer: torch.nn.Module, rows: int, columns: int, guidance_scale: float
) -> Callable[..., Tensor]:
    """The transformer as `flow_loss` calls it: (noisy latents (B, L, C), batch) -> velocity (B, L, C)."""

    def velocity(noisy_latents: Tensor, batch: Batch) -> Tensor:
        inner: Any = getattr(transformer, "module", transformer)
        return transformer(
            hidden_states=torch.cat([noisy_latents, batch.cond_latents], dim=-1),
            timestep=batch.sigmas,
            guidance=torch.full_like(batch.sigmas, guidance_scale) if inner.config.guidance_embeds else None,
            pooled_projections=batch.pooled_prompt_embeds,
            encoder_hidden_states=batch.prompt_embeds,
            txt_ids=noisy_latents.new_zeros(batch.prompt_embeds.shape[1], 3),
            img_ids=img_ids(rows, columns, noisy_latents.device, noisy_latents.dtype),
            return_dict=False,
        )[0]

    return velocity


def train(
    accelerator: Accelerator,
    transformer: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    velocity: Callable[..., Tensor],
    pairs: EncodedPairs,
    sampling: Sampling,
    weights: Tensor,
    plan: Plan,
    state: TrainState,
    hooks: Sequence[Hook],
    stopping: Callable[[], bool],
) -> None:
    """Run from state.step to plan.num_steps, or until `stopping()`."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    ranks, rank = accelerator.num_processes, accelerator.process_index
    micro = plan.batch_size // (ranks * plan.accumulation)
    while state.step < plan.num_steps and not stopping():
        rate = plan.rate(state.step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        total = torch.zeros((), device=accelerator.device)
        for part in range(plan.accumulation):
            first = state.step * plan.batch_size + (part * ranks + rank) * micro
            batch = sampling.batch(pairs, range(first, first + micro)).to(accelerator.device)
            last = part == plan.accumulation - 1
            with nullcontext() if last else accelerator.no_sync(transformer):
                loss = flow_loss(velocity, batch, weights).mean() / plan.accumulation
                accelerator.backward(loss)
            total += loss.detach()
        norm = accelerator.clip_grad_norm_(parameters, plan.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state.step += 1
        metrics = {"loss": total, "grad_norm": torch.as_tensor(norm).detach(), "lr": torch.tensor(rate)}
        for hook in hooks:
            hook(state, metrics)
