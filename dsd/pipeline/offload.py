"""Where the weights are while they are not at work: configs/memory/*.yaml, by diffusers' own hooks.

Each is a function `(pipeline, device)`. Which settings go together is said by `check`, before anything is loaded.
"""

import torch
from diffusers import DiffusionPipeline

from dsd.errors import UserError

HOOKED = ("model_offload", "sequential_offload", "group_offload")


def check(memory: str, quantization: str, device: torch.device) -> None:
    """UserError with the reason where two settings do not go together."""
    if memory in HOOKED and device.type == "cpu":
        raise UserError(f"memory={memory} moves weights to a GPU and there is none; use memory=none on a CPU")
    if quantization == "nf4" and device.type == "cpu":
        raise UserError("quantization=nf4 needs a GPU (bitsandbytes); use quantization=int8 or gguf on a CPU")
    if memory == "sequential_offload" and quantization != "none":
        raise UserError(
            f"memory={memory} takes every layer's weights apart, which quantised ones ({quantization}) do not survive; "
            "use memory=model_offload or group_offload"
        )
    if memory == "group_offload" and quantization == "nf4":
        raise UserError("memory=group_offload cannot move bitsandbytes' weights; use memory=model_offload with nf4")


def none(pipeline: DiffusionPipeline, device: torch.device) -> None:
    """Everything stays on the device."""
    pipeline.to(device)


def model_offload(pipeline: DiffusionPipeline, device: torch.device) -> None:
    """One component at a time is on the GPU."""
    pipeline.precompute = False  # its modules are called one by one, where hooks do not look
    pipeline.enable_model_cpu_offload(device=device)


def sequential_offload(pipeline: DiffusionPipeline, device: torch.device) -> None:
    """One layer at a time: 1 to 2 GB, and slow."""
    pipeline.precompute = False
    pipeline.enable_sequential_cpu_offload(device=device)


def group_offload(pipeline: DiffusionPipeline, device: torch.device, use_stream: bool = True) -> None:
    """Some layers at a time, the next ones copied while these compute."""
    pipeline.precompute = False
    pipeline.enable_group_offload(
        onload_device=device, offload_type="leaf_level", use_stream=use_stream, low_cpu_mem_usage=True
    )
