"""Measure on one GPU, in ten minutes, what `docs/inference.md` and the experiment files say by arithmetic.

    python scripts/bench/gpu_report.py                                       # FLUX.1-dev's shape, random weights
    python scripts/bench/gpu_report.py --sections drawing try --deadline 900
    python scripts/bench/gpu_report.py --shape toybox --device cpu           # every section in small, without a GPU

Every row is on disk (report.jsonl) as soon as it is known, with what was predicted before; report.md and report.png
follow at the end. A section that runs out of time, or that the device cannot run, leaves a row that says so.
"""

import time

from dsd.runs.command import quiet

if __name__ == "__main__":
    quiet()  # before the libraries are imported
    STARTED = time.monotonic()

# isort: split
import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu import ceilings, drawing, grids, profiling, recipes, tokens, training, trials
from gpu.report import Report
from gpu.setup import Setup
from gpu.table import markdown, plot

from dsd.errors import UserError
from dsd.io.files import atomic
from dsd.models.loading import to_device
from dsd.runs.manifest import versions
from dsd.runs.messages import explain

Section = Callable[[Setup], None]
SECTIONS: dict[str, tuple[float, Section]] = {  # seconds, in this order; what is left over goes to `try`
    "ceilings": (30, ceilings.run),
    "drawing": (160, drawing.run),
    "training": (130, training.run),
    "grids": (130, grids.run),
    "tokens": (30, tokens.run),
    "profile": (40, profiling.run),
    "memory": (60, recipes.run),
    "try": (float("inf"), trials.run),
}
CLOSING = 5  # seconds for the table and the plot
GRAPHS = 64  # of one kind of block: this process compiles it for many sides, sizes and trials


def main(started: float) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["flux_dev", "toybox"], default="flux_dev")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--deadline", type=float, default=600, help="seconds for everything, from the start")
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--steps", type=int, help="of a picture; default 28, for the toybox 4")
    parser.add_argument("--repeats", type=int, help="of what is timed, in turns; default 5, for the toybox 1")
    parser.add_argument("--output", default="outputs/bench/gpu", help="folder of the report")
    arguments = parser.parse_args()
    device, small = to_device(arguments.device), arguments.shape == "toybox"
    if not small and device.type != "cuda":
        raise UserError("gpu_report.py measures a GPU and there is none; --shape toybox --device cpu tries it in small")
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    lines = folder / "report.jsonl"
    lines.unlink(missing_ok=True)
    report = Report(lines, device, started + arguments.deadline - CLOSING)
    about = machine(device) | {"shape": arguments.shape}
    report.write(name="machine", **about)
    torch._dynamo.config.recompile_limit = GRAPHS
    setup = Setup(
        arguments.shape,
        device,
        report,
        arguments.steps or (4 if small else 28),
        arguments.repeats or (1 if small else 5),
    )
    setup.peak = ceilings.peak(setup)
    for name, (budget, section) in SECTIONS.items():
        if name in arguments.sections:
            # in small it is tried whether all sections run; how fast they do depends on the machine
            report.run(name, float("inf") if small else budget, partial(section, setup))
    with atomic(folder / "report.md") as temporary:
        temporary.write_text(markdown(about, report.rows), encoding="utf-8")
    plot(folder / "report.png", about, report.rows)
    skipped = sum("skipped" in row for row in report.rows)
    print(f"{folder}: {len(report.rows)} rows ({skipped} skipped) in {time.monotonic() - started:.0f} s")


def machine(device: torch.device) -> dict[str, Any]:
    """Name the machine, its driver and the libraries."""
    about: dict[str, Any] = versions("torch", "diffusers", "transformers", "peft", "torchao", "triton")
    if device.type != "cuda":
        return {"machine": f"{platform.machine()} CPU", "threads": torch.get_num_threads(), **about}
    properties = torch.cuda.get_device_properties(device)
    return {
        "machine": properties.name, "memory_gb": round(properties.total_memory / 1e9, 1), "driver": driver(),
        "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "cores": os.cpu_count(), **about,
    }  # fmt: skip


def driver() -> str:
    """Ask for the version of the driver."""
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


if __name__ == "__main__":
    try:
        main(STARTED)
    except UserError as error:
        sys.exit(str(explain(error)))
