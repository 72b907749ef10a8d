"""The training loop. The method is in `loss.py`, what a step draws in `sampling.py`, the rest in `hooks.py`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from dsd.errors import UserError
from dsd.models.canvas import img_ids
from dsd.train.checkpoint import TrainState
from dsd.train.data.sampling import Sampling
from dsd.train.hooks import Hook
from dsd.train.loss import Batch

Objective = Callable[[Batch], Tensor]  # -> loss of each sample, (B,)


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
    transformer: torch.nn.Module, config: Any, dtype: torch.dtype, guidance_scale: float, positions: str
) -> Callable[[Tensor, Batch, int, int], Tensor]:
    """The transformer as the losses call it: (noisy latents (B, L, C), batch, rows, columns) -> velocity (B, L, C)."""

    def velocity(noisy_latents: Tensor, batch: Batch, rows: int, columns: int) -> Tensor:
        return transformer(
            hidden_states=torch.cat([noisy_latents, batch.cond_latents], dim=-1).to(dtype),
            timestep=batch.sigmas,
            guidance=torch.full_like(batch.sigmas, guidance_scale) if config.guidance_embeds else None,
            pooled_projections=batch.pooled_prompt_embeds.to(dtype),
            encoder_hidden_states=batch.prompt_embeds.to(dtype),
            txt_ids=noisy_latents.new_zeros(batch.prompt_embeds.shape[1], 3),
            img_ids=img_ids(rows, columns, noisy_latents.device, noisy_latents.dtype, positions),
            return_dict=False,
        )[0]

    return velocity


def train(
    accelerator: Accelerator,
    transformer: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    sampling: Sampling,
    plan: Plan,
    state: TrainState,
    hooks: Sequence[Hook],
    stopping: Callable[[], bool],
) -> None:
    """Run from state.step to plan.num_steps, or until `stopping()`. UserError where the loss is no number."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    ranks, rank = accelerator.num_processes, accelerator.process_index
    micro = plan.batch_size // (ranks * plan.accumulation)
    while state.step < plan.num_steps and not stopping():
        rate = plan.rate(state.step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        total, waited = torch.zeros((), device=accelerator.device), 0.0
        norm: Any = None
        rows: list[int] = []
        for part in range(plan.accumulation):
            first = state.step * plan.batch_size + (part * ranks + rank) * micro
            began = time.perf_counter()
            batch = sampling.batch(range(first, first + micro)).to(accelerator.device)
            waited += time.perf_counter() - began
            if isinstance(transformer, FSDPModule):  # its no_sync
                transformer.set_requires_gradient_sync(part == plan.accumulation - 1)
            with accelerator.accumulate(transformer):
                loss = objective(batch).mean()
                total += loss.detach() / plan.accumulation
                rows += batch.rows
                if part == plan.accumulation - 1:
                    refuse_nan(total, state.step, rows)  # before it reaches the weights
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(parameters, plan.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        state.step += 1
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # FSDP2's
        metrics = {
            "loss": accelerator.reduce(total, "mean"),
            "grad_norm": torch.as_tensor(0.0 if norm is None else norm).detach().float(),
            "lr": torch.tensor(rate),
            "data_seconds": torch.tensor(waited),
        }
        for hook in hooks:
            hook(state, metrics)


def refuse_nan(loss: Tensor, step: int, rows: Sequence[int]) -> None:
    """UserError with the step and the pairs of this process."""
    if not torch.isfinite(loss):
        raise UserError(
            f"the loss of step {step} is {float(loss)}, of the pairs {', '.join(map(str, rows[:16]))}; nothing of that "
            "step was kept: the last checkpoint is good. Lower learning_rate=, or look at these pairs"
        )
