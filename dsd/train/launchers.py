"""How processes share the work: configs/launcher/*.yaml. Start them with torchrun (or accelerate launch, or srun).

Each is a function `(Share, device) -> Sharing`.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator, DeepSpeedPlugin, InitProcessGroupKwargs
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]


@dataclass(frozen=True)
class Share:
    """What a process does in a step."""

    micro_batch: int
    accumulation: int
    max_grad_norm: float


@dataclass(frozen=True)
class Sharing:
    """What an Accelerator is told, and how the student and its optimiser are divided among the processes."""

    accelerator: dict[str, Any]
    divide: Callable[[Accelerator, nn.Module, MakeOptimizer], tuple[nn.Module, Any]]


def ddp(share: Share, device: str) -> Sharing:
    """Every process holds the whole model; also for a single one."""
    return Sharing(_accelerator(share, device), _prepare)


def zero(share: Share, device: str, stage: int, offload: str = "none") -> Sharing:
    """DeepSpeed: optimiser state and gradients divided (stage 2), parameters as well (3); `offload`: none, cpu."""
    settings = {
        "train_micro_batch_size_per_gpu": share.micro_batch,
        "gradient_accumulation_steps": share.accumulation,
        "gradient_clipping": share.max_grad_norm,
        "zero_optimization": {
            "stage": stage,
            "offload_optimizer": {"device": offload},
            "offload_param": {"device": offload if stage == 3 else "none"},
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # the optimiser is the config's, wherever its state is
    }
    known = _accelerator(share, device)
    plugin = DeepSpeedPlugin(hf_ds_config=settings, zero3_init_flag=False)  # encoders are read as they are
    # said without need, cpu= turns DeepSpeed off
    return Sharing({**known, "deepspeed_plugin": plugin, "cpu": False}, _prepare)


def fsdp2(share: Share, device: str, reshard_after_forward: bool = True, cpu_offload: bool = False) -> Sharing:
    """PyTorch's own `fully_shard`: parameters, gradients and optimiser state divided, gathered a block at a time.

    Called here and not by accelerate, whose plugin does so on GPUs alone.
    """

    def divide(accelerator: Accelerator, student: Any, make_optimizer: MakeOptimizer) -> tuple[nn.Module, Any]:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)
        policy: dict[str, Any] = {
            "mp_policy": MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32 if dtype else None),
            "offload_policy": CPUOffloadPolicy() if cpu_offload else OffloadPolicy(),
            "mesh": torch.distributed.init_device_mesh(accelerator.device.type, (accelerator.num_processes,)),
        }
        student.to(accelerator.device)
        # FLUX's single blocks return views, in place of which nothing is written
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)
        for block in (*student.transformer_blocks, *student.single_transformer_blocks):
            fully_shard(block, reshard_after_forward=reshard_after_forward, **policy)
        fully_shard(student, **policy)
        return student, accelerator.prepare_optimizer(make_optimizer(student))

    return Sharing(_accelerator(share, device), divide)


def _prepare(accelerator: Accelerator, student: nn.Module, make_optimizer: MakeOptimizer) -> tuple[nn.Module, Any]:
    return accelerator.prepare(student, make_optimizer(student))


def _accelerator(share: Share, device: str) -> dict[str, Any]:
    os.environ.setdefault("DS_ACCELERATOR", "cpu" if device == "cpu" else "cuda")  # else DeepSpeed guesses, aloud
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    handlers: list[Any] = [InitProcessGroupKwargs(backend="gloo")] if device == "cpu" and several else []
    return {"gradient_accumulation_steps": share.accumulation, "kwargs_handlers": handlers, "cpu": device == "cpu"}
