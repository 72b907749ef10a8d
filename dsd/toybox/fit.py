"""The loop that trains every network of the toybox. A resumed run gives the same numbers as an unbroken one.

The batch and noise of step n are a function of (seed, n) alone, so a killed run continues exactly from its last
checkpoint. The learning rate warms up, stays, and falls to zero over the last fifth.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dsd.io.files import atomic

WARMUP, DECAY = 200, 0.2


def learning_rate(step: int, num_steps: int) -> float:
    """Compute the rate at `step` as a share of the peak rate."""
    return min(1.0, (step + 1) / WARMUP, (num_steps - step) / (DECAY * num_steps))


def fit(
    network: nn.Module,
    loss_at: Callable[[int], tuple[Tensor, dict[str, Tensor]]],
    folder: Path,
    *,
    num_steps: int,
    lr: float,
    weight_decay: float = 0.01,
    checkpoint_every: int = 250,
    log_every: int = 50,
) -> None:
    """Train a network in place. `loss_at(step)` returns the loss and what to log beside it.

    `folder` receives `checkpoint.pt`, the latest one, and `curve.jsonl`, lines of mean losses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.99), fused=True)
    checkpoint, curve, start, seconds = folder / "checkpoint.pt", folder / "curve.jsonl", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=parameters[0].device)
        network.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start, seconds = state["step"], state["seconds"]
        kept = [line for line in curve.read_text().splitlines() if json.loads(line)["step"] <= start]
        curve.write_text("".join(line + "\n" for line in kept))
    network.train()
    total = torch.zeros((), device=parameters[0].device)
    began = time.monotonic() - seconds
    for step in (bar := tqdm(range(start, num_steps), initial=start, total=num_steps, desc=folder.name, mininterval=5)):
        for group in optimizer.param_groups:
            group["lr"] = lr * learning_rate(step, num_steps)
        loss, metrics = loss_at(step)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total += loss.detach()
        done = step + 1
        if done % log_every == 0 or done == num_steps:
            line = {"step": done, "loss": total / ((done - 1) % log_every + 1), "grad_norm": norm, **metrics}
            total.zero_()
            line = {key: round(float(torch.as_tensor(value).detach()), 6) for key, value in line.items()}
            bar.set_postfix(loss=f"{line['loss']:.4f}")
            with curve.open("a") as file:
                file.write(json.dumps(line | {"seconds": round(time.monotonic() - began, 1)}) + "\n")
        if done % checkpoint_every == 0 or done == num_steps:
            state = {
                "model": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": done,
                "seconds": time.monotonic() - began,
            }
            with atomic(checkpoint) as path:
                torch.save(state, path)
    network.eval()
