"""A training step in a plain loop against ours, in one process and in turns (goals P6 and P7).

python scripts/bench/train.py                                          # the toybox, on this machine
python scripts/bench/train.py --shape flux_dev --rank 128 --compile     # random bf16 weights, on a GPU

Plain: every block checkpointed, eager, AdamW as torch.optim gives it. Ours: as many blocks as the memory asks for,
fused AdamW, compiled blocks. Both train the same LoRA on the same batch, and their losses are compared.
"""

import dsd  # first, as it quietens the libraries

# isort: split
import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import torch
from diffusers.training_utils import cast_training_params
from dsd.train.activations import checkpoint_blocks

from dsd.files import write_json
from dsd.models.adapter import build_student, trainable_parameters
from dsd.models.flops import lora_step_flops, matmul_flops
from dsd.models.flux_dev import random_flux_dev
from dsd.models.loading import load_pipeline, to_device
from dsd.train.loop import velocity_model
from dsd.train.loss import Batch, flow_loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["toybox", "flux_dev"], default="toybox")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--targets", default="all_linear")
    parser.add_argument("--batch_size", type=int, help="default 16 for the toybox, 1 for FLUX")
    parser.add_argument("--activation_gb", type=float, help="our budget; none checkpoints no block")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--repeats", type=int, default=5, help="steps on each side, taken in turns")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", default="outputs/bench/train.json")
    arguments = parser.parse_args()
    device, small = to_device(arguments.device), arguments.shape == "toybox"
    rows, columns, text = (4, 8, 56) if small else (32, 64, 512)
    size = arguments.batch_size or (16 if small else 1)

    def student() -> torch.nn.Module:
        if small:
            base = load_pipeline("pkg://dsd.toybox/weights/teacher", device=str(device)).transformer
        else:
            torch.manual_seed(0)  # the same weights on both sides
            base = random_flux_dev(torch.bfloat16, device, text=False).transformer
        built = build_student(base, arguments.rank, arguments.rank, arguments.targets)
        cast_training_params(built, torch.float32)
        return built

    plain, ours = student(), student()
    plain.enable_gradient_checkpointing()
    plain.train()
    if arguments.activation_gb is not None:
        checkpoint_blocks(ours, arguments.activation_gb, size, rows, columns, text)
    if arguments.compile:
        ours.compile_repeated_blocks()
    flops = lora_step_flops(ours, rows * columns, text)
    batch = random_batch(ours, size, rows * columns, text).to(device)
    steps = [
        stepper(plain, torch.optim.AdamW(list(trainable_parameters(plain).values()), lr=1e-4), batch, rows, columns),
        stepper(
            ours,
            torch.optim.AdamW(list(trainable_parameters(ours).values()), lr=1e-4, fused=True),
            batch,
            rows,
            columns,
        ),
    ]
    losses = [step() for step in steps]  # warms up
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(arguments.repeats):
        for step, taken in zip(steps, times, strict=True):
            began = time.perf_counter()
            step()
            taken.append(time.perf_counter() - began)
    ratios = [a / b for a, b in zip(*times, strict=True)]
    report = {
        "dsd": dsd.__version__, "torch": torch.__version__, "threads": torch.get_num_threads(),
        "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU",
        **{name: value for name, value in vars(arguments).items() if name != "output"}, "batch_size": size,
        "plain_seconds": statistics.median(times[0]), "our_seconds": statistics.median(times[1]),
        "ratio": statistics.median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios),
        "loss_difference": abs(losses[0] - losses[1]) / losses[0],
    }  # fmt: skip
    if device.type == "cuda":
        peak = matmul_flops(device)
        report["matmul_tflops"] = peak / 1e12
        report["mfu"] = [size * flops / statistics.median(taken) / peak for taken in times]
        report["memory_gb"] = torch.cuda.max_memory_reserved(device) / 1e9
    write_json(arguments.output, report)
    print(json.dumps(report, indent=2))


def random_batch(student: torch.nn.Module, size: int, tokens: int, text: int) -> Batch:
    config, generator = student.config, torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    channels = config.out_channels
    return Batch(
        draw(size, tokens, channels), draw(size, tokens, channels), draw(size, text, config.joint_attention_dim),
        draw(size, config.pooled_projection_dim), draw(size, tokens, channels), torch.rand(size, generator=generator),
    )  # fmt: skip


def stepper(
    student: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, rows: int, columns: int
) -> Callable[[], float]:
    """A function that takes one step and returns its loss."""
    device = batch.latents.device
    velocity = velocity_model(student, student.config, student.dtype, 1.0, "column")
    weights = torch.ones(rows * columns, device=device)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def step() -> float:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = flow_loss(lambda noisy, given: velocity(noisy, given, rows, columns), batch, weights).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())  # waits for the device

    return step


if __name__ == "__main__":
    main()
