"""How busy the device is in one forward and in one training step, and with which kernels."""

from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from dsd.models.adapter import trainable_parameters
from gpu.drawing import fast
from gpu.released import GUIDANCE
from gpu.setup import Setup, forward
from gpu.sides import base_pipeline, students, twin
from gpu.steps import random_batch, stepper, trainable
from gpu.timing import Call, free, seconds, wait

SHOWN = 15  # kernels


def run(setup: Setup) -> None:
    """Profile one forward of ours and one training step at rank 128, both compiled."""
    drawing(setup)
    free(setup.device)
    training(setup)


@torch.no_grad()
def drawing(setup: Setup) -> None:
    """Profile a forward."""
    _, ours = students(setup.shape, setup.device, 16 if setup.small else 128, with_text=False)
    fast(setup, ours)
    prepared, known = setup.prepared(ours), ours.precomputed()
    with known.at(ours.all_ids(prepared)):
        one(setup, "forward", forward(ours, prepared, GUIDANCE, 1, known))


def training(setup: Setup) -> None:
    """Profile a step."""
    base = base_pipeline(setup.shape, setup.device, with_text=False).transformer
    student = trainable(twin(base), setup.device, 4 if setup.small else 128, "attention")
    if setup.on_gpu:
        student.compile_repeated_blocks()
    batch = random_batch(student, 1, setup.canvas, setup.text).to(setup.device)
    optimizer = torch.optim.AdamW(list(trainable_parameters(student).values()), lr=1e-5, fused=True)
    one(setup, "training step", stepper(student, optimizer, batch))


def one(setup: Setup, name: str, call: Call) -> None:
    """Profile a call after two that warm up. Kernels of one stream do not overlap, so their times add up."""
    for _ in range(2):
        call()
    wait(setup.device)
    took = seconds(call, setup.device)
    kind = ProfilerActivity.CUDA if setup.on_gpu else ProfilerActivity.CPU
    with profile(activities=[kind]):  # the first profile pays for its own beginning
        call()
        wait(setup.device)
    with profile(activities=[kind]) as kernels:
        call()
        wait(setup.device)
    cost = "self_device_time_total" if setup.on_gpu else "self_cpu_time_total"
    events = sorted(kernels.key_averages(), key=partial(cost_of, cost), reverse=True)
    total = sum(cost_of(cost, event) for event in events) / 1e6
    setup.report.write(
        name=f"busy share of a {name}", unit="of its time", predicted=0.97 if setup.on_gpu else None,
        measured=min(1.0, total / took),
    )  # fmt: skip
    top = [[str(e.key)[:100], round(cost_of(cost, e) / 1e3, 3), int(e.count)] for e in events[:SHOWN]]
    setup.report.write(
        name=f"kernels of a {name}", unit="ms and calls", kernels=top, predicted=None, measured=total * 1e3,
    )  # fmt: skip


def cost_of(cost: str, event: Any) -> float:
    """Read the microseconds of an event."""
    return float(getattr(event, cost))
