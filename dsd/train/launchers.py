"""How processes share the work: configs/launcher/*.yaml. torchrun (or accelerate launch, or srun) starts them."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import torch
from accelerate import Accelerator, DeepSpeedPlugin, DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from dsd.errors import UserError
from dsd.models.families import block_lists

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]


@dataclass(frozen=True)
class Share:
    """What a process does in a step."""

    micro_batch: int
    accumulation: int
    max_grad_norm: float
    timeout_minutes: float  # the longest wait for another process


class Launcher(Protocol):
    """Divides a transformer and its optimiser among the processes."""

    @property
    def name(self) -> str: ...

    @property
    def needs_torchrun(self) -> bool:
        """Whether it works only in a process that torchrun or the like has started."""
        ...

    def accelerator(self, share: Share, device: str) -> dict[str, Any]:
        """Make the arguments of the Accelerator."""
        ...

    def divide(
        self, accelerator: Accelerator, transformer: Any, make_optimizer: MakeOptimizer
    ) -> tuple[nn.Module, Any]:
        """Divide the transformer and its optimiser; return both as the accelerator prepared them."""
        ...


@dataclass(frozen=True)
class Ddp:
    """Every process holds the whole transformer; also for a single process."""

    name: str = "ddp"
    needs_torchrun: bool = False

    def accelerator(self, share: Share, device: str) -> dict[str, Any]:
        arguments = common_arguments(share, device)
        # gradients are views of what is sent: without it there is a second copy of them all
        handler = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
        return {**arguments, "kwargs_handlers": [*arguments["kwargs_handlers"], handler]}

    def divide(
        self, accelerator: Accelerator, transformer: Any, make_optimizer: MakeOptimizer
    ) -> tuple[nn.Module, Any]:
        divided: tuple[nn.Module, Any] = accelerator.prepare(transformer, make_optimizer(transformer))
        return divided


@dataclass(frozen=True)
class Zero:
    """DeepSpeed: optimiser state and gradients are divided (stage 2), parameters as well (stage 3)."""

    stage: int
    offload: str = "none"  # or cpu
    needs_torchrun: bool = True

    @property
    def name(self) -> str:
        return f"zero{self.stage}"

    def accelerator(self, share: Share, device: str) -> dict[str, Any]:
        settings = {
            "train_micro_batch_size_per_gpu": share.micro_batch,
            "gradient_accumulation_steps": share.accumulation,
            "gradient_clipping": share.max_grad_norm,
            "zero_optimization": {
                "stage": self.stage,
                "offload_optimizer": {"device": self.offload},
                "offload_param": {"device": self.offload if self.stage == 3 else "none"},
            },
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # the config's optimiser is used wherever its state is
        }
        plugin = DeepSpeedPlugin(hf_ds_config=settings, zero3_init_flag=False)  # encoders are loaded undivided
        # cpu=True would disable DeepSpeed; it runs on the CPU all the same, by DS_ACCELERATOR
        return {**common_arguments(share, device), "deepspeed_plugin": plugin, "cpu": False}

    def divide(
        self, accelerator: Accelerator, transformer: Any, make_optimizer: MakeOptimizer
    ) -> tuple[nn.Module, Any]:
        divided: tuple[nn.Module, Any] = accelerator.prepare(transformer, make_optimizer(transformer))
        return divided


@dataclass(frozen=True)
class Fsdp2:
    """PyTorch's `fully_shard`: parameters, gradients and optimiser state are divided and gathered block by block.

    It is called here and not by accelerate, whose plugin works on GPUs alone.
    """

    reshard_after_forward: bool = True
    cpu_offload: bool = False
    name: str = "fsdp2"
    needs_torchrun: bool = True

    def accelerator(self, share: Share, device: str) -> dict[str, Any]:
        return common_arguments(share, device)

    def divide(
        self, accelerator: Accelerator, transformer: Any, make_optimizer: MakeOptimizer
    ) -> tuple[nn.Module, Any]:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)
        policy: dict[str, Any] = {
            "mp_policy": MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32 if dtype else None),
            "offload_policy": CPUOffloadPolicy() if self.cpu_offload else OffloadPolicy(),
            "mesh": torch.distributed.init_device_mesh(accelerator.device.type, (accelerator.num_processes,)),
        }
        transformer.to(accelerator.device)
        # FLUX's single blocks return views, but nothing modifies them in place
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)
        for block in (block for blocks in block_lists(transformer).values() for block in blocks):
            fully_shard(block, reshard_after_forward=self.reshard_after_forward, **policy)
        fully_shard(transformer, **policy)
        return transformer, accelerator.prepare_optimizer(make_optimizer(transformer))


def refuse_alone(launcher: Launcher) -> None:
    """Raise UserError where a launcher needs torchrun and this process was started without it."""
    if launcher.needs_torchrun and "RANK" not in os.environ:
        raise UserError(f"launcher={launcher.name} divides the work of several processes; start them with torchrun")


def common_arguments(share: Share, device: str) -> dict[str, Any]:
    """Make the arguments of the Accelerator that all launchers have."""
    # otherwise DeepSpeed infers the device and logs a warning
    os.environ.setdefault("DS_ACCELERATOR", "cpu" if device == "cpu" else "cuda")
    several, timeout = int(os.environ.get("WORLD_SIZE", 1)) > 1, timedelta(minutes=share.timeout_minutes)
    backend = "gloo" if device == "cpu" else "nccl"
    handlers: list[Any] = [InitProcessGroupKwargs(backend=backend, timeout=timeout)] if several else []
    return {"gradient_accumulation_steps": share.accumulation, "kwargs_handlers": handlers, "cpu": device == "cpu"}
