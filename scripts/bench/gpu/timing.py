"""Time calls where they run: CUDA events on a GPU, the clock on a CPU."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping

import torch

Call = Callable[[], object]


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(call: Call, device: torch.device) -> float:
    """Time one call. On a GPU it is the device's own time, from the first kernel to the last."""
    if device.type != "cuda":
        began = time.perf_counter()
        call()
        return time.perf_counter() - began
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    first.record(torch.cuda.current_stream(device))
    call()
    last.record(torch.cuda.current_stream(device))
    last.synchronize()
    return float(first.elapsed_time(last)) / 1000


def in_turns(sides: Mapping[str, Call], device: torch.device, repeats: int, warm: int = 2) -> dict[str, float]:
    """Call every side `warm` times, then time all sides `repeats` times in turns: the median of each."""
    for call in sides.values():
        for _ in range(warm):
            call()
    wait(device)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, call in sides.items():
            times[name].append(seconds(call, device))
    return {name: statistics.median(some) for name, some in times.items()}


def free(device: torch.device) -> None:
    """Give back what nobody holds any more: compiled graphs, objects in cycles, the allocator's cache."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def allocated_gb(device: torch.device) -> float:
    """Memory that tensors take now; 0 on a CPU."""
    return torch.cuda.memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0


def peak_gb(call: Call, device: torch.device) -> float | None:
    """Measure the most memory that tensors take during a call, those that are there already included."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) / 1e9


def free_gb(device: torch.device) -> float | None:
    """Memory that tensors may still take: what the driver has left and what the allocator keeps unused."""
    if device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (torch.cuda.mem_get_info(device)[0] + unused) / 1e9
