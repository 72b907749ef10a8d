"""Place a pipeline's weights while they are not used, by diffusers' own hooks."""

from typing import Any

import torch

from dsd.errors import UserError


def refuse_without_gpu(offload: str, quantization: str, device: torch.device) -> None:
    """Raise UserError where a setting needs a GPU and `device` is none."""
    if offload != "none" and device.type == "cpu":
        raise UserError(f"offload={offload} moves weights to a GPU and there is none; use offload=none on a CPU")
    if quantization == "nf4" and device.type == "cpu":
        raise UserError("quantization=nf4 needs a GPU (bitsandbytes); use quantization=int8 or gguf on a CPU")


def place(pipeline: Any, device: torch.device, offload: str = "none", use_stream: bool = True) -> None:
    """Put a pipeline on a device, whole or with hooks that bring weights when they are needed.

    `none`: everything stays on the device. `model`: one component at a time. `sequential`: one layer at a time, 1 to
    2 GB and slow. `group`: some layers at a time, the next ones copied meanwhile (`use_stream`).
    """
    if offload == "none":
        pipeline.to(device)
        return
    pipeline.precompute = False  # it calls modules one by one, which the hooks do not see
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.enable_group_offload(
            onload_device=device, offload_type="leaf_level", use_stream=use_stream, low_cpu_mem_usage=True
        )
