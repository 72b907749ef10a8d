"""Measure peak GPU memory and peak system memory of inference settings, each in a process of its own.

    python scripts/bench/memory.py --shape flux_dev                       # the recipes of README.md, random weights
    python scripts/bench/memory.py --model path --adapter path "offload=model quantization=int8"

A setting is a string of dsd-infer's overrides: offload=, quantization=, speed= and settings. One that is refused or
does not fit is in the table with its reason.
"""

from dsd.runs.command import CONFIG_DIR, quiet

if __name__ == "__main__":
    quiet()  # before the libraries are imported

# isort: split
import argparse
import json
import platform
import resource
import subprocess
import sys
import time

import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image

from dsd.errors import UserError
from dsd.infer.settings import InferSettings
from dsd.io.files import resolve, write_json
from dsd.models.conditional import join, split
from dsd.models.flux_dev import random_flux_dev
from dsd.models.loading import to_device
from dsd.models.quantize import quantize
from dsd.pipeline.offload import place, refuse_without_gpu
from dsd.pipeline.pipeline import DSDPipeline
from dsd.runs.messages import explain
from dsd.runs.settings import plain

TOYBOX = "pkg://dsd.toybox/weights/teacher"
RECIPES = (
    "offload=none",
    "offload=none quantization=int8",
    "offload=none quantization=fp8",
    "offload=none quantization=int8 quantized_parts=[transformer,text_encoder_2]",
    "offload=model",
    "offload=model quantization=int8",
    "offload=model quantization=nf4",
    "offload=model quantization=gguf gguf_kind=Q4_0",
    "offload=group",
    "offload=sequential",
)


def measure(setting: str, arguments: argparse.Namespace) -> dict[str, float | str]:
    """Load and prepare a pipeline and draw one picture, in this process; report the peaks in GiB."""
    cfg, device = compose_setting(setting, arguments.shape), to_device(arguments.device)
    refuse_without_gpu(cfg.offload.value, cfg.quantization.value, device)
    pipeline, speed = load(cfg, arguments, device), instantiate(cfg.speed)
    quantize(pipeline, device, cfg.quantization.value, cfg.quantized_parts, cfg.gguf_kind)
    speed(pipeline, device)
    pipeline.precompute = speed.precompute
    place(pipeline, device, cfg.offload.value)
    loaded = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    began = time.monotonic()
    settings = {**plain(cfg)["settings"], "num_inference_steps": arguments.steps}
    pipeline("a robot at the beach", Image.new("RGB", (512, 512), "red"), **settings)
    gib = 2**30
    report: dict[str, float | str] = {
        "system_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / gib,
        "seconds_a_step": (time.monotonic() - began) / arguments.steps,
    }
    if device.type == "cuda":
        report["gpu_loaded_gib"] = loaded / gib
        report["gpu_peak_gib"] = torch.cuda.max_memory_reserved(device) / gib
    return report


def compose_setting(setting: str, shape: str) -> DictConfig:
    """Read a setting as dsd-infer does."""
    ConfigStore.instance().store("infer_schema", InferSettings)
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        return compose("infer", [f"model={shape}", *setting.split()])


def load(cfg: DictConfig, arguments: argparse.Namespace, device: torch.device) -> DSDPipeline:
    """Load the pipeline that is asked for, on the CPU."""
    if arguments.model:
        dtype = "float32" if device.type == "cpu" else "bfloat16"
        pipeline: DSDPipeline = DSDPipeline.from_base(arguments.model, arguments.adapter, dtype=dtype)
        return pipeline
    toybox = resolve(TOYBOX)
    base = (
        DSDPipeline.from_pretrained(toybox)
        if arguments.shape == "toybox"
        else random_flux_dev(torch.bfloat16, "cpu", toybox)
    )
    split(base.transformer)
    join(base.transformer)
    return DSDPipeline(**base.components)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="each a string of overrides; default: the recipes")
    parser.add_argument("--shape", choices=["toybox", "flux_dev"], default="toybox", help="random weights' shape")
    parser.add_argument("--model", help="a pipeline folder or hub id, instead of random weights")
    parser.add_argument("--adapter", help="of dsd-train, for --model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--output", default="outputs/bench/memory.json")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # one setting, in this process
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(arguments.settings[0], arguments)))
        return
    device = to_device(arguments.device)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    same = [a for a in sys.argv[1:] if a not in arguments.settings]
    print(f"{machine}, torch {torch.__version__}, shape {arguments.model or arguments.shape}\n")
    print("| setting | GPU, loaded | GPU, peak | system, peak | seconds a step |\n| --- | --- | --- | --- | --- |")
    rows = []
    for setting in arguments.settings or RECIPES:
        done = subprocess.run(
            [sys.executable, __file__, setting, *same, "--here"], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            row = json.loads(done.stdout.strip().splitlines()[-1])
            cells = [row.get("gpu_loaded_gib"), row.get("gpu_peak_gib"), row["system_gib"]]
            shown = [f"{cell:.2f} GiB" if cell is not None else "-" for cell in cells]
            print(f"| {setting} | {' | '.join(shown)} | {row['seconds_a_step']:.3g} |", flush=True)
        else:
            row = {"refused": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
            print(f"| {setting} | {row['refused']} | | | |", flush=True)
        rows.append({"setting": setting, **row})
    write_json(arguments.output, {"machine": machine, "shape": arguments.model or arguments.shape, "settings": rows})
    print(f"\n{arguments.output}: {len(rows)} settings")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(explain(error)))
