"""How processes share the work: configs/launcher/*.yaml. Start them with torchrun (or accelerate launch, or srun).

Each is a function `(Share, device) -> keyword arguments of Accelerator`.
"""

import os
from dataclasses import dataclass
from typing import Any

from accelerate import DeepSpeedPlugin, FullyShardedDataParallelPlugin, InitProcessGroupKwargs

BLOCKS = ["FluxTransformerBlock", "FluxSingleTransformerBlock"]  # the units that FSDP2 gathers


@dataclass(frozen=True)
class Share:
    """What a process does in a step."""

    micro_batch: int
    accumulation: int
    max_grad_norm: float


def ddp(share: Share, device: str) -> dict[str, Any]:
    """Every process holds the whole model; also for a single one."""
    return {"gradient_accumulation_steps": share.accumulation, **_gloo(device)}


def zero(share: Share, device: str, stage: int, offload: str = "none") -> dict[str, Any]:
    """DeepSpeed: optimiser state and gradients divided (stage 2), parameters as well (3); `offload`: none, cpu."""
    if device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
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
    }  # fmt: skip
    plugin = DeepSpeedPlugin(hf_ds_config=settings)
    return {"deepspeed_plugin": plugin, "gradient_accumulation_steps": share.accumulation, **_gloo(device)}


def fsdp2(share: Share, device: str, reshard_after_forward: bool = True, cpu_offload: bool = False) -> dict[str, Any]:
    """PyTorch's own: parameters, gradients and optimiser state divided, gathered a block at a time."""
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=reshard_after_forward,
        cpu_offload=cpu_offload,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=BLOCKS,
        cpu_ram_efficient_loading=False,
    )
    return {"fsdp_plugin": plugin, "gradient_accumulation_steps": share.accumulation, **_gloo(device)}


def _gloo(device: str) -> dict[str, Any]:
    os.environ.setdefault("DS_ACCELERATOR", "cpu" if device == "cpu" else "cuda")  # else DeepSpeed guesses, aloud
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    return {"kwargs_handlers": [InitProcessGroupKwargs(backend="gloo")]} if device == "cpu" and several else {}
