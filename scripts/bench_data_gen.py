"""Grids a second: the stock pipeline called in a loop, against dsd-data-gen's teacher, in one process and in turns.

python scripts/bench_data_gen.py                                              # the toybox, on this machine
python scripts/bench_data_gen.py --shape flux_dev --batch_size 4              # random bf16 weights, on a GPU
"""

import dsd  # first, as it quietens the libraries

# isort: split
import argparse
import json
import platform
import statistics
import time

import torch
from omegaconf import OmegaConf

from dsd.app import CONFIG_DIR
from dsd.data_gen.teachers import PipelineTeacher
from dsd.flow import generator_at
from dsd.manifest import write_json
from dsd.models.base import to_device
from dsd.models.shapes import random_flux_dev
from dsd.toybox.prompts import ToyboxPrompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["toybox", "flux_dev"], default="toybox")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", default="outputs/bench/data_gen.json")
    arguments = parser.parse_args()
    model, device = OmegaConf.load(f"{CONFIG_DIR}/model/{arguments.shape}.yaml"), to_device(arguments.device)
    names = ("dtype", "panel_height", "panel_width", "max_sequence_length", "num_inference_steps", "guidance_scale")
    settings = {name: model[name] for name in names}
    base = "pkg://dsd.toybox/weights/teacher"
    teacher = PipelineTeacher(base, **{**settings, "dtype": "float32"}, device=str(device))
    if arguments.shape == "flux_dev":
        teacher.pipeline = random_flux_dev(torch.bfloat16, device)
        teacher.pipeline.set_progress_bar_config(disable=True)
    prompt_at, times = ToyboxPrompts("2x2", "same", 0), ([], [])
    for batch in range(arguments.batches + 1):  # the first warms up
        prompts = [prompt_at(batch * arguments.batch_size + row) for row in range(arguments.batch_size)]
        began = time.perf_counter()
        for prompt in prompts:
            teacher.pipeline(
                prompt=prompt.prompt, generator=generator_at(prompt.index), height=2 * model.panel_height,
                width=2 * model.panel_width, **teacher.settings,
            )  # fmt: skip
        middle = time.perf_counter()
        teacher(prompts, [prompt.index for prompt in prompts])
        if batch:
            times[0].append(middle - began)
            times[1].append(time.perf_counter() - middle)
    ratios = [a / b for a, b in zip(*times, strict=True)]
    rate = [arguments.batch_size / statistics.median(side) for side in times]
    report = {
        "dsd": dsd.__version__, "torch": torch.__version__, "threads": torch.get_num_threads(),
        "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU",
        "shape": arguments.shape, "batch_size": arguments.batch_size, "stock_grids_a_second": rate[0],
        "ours_grids_a_second": rate[1], "ratio": statistics.median(ratios), "ratio_low": min(ratios),
        "ratio_high": max(ratios),
    }  # fmt: skip
    write_json(arguments.output, report)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
