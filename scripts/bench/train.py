"""Compare a training step in a plain loop with ours, in one process and in turns.

    python scripts/bench/train.py                                          # the toybox, on this machine
    python scripts/bench/train.py --shape flux_dev --rank 128 --compile     # random bf16 weights, on a GPU

Plain: every block recomputed, eager, AdamW as torch.optim gives it. Ours: as many blocks recomputed as the memory asks
for, fused AdamW, compiled blocks. Both train the same LoRA on the same batch, and their losses are compared.
"""

from dsd.runs.command import quiet

if __name__ == "__main__":
    quiet()  # before the libraries are imported

# isort: split
import argparse
import json
import platform
import statistics
import time

import torch
from gpu.sides import base_pipeline, twin
from gpu.steps import random_batch, stepper, trainable

from dsd.io.files import write_json
from dsd.models.adapter import trainable_parameters
from dsd.models.canvas import Canvas
from dsd.models.families.flux1 import FAMILY as FLUX1
from dsd.models.flops import lora_step_flops, matmul_flops
from dsd.models.loading import to_device
from dsd.runs.manifest import versions
from dsd.train.recompute import recompute_blocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["toybox", "flux_dev"], default="toybox")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--targets", default="all_linear")
    parser.add_argument("--batch_size", type=int, help="default 16 for the toybox, 1 for FLUX")
    parser.add_argument("--activation_gb", type=float, help="our budget; without it no block is recomputed")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--repeats", type=int, default=5, help="steps on each side, taken in turns")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", default="outputs/bench/train.json")
    arguments = parser.parse_args()
    device, small = to_device(arguments.device), arguments.shape == "toybox"
    canvas, text = (Canvas(4, 8), 56) if small else (Canvas(32, 64), 512)
    size = arguments.batch_size or (16 if small else 1)
    base = base_pipeline(arguments.shape, device, with_text=False).transformer
    plain, ours = (trainable(twin(base), device, arguments.rank, arguments.targets) for _ in range(2))
    plain.enable_gradient_checkpointing()
    plain.train()
    if arguments.activation_gb is not None:
        recompute_blocks(FLUX1, ours, arguments.activation_gb, size, canvas.num_tokens, text)
    if arguments.compile:
        ours.compile_repeated_blocks()
    flops = lora_step_flops(ours, canvas.num_tokens, text)
    batch = random_batch(ours, size, canvas, text).to(device)
    steps = [
        stepper(plain, torch.optim.AdamW(list(trainable_parameters(plain).values()), lr=1e-4), batch),
        stepper(ours, torch.optim.AdamW(list(trainable_parameters(ours).values()), lr=1e-4, fused=True), batch),
    ]
    losses = [float(step()) for step in steps]  # warms up
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(arguments.repeats):
        for step, taken in zip(steps, times, strict=True):
            began = time.perf_counter()
            float(step())  # waits for the device
            taken.append(time.perf_counter() - began)
    ratios = [a / b for a, b in zip(*times, strict=True)]
    report = {
        "dsd": versions()["dsd"], "torch": torch.__version__, "threads": torch.get_num_threads(),
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


if __name__ == "__main__":
    main()
