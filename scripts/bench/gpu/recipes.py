"""Peaks of GPU and system memory of the recipes for cards of 24, 16 and 12 GB, each in a process of its own."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from gpu.setup import Setup

SCRIPT = Path(__file__).parents[1] / "memory.py"
CARDS = (24, 16, 12)  # GB as sold, GiB as built
# Billions of parameters of FLUX.1-dev's parts, and bytes a parameter
PARTS = {"transformer": 11.9, "text_encoder_2": 4.76, "others": 0.21}
BYTES = {"none": 2.0, "int8": 1.0, "fp8": 1.0, "nf4": 0.56, "gguf": 0.56}
WORKING = 1.5  # GB of activations and of the allocator, a guess
SECONDS = 20  # that a process takes at least: imports, 34 GB of weights, four steps
# By what they settle, the first ones first; gguf and nf4 go over the disk.
RECIPES = (
    "offload=none quantization=int8 quantized_parts=[transformer,text_encoder_2]",
    "offload=model quantization=int8 quantized_parts=[transformer,text_encoder_2]",
    "offload=none quantization=fp8",
    "offload=group",
    "offload=model quantization=nf4",
    "offload=model quantization=gguf gguf_kind=Q4_0",
    "offload=sequential",
)
SMALL = ("offload=none quantization=int8", "offload=model quantization=nf4")


def predicted_gib(recipe: str) -> float | None:
    """Expect the GPU's peak from the parts that are on it at once; None where layers come one by one."""
    told = dict(part.split("=", 1) for part in recipe.split())
    if told["offload"] in ("group", "sequential"):
        return None
    kind, quantized = told.get("quantization", "none"), told.get("quantized_parts", "[transformer]")
    sizes = [num * BYTES[kind if part in quantized.strip("[]").split(",") else "none"] for part, num in PARTS.items()]
    return ((max if told["offload"] == "model" else sum)(sizes) + WORKING) / 1.0737


def run(setup: Setup) -> None:
    """Measure the recipes as long as there is time."""
    for recipe in SMALL if setup.small else RECIPES:
        if not setup.on_gpu and "offload=none" not in recipe:
            setup.report.skip(f"memory, {recipe}", "needs a GPU")
        elif setup.report.left_here() < SECONDS:
            setup.report.skip(f"memory, {recipe}", "no time left to this section")
        else:
            one(setup, recipe)


def one(setup: Setup, recipe: str) -> None:
    """Measure one recipe; write its peaks and the cards that hold it."""
    predicted, found = predicted_gib(recipe) if not setup.small else None, dict[str, Any]()

    def measure() -> float | None:
        found.update(peaks(setup, recipe))
        peak: float | None = found.get("gpu_peak_gib", found["system_gib"])
        return peak

    setup.report.measure(f"memory, {recipe}", "GiB", predicted, measure)
    if found:
        peak = found.get("gpu_peak_gib")
        fits = [card for card in CARDS if peak is not None and peak < 0.95 * card]
        told = ", ".join(map(str, fits)) or "none"
        setup.report.write(name=f"cards that hold {recipe}", unit="GB", measured=told, **found)


def peaks(setup: Setup, recipe: str) -> dict[str, Any]:
    """Run `memory.py` on one recipe. RuntimeError with its last line where it fails."""
    command = [sys.executable, str(SCRIPT), recipe, "--here", "--shape", setup.shape, "--device", str(setup.device)]
    ask = partial(subprocess.run, capture_output=True, text=True, check=False)
    done = ask([*command, "--steps", str(min(setup.steps, 4))], timeout=max(1.0, setup.report.left_here()))
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
