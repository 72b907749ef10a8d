"""What this device can do at best: a large matmul, copies, FLUX's own matmuls, attention by backend."""

from functools import partial

import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _check_attention_backend_requirements,
    dispatch_attention_fn,
)
from torch.profiler import ProfilerActivity, profile

from gpu.setup import Setup
from gpu.timing import in_turns, wait

BACKENDS = ("native", "_native_cudnn", "_native_flash", "_native_efficient", "flash", "_flash_3", "sage")
PUBLISHED = {"_native_flash": 329e12, "_native_cudnn": 631e12, "_flash_3": 632e12}  # FLOP/s on an H100


def matmul_rate(setup: Setup, rows: int, inner: int, columns: int) -> float:
    """Measure FLOP/s of one product of matrices in the weights' dtype."""
    a, b = setup.draw(rows, inner), setup.draw(inner, columns)
    took = in_turns({"matmul": lambda: a @ b}, setup.device, max(3, setup.repeats), warm=3)["matmul"]
    return 2 * rows * inner * columns / took


def teraflops(setup: Setup, rows: int, inner: int, columns: int) -> float:
    """Measure the same in TFLOP/s."""
    return matmul_rate(setup, rows, inner, columns) / 1e12


def peak(setup: Setup) -> float:
    """Measure the rate that MFU is relative to: 8192^3 in bf16 on a GPU, 512^3 in fp32 for the toybox."""
    size = 512 if setup.small else 8192
    return matmul_rate(setup, size, size, size)


def run(setup: Setup) -> None:
    """Measure the ceilings. M was measured before; it is measured again last, since clocks fall as a GPU warms up."""
    measure, published = setup.report.measure, None if setup.small else 800.0
    measure("M, before", "TFLOP/s", published, lambda: setup.peak / 1e12)
    measure("copy", "GB/s", None if setup.small else 2900.0, partial(copy_rate, setup))
    width, tokens = (128, setup.grid.num_tokens + setup.text) if setup.small else (3072, 4608)
    shapes = {"to_q": (width, width), "fused q, k, v": (width, 3 * width), "MLP": (width, 4 * width),
              "out of a single block": (5 * width, width)}  # fmt: skip
    for name, (inner, columns) in shapes.items():
        told = f"{name}: {tokens} x {inner} x {columns}"
        measure(told, "TFLOP/s", setup.peak / 1e12, partial(teraflops, setup, tokens, inner, columns))
    attend(setup, tokens)
    measure("M, after", "TFLOP/s", setup.peak / 1e12, lambda: peak(setup) / 1e12)


def copy_rate(setup: Setup) -> float:
    """Measure GB/s of a copy within the device, read and written."""
    num = 2**20 if setup.small else 2**31
    source = torch.ones(num, dtype=torch.uint8, device=setup.device)
    target = torch.empty_like(source)
    took = in_turns({"copy": lambda: target.copy_(source)}, setup.device, max(3, setup.repeats))["copy"]
    return 2 * num / took / 1e9


def attend(setup: Setup, tokens: int) -> None:
    """Measure attention at a grid's size by backend, and name the kernel that is taken without a choice."""
    heads, width = (4, 32) if setup.small else (24, 128)
    query, key, value = (setup.draw(1, tokens, heads, width) for _ in range(3))
    flops = 4 * tokens**2 * heads * width

    def rate(backend: AttentionBackendName | None) -> float:
        if backend is not None:
            _check_attention_backend_requirements(backend)
        call = partial(dispatch_attention_fn, query, key, value, backend=backend)
        return flops / in_turns({"": call}, setup.device, max(3, setup.repeats))[""] / 1e12

    with profile(activities=[ProfilerActivity.CUDA if setup.on_gpu else ProfilerActivity.CPU]) as kernels:
        dispatch_attention_fn(query, key, value)
        wait(setup.device)
    cost = "self_device_time_total" if setup.on_gpu else "self_cpu_time_total"
    kernel = max(kernels.key_averages(), key=lambda event: float(getattr(event, cost)), default=None)
    setup.report.measure(
        "attention, torch's choice", "TFLOP/s", None if setup.small else 631.0, lambda: rate(None),
        kernel=str(kernel.key)[:120] if kernel else "",
    )  # fmt: skip
    for name in BACKENDS:
        expected = None if setup.small or name not in PUBLISHED else PUBLISHED[name] / 1e12
        setup.report.measure(
            f"attention, {name}", "TFLOP/s", expected, partial(rate, AttentionBackendName(name))
        )  # fmt: skip
