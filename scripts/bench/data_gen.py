"""Count grids a second: the stock pipeline called in a loop, against dsd-data-gen's teacher, in turns.

    python scripts/bench/data_gen.py                                              # the toybox, on this machine
    python scripts/bench/data_gen.py --shape flux_dev --batch_size 4              # random bf16 weights, on a GPU
    python scripts/bench/data_gen.py --shape flux_dev --batch_size 4 --quantization fp8

Ours does what a shard needs: it encodes the text first, draws in batches, and writes PNGs and Parquet beside the
drawing. Theirs makes PNGs, too.
"""

from dsd.runs.command import quiet

if __name__ == "__main__":
    quiet()  # before the libraries are imported

# isort: split
import argparse
import json
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import cast

import torch
from diffusers import FluxPipeline
from gpu.sides import base_pipeline, twin
from omegaconf import DictConfig, OmegaConf

from dsd.data_gen.grids import draw
from dsd.data_gen.prompts_ahead import PromptsAhead
from dsd.data_gen.teachers import PipelineTeacher
from dsd.flow import generator_at
from dsd.io.files import write_json
from dsd.io.pictures import png
from dsd.io.records import Grid, features
from dsd.models.loading import to_device
from dsd.models.settings import Quantization
from dsd.models.speed import Speed
from dsd.runs.command import CONFIG_DIR
from dsd.runs.manifest import versions
from dsd.runs.shards import Shard, write_shard_in_parts
from dsd.toybox.prompts import ToyboxPrompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["toybox", "flux_dev"], default="toybox")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3, help="times that each side draws two batches")
    parser.add_argument("--quantization", default="none", choices=["none", "fp8", "int8"], help="of ours")
    parser.add_argument("--attention_backend", help="of ours, in diffusers' names, such as _native_cudnn")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", default="outputs/bench/data_gen.json")
    arguments = parser.parse_args()
    model = cast(DictConfig, OmegaConf.load(f"{CONFIG_DIR}/model/{arguments.shape}.yaml"))
    device = to_device(arguments.device)
    names = ("panel_height", "panel_width", "max_sequence_length", "num_inference_steps", "guidance_scale")
    settings = {name: model[name] for name in names}
    pipeline = base_pipeline(arguments.shape, device)
    speed = Speed("bench", True, None, arguments.attention_backend, False, None)
    own = FluxPipeline(**{**pipeline.components, "transformer": twin(pipeline.transformer)})  # the weights are shared
    teacher = PipelineTeacher(
        own, "", **settings, speed=speed, quantization=Quantization[arguments.quantization], device=str(device)
    )
    pipeline.set_progress_bar_config(disable=True)
    prompt_at = ToyboxPrompts("2x2", "same", 0)
    times: tuple[list[float], list[float]] = ([], [])
    folder = tempfile.mkdtemp(prefix="dsd-bench-")
    for batch in range(arguments.repeats + 1):  # the first warms up
        num = 2 * arguments.batch_size
        prompts = [prompt_at(batch * num + row) for row in range(num)]
        pipeline.to(device)  # the teacher has sent the text encoders, which both sides share, to the CPU
        began = time.perf_counter()
        for prompt in prompts:
            (image,) = pipeline(
                prompt=prompt.prompt, generator=generator_at(prompt.index), height=2 * model.panel_height,
                width=2 * model.panel_width, **teacher.settings, max_sequence_length=model.max_sequence_length,
            ).images  # fmt: skip
            png(image)
        middle = time.perf_counter()
        shard = Shard(0, prompts[0].index, prompts[-1].index + 1, Path(folder) / "grids" / f"grids-{batch}.parquet")
        write(shard, prompt_at, teacher, arguments.batch_size)
        if batch:
            times[0].append(middle - began)
            times[1].append(time.perf_counter() - middle)
    shutil.rmtree(folder)
    ratios = [a / b for a, b in zip(*times, strict=True)]
    rate = [2 * arguments.batch_size / statistics.median(side) for side in times]
    report = {
        "dsd": versions()["dsd"], "torch": torch.__version__, "threads": torch.get_num_threads(),
        "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU",
        "shape": arguments.shape, "batch_size": arguments.batch_size,
        "quantization": arguments.quantization, "stock_grids_a_second": rate[0],
        "ours_grids_a_second": rate[1], "ratio": statistics.median(ratios), "ratio_low": min(ratios),
        "ratio_high": max(ratios),
    }  # fmt: skip
    write_json(arguments.output, report)
    print(json.dumps(report, indent=2))


def write(shard: Shard, prompt_at: ToyboxPrompts, teacher: PipelineTeacher, batch_size: int) -> None:
    """Draw and write a shard as dsd-data-gen does."""
    prompts_of = PromptsAhead(prompt_at, [range(shard.start, shard.stop)])
    write_shard_in_parts(
        shard, lambda start: draw(range(start, shard.stop), prompts_of, teacher, 0, batch_size, ""), features(Grid)
    )


if __name__ == "__main__":
    main()
