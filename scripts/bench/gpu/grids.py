"""P5: grids by the stock pipeline and by ours, composed of text, steps and VAE, and checked by whole grids.

The text encoders' way to the CPU is paid once a shard, not a grid; it has a row of its own.
"""

from functools import partial
from typing import Any

import torch
from diffusers import FluxPipeline

from dsd.data_gen.teachers import PipelineTeacher
from dsd.flow import generator_at
from dsd.io.records import Prompt
from dsd.models.families.flux1 import FAMILY as FLUX1
from dsd.models.positions import grid
from dsd.models.quantize import quantize
from dsd.models.speed import Speed
from dsd.toybox.prompts import ToyboxPrompts
from gpu.released import GUIDANCE
from gpu.setup import FP8_GAIN, SHARES, Setup
from gpu.sides import base_pipeline, twin
from gpu.timing import Call, in_turns, seconds, wait

EXACT = Speed("exact", True, None, None, False, None)


@torch.no_grad()
def run(setup: Setup) -> None:
    """Measure the parts of a grid on both sides, put them together, then draw whole grids."""
    stock = base_pipeline(setup.shape, setup.device)
    stock.set_progress_bar_config(disable=True)
    prompt_at = ToyboxPrompts("2x2", "same", 0)
    prompts = [prompt_at(row) for row in range(8)]
    text = text_seconds(setup, stock, prompts)
    vae = {num: vae_seconds(setup, stock, num, sliced=False) for num in (1, 4)}
    vae_seconds(setup, stock, 4, sliced=True)
    stock.vae.disable_slicing()
    per_grid = step_seconds(setup, stock)
    stock_seconds = text["one"] + setup.steps * per_grid["stock, 1"] + vae[1]
    for side, must in (("ours, 1", 1.3), ("ours, 4", 1.3), ("ours, fp8, 4", 1.75)):
        if side in per_grid:
            num = int(side[-1])
            took = text["many"] + setup.steps * per_grid[side] + vae[num] / num
            setup.report.write(
                name=f"grid, stock eager / {side}", unit="ratio", goal="P5", must=must, measured=stock_seconds / took,
                predicted=SHARES["compiled"] / SHARES["eager"] * (FP8_GAIN if "fp8" in side else 1),
                stock_seconds=stock_seconds, our_seconds=took,
            )  # fmt: skip
    whole(setup, stock, prompts, stock_seconds, setup.steps * per_grid["ours, 1"] + vae[1])


def text_seconds(setup: Setup, pipeline: Any, prompts: list[Prompt]) -> dict[str, float]:
    """Time a prompt by itself and as one of eight."""
    texts = [prompt.prompt for prompt in prompts]
    encode = partial(FLUX1.encode_text, pipeline, max_sequence_length=setup.text)
    sides: dict[str, Call] = {"one": lambda: encode(texts[:1]), "many": lambda: encode(texts)}
    found = in_turns(sides, setup.device, setup.repeats, warm=1)
    found["many"] /= len(texts)
    for name, value in found.items():
        setup.report.write(name=f"text, {name} at once", unit="s a prompt", predicted=None, measured=value)
    return found


def vae_seconds(setup: Setup, pipeline: Any, num: int, sliced: bool) -> float:
    """Time the decoding of `num` grids."""
    (pipeline.vae.enable_slicing if sliced else pipeline.vae.disable_slicing)()
    tokens = setup.draw(num, setup.grid.num_tokens, FLUX1.channels(pipeline.transformer))
    call = partial(FLUX1.decode, pipeline.vae, tokens, setup.grid.rows)
    took = in_turns({"": call}, setup.device, setup.repeats, warm=1)[""]
    how = "sliced" if sliced else "whole"
    setup.report.write(name=f"VAE, {num} grids, {how}", unit="s", predicted=None, measured=took)
    return took


def step_seconds(setup: Setup, stock: Any) -> dict[str, float]:
    """Time a step of a grid: stock one by one, ours compiled by one and by four, and in fp8. Weights are shared."""
    flops = setup.flops(stock.transformer, setup.grid.num_tokens)
    ours = FluxPipeline(**{**stock.components, "transformer": twin(stock.transformer)})
    EXACT(ours, setup.device, many=True)
    sides: dict[str, Call] = {
        "stock, 1": step_of(setup, stock, 1),
        "ours, 1": step_of(setup, ours, 1),
        "ours, 4": step_of(setup, ours, 4),
    }
    expected = {name: setup.expected(flops, SHARES["eager" if "stock" in name else "compiled"]) for name in sides}
    for name, value in expected.items():
        setup.report.predict(f"step of a grid, {name}", "s a grid", value)
    found = in_turns(sides, setup.device, setup.repeats)
    found["ours, 4"] /= 4
    for name, value in expected.items():
        setup.report.write(name=f"step of a grid, {name}", unit="s a grid", predicted=value, measured=found[name])
    coarse = FluxPipeline(**{**stock.components, "transformer": twin(stock.transformer)})

    def fp8() -> float:
        quantize(coarse, setup.device, "fp8")
        EXACT(coarse, setup.device, many=True)
        return in_turns({"": step_of(setup, coarse, 4)}, setup.device, setup.repeats)[""] / 4

    value = setup.expected(flops, SHARES["compiled"], FP8_GAIN)
    note = "" if setup.on_gpu else "weights alone: this device multiplies no fp8"
    took = setup.report.measure("step of a grid, ours, fp8, 4", "s a grid", value, fp8, note=note)
    return found if took is None else {**found, "ours, fp8, 4": took}


def step_of(setup: Setup, pipeline: Any, num: int) -> Call:
    """Make a function that runs the transformer on `num` grids."""
    config, canvas, transformer = pipeline.transformer.config, setup.grid, pipeline.transformer
    tokens = setup.draw(num, canvas.num_tokens, config.in_channels)
    text = setup.draw(num, setup.text, config.joint_attention_dim), setup.draw(num, config.pooled_projection_dim)
    ids, sigmas = grid(canvas.rows, canvas.columns).to(tokens), torch.full((num,), 0.5).to(tokens)
    return partial(FLUX1.velocity, transformer, tokens, ids, sigmas, text, GUIDANCE)


def whole(setup: Setup, stock: Any, prompts: list[Prompt], stock_seconds: float, our_seconds: float) -> None:
    """Draw one grid a side as users do; ours comes last, since its text encoders leave the device."""
    size = 16 * setup.grid.rows
    settings = {"num_inference_steps": setup.steps, "guidance_scale": GUIDANCE, "max_sequence_length": setup.text}
    draw = partial(stock, prompts[0].prompt, height=size, width=size, generator=generator_at(0), **settings)
    report, half = setup.report, size // 2
    report.measure("whole grid, stock eager", "s", stock_seconds, partial(seconds, draw, setup.device))
    own = FluxPipeline(**{**stock.components, "transformer": twin(stock.transformer)})
    teacher = PipelineTeacher(own, "", half, half, setup.text, setup.steps, GUIDANCE, EXACT, device=str(setup.device))
    trip = partial(seconds, partial(prepare, setup, teacher, prompts), setup.device)
    report.measure("a shard's text, with the encoders' way to the CPU", "s a shard", None, trip)
    call = partial(teacher, prompts[:1], [0])
    call()  # compiles
    report.measure("whole grid, ours, 1, without its text", "s", our_seconds, partial(seconds, call, setup.device))


def prepare(setup: Setup, teacher: PipelineTeacher, prompts: list[Prompt]) -> None:
    """Encode prompts as a shard does, and wait until the encoders have left."""
    teacher.prepare(prompts)
    wait(setup.device)
