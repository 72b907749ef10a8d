"""Compare this pipeline with a plain port of the released schedule, in one process, on the same weights.

    python scripts/bench/inference.py                                # the toybox, on this machine
    python scripts/bench/inference.py --shape flux_dev --compile     # FLUX.1-dev's shape, random bf16 weights, on a GPU

The port does what the released code does: LoRA beside the weights, nothing compiled, three forwards of batch 1 for a
guided step, the empty prompt encoded for every picture. Prints a table and writes it, with the machine, to --output.
"""

from dsd.runs.command import quiet

if __name__ == "__main__":
    quiet()  # before the libraries are imported

# isort: split
import argparse
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import diffusers
import torch
from gpu import released
from gpu.sides import students
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dsd.io.files import write_json
from dsd.models.flops import matmul_flops
from dsd.models.loading import to_device
from dsd.models.speed import Speed
from dsd.models.student import Conditions
from dsd.pipeline.guidance import Passes, Scales
from dsd.pipeline.pipeline import DSDPipeline
from dsd.runs.manifest import versions

CASES = {"one pass": (1.0, 1.0), "dual guidance, equal scales": (2.0, 2.0), "dual guidance": (1.5, 3.0)}
PROMPT = "a red round critter with a hat, big, in the middle, beach, sunset"


def plain_port(
    pipeline: DSDPipeline, prompt: str, image: Image.Image, size: int, steps: int, image_scale: float,
    text_scale: float, seed: int, length: int,
) -> Tensor:  # fmt: skip
    """Draw as the released loop does, its texts encoded for every picture; return the final packed latents."""
    prepared = released.prepare(pipeline, prompt, image, size, steps, seed, length)
    return released.denoise(pipeline, prepared, Scales(image_scale, text_scale))


@contextmanager
def counted(pipeline: DSDPipeline) -> Iterator[Counter[str]]:
    """Count calls of the transformer and of T5, and the samples that the transformer sees (`rows`)."""
    counts: Counter[str] = Counter()

    def transformer_called(_: Any, arguments: Any, named: dict[str, Tensor]) -> None:
        counts["forwards"] += 1
        counts["rows"] += len(named["hidden_states"])

    hooks = [
        pipeline.transformer.register_forward_pre_hook(transformer_called, with_kwargs=True),
        pipeline.text_encoder_2.register_forward_pre_hook(lambda *_: counts.update(text=1)),
    ]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def seconds(draw: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    draw()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


@torch.no_grad()
def per_forward(port: DSDPipeline, ours: DSDPipeline, size: int, length: int) -> tuple[float, float]:
    """Measure the relative L2 between the velocities of both at one input, and the FLOP of a merged forward."""
    transformer = ours.transformer
    device, dtype, config, canvas = (
        transformer.device,
        transformer.dtype,
        transformer.config,
        ours.student.canvas(size, size),
    )
    generator = torch.Generator("cpu").manual_seed(1)
    noisy, condition, embeds, pooled = (
        torch.randn(shape, generator=generator).to(device, dtype)
        for shape in (
            (1, canvas.num_tokens, config.out_channels), (1, canvas.num_tokens, config.out_channels),
            (1, length, config.joint_attention_dim), (1, config.pooled_projection_dim),
        )
    )  # fmt: skip
    conditions, sigmas = Conditions(condition, (embeds, pooled)), torch.tensor([0.5], device=device)
    ids = canvas.ids(device=device, dtype=dtype)
    known = ours.precomputed().at(torch.cat([ids.new_zeros(length, 3), ids]))
    expected = Passes(port.student, canvas, 3.5, sigmas).under(conditions)(noisy, 0).float()
    with known:
        got = Passes(ours.student, canvas, 3.5, sigmas, known).under(conditions)(noisy, 0).float()
    with FlopCounterMode(display=False) as counter:
        Passes(ours.student, canvas, 3.5, sigmas).under(conditions)(noisy, 0)
    return float((got - expected).norm() / expected.norm()), float(counter.get_total_flops())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["toybox", "flux_dev"], default="toybox")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", type=int, help="pixels of a panel; default 64 for the toybox, 512 for FLUX")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--repeats", type=int, default=3, help="pictures of a case on each side, taken in turns")
    parser.add_argument("--rank", type=int, help="of the LoRA; default 16 for the toybox, 128 for FLUX, as released")
    parser.add_argument("--compile", action="store_true", help="our side with compiled blocks")
    parser.add_argument("--attention_backend", help="our side with this backend of diffusers, such as _native_cudnn")
    parser.add_argument("--output", default="outputs/bench/inference.json")
    arguments = parser.parse_args()
    device, small = to_device(arguments.device), arguments.shape == "toybox"
    size, length = arguments.size or (64 if small else 512), 56 if small else 512
    port, ours = students(arguments.shape, device, arguments.rank or (16 if small else 128))
    difference, flops = per_forward(port, ours, size, length)
    Speed("bench", True, arguments.compile, arguments.attention_backend, True, None)(ours, device)
    ours.precompute = True
    image = Image.effect_mandelbrot((size, size), (-3, -2.5, 2, 2.5), 100).convert("RGB")
    peak = matmul_flops(device) if device.type == "cuda" else None
    rows = []
    for name, (image_scale, text_scale) in CASES.items():
        common = (size, arguments.steps, image_scale, text_scale)

        def draw_port(seed: int, common: tuple[int, int, float, float] = common) -> Tensor:
            return plain_port(port, PROMPT, image, *common, seed=seed, length=length)

        def draw_ours(seed: int, common: tuple[int, int, float, float] = common) -> Tensor:
            latents: Tensor = ours(
                PROMPT, image, height=size, num_inference_steps=common[1], image_guidance_scale=common[2],
                text_guidance_scale=common[3], generator=torch.Generator("cpu").manual_seed(seed),
                max_sequence_length=length, output_type="latent",
            )[0]  # fmt: skip
            return latents

        final = [draw(0).float() for draw in (draw_port, draw_ours)]  # warms up, compiles, and keeps the empty prompt
        counts: list[Counter[str]] = []
        times: tuple[list[float], list[float]] = ([], [])
        for pipeline, draw in ((port, draw_port), (ours, draw_ours)):
            with counted(pipeline) as count:
                draw(0)
            counts.append(count)
        for seed in range(arguments.repeats):
            for side, draw in enumerate((draw_port, draw_ours)):
                times[side].append(seconds(partial(draw, seed), device))
        ratios = [a / b for a, b in zip(*times, strict=True)]
        median = statistics.median(times[1])
        rows.append(
            {
                "case": name, "s_image": image_scale, "s_text": text_scale,
                "port": dict(counts[0]) | {"seconds": statistics.median(times[0])},
                "ours": dict(counts[1]) | {"seconds": median},
                "ratio": statistics.median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios),
                "final_latents_relative_l2": float((final[0] - final[1]).norm() / final[0].norm()),
                "mfu": counts[1]["rows"] * flops / median / peak if peak else None,
            }
        )  # fmt: skip
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    report = {
        "dsd": versions()["dsd"], "machine": machine, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "diffusers": diffusers.__version__, "shape": arguments.shape, "size": size, "steps": arguments.steps,
        "compile": arguments.compile, "attention_backend": arguments.attention_backend,
        "per_forward_relative_l2": difference, "forward_gflop": flops / 1e9, "matmul_tflops": peak and peak / 1e12,
        "cases": rows,
    }  # fmt: skip
    write_json(arguments.output, report)
    show(report)
    print(f"\n{arguments.output}: {len(rows)} cases, {arguments.repeats} pictures each and side")


def show(report: dict[str, Any]) -> None:
    settings = ", ".join(f"{key} {report[key]}" for key in ("machine", "threads", "torch", "shape", "size", "steps"))
    print(f"{settings}; one forward: {report['forward_gflop']:.1f} GFLOP, ", end="")
    print(f"relative L2 {report['per_forward_relative_l2']:.1e}\n")
    print("| case | forwards (rows) | text encoder | seconds a picture | ratio | MFU |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in report["cases"]:
        sides = [row["port"], row["ours"]]
        forwards = " / ".join(f"{side['forwards']} ({side['rows']})" for side in sides)
        text = " / ".join(str(side.get("text", 0)) for side in sides)
        took = " / ".join(f"{side['seconds']:.3g}" for side in sides)
        spread = f"{row['ratio']:.2f} [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]"
        mfu = f"{row['mfu']:.2f}" if row["mfu"] else "-"
        print(f"| {row['case']} | {forwards} | {text} | {took} | {spread} | {mfu} |")


if __name__ == "__main__":
    main()
