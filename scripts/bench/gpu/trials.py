"""One change each to our forward: what is worth having as a default."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from dsd.models.quantize import BLOCKS
from dsd.pipeline.pipeline import DSDPipeline
from gpu.drawing import fast
from gpu.released import GUIDANCE
from gpu.setup import FP8_GAIN, SHARES, Setup, forward
from gpu.sides import students, twin
from gpu.timing import in_turns

GAPS = 0.97  # CUDA graphs cannot help a device that is busier than this


@dataclass(frozen=True)
class Trial:
    """A change: what is done to a copy of the merged transformer before it is compiled, and how."""

    name: str
    gain: float  # what is expected of it
    seconds: float  # that compiling and measuring are expected to take on a GPU
    change: Callable[[Any], None] = lambda transformer: None
    options: tuple[tuple[str, Any], ...] = ()  # of torch.compile
    precompute: bool = True


def backend(name: str) -> Callable[[Any], None]:
    """Choose an attention backend of diffusers."""
    return lambda transformer: transformer.set_attention_backend(name)


def fp8(with_modulations: bool) -> Callable[[Any], None]:
    """Quantise the blocks' linears row by row, with AdaLN's or without."""

    def change(transformer: Any) -> None:
        if not next(transformer.parameters()).is_cuda:
            raise RuntimeError("only a GPU multiplies fp8")
        from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

        def chosen(module: Any, name: str) -> bool:
            linear = isinstance(module, torch.nn.Linear) and re.search(BLOCKS, name) is not None
            return linear and (with_modulations or ".norm" not in name)

        quantize_(transformer, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()), filter_fn=chosen)

    return change


TRIALS = (
    Trial("static compile", 1.0, 25, options=(("dynamic", False),)),
    Trial("fused QKV", 1.02, 25, lambda transformer: transformer.fuse_qkv_projections()),
    Trial("precompute off", 0.98, 20, precompute=False),
    Trial("attention _native_cudnn", 1.0, 20, backend("_native_cudnn")),
    Trial("attention _native_flash", 0.92, 20, backend("_native_flash")),
    Trial("attention _flash_3", 1.05, 20, backend("_flash_3")),
    Trial("fp8 without AdaLN", FP8_GAIN, 30, fp8(False), precompute=False),
    Trial("fp8 with AdaLN", FP8_GAIN, 30, fp8(True), precompute=False),
    Trial("CUDA graphs", 1.0, 30, options=(("options", {"triton.cudagraphs": True}),)),
    Trial("coordinate-descent tuning", 1.01, 90, options=(("options", {"coordinate_descent_tuning": True}),)),
)


@torch.no_grad()
def run(setup: Setup) -> None:
    """Measure each change against our forward, in turns, as long as there is time."""
    _, ours = students(setup.shape, setup.device, 16 if setup.small else 128, with_text=False)
    merged = twin(ours.transformer)  # not compiled
    fast(setup, ours)
    ours.precompute = True
    expected = setup.expected(setup.flops(merged, setup.canvas.num_tokens), SHARES["compiled"])
    setup.report.predict("forward, ours", "s", expected)
    busy = next((row["measured"] for row in setup.report.rows if row.get("name") == "busy share of a forward"), 0.0)
    for trial in TRIALS:
        if setup.on_gpu and setup.report.left_here() < trial.seconds:
            setup.report.skip(
                f"try {trial.name}", f"takes {trial.seconds:.0f} s, {setup.report.left_here():.0f} are left"
            )
        elif trial.name == "CUDA graphs" and setup.on_gpu and busy > GAPS:
            setup.report.skip(f"try {trial.name}", f"the device is busy for {busy:.0%} of a forward")
        else:
            setup.report.measure(
                f"try {trial.name}", "ours / changed", trial.gain, partial(one, setup, ours, merged, trial)
            )


def one(setup: Setup, ours: DSDPipeline, merged: Any, trial: Trial) -> float:
    """Time our forward pass and the changed one in turns. Return how many times faster the changed one is."""
    changed = DSDPipeline(**{**ours.components, "transformer": twin(merged)})
    trial.change(changed.transformer)
    setup.compile(changed.transformer, **dict(trial.options))
    prepared, known = setup.prepared(ours), ours.precomputed()
    others = changed.precomputed() if trial.precompute else None
    ids = ours.all_ids(prepared)
    with known.at(ids):
        ours_forward = forward(ours, prepared, GUIDANCE, 1, known)
        if others is None:
            found = times(setup, ours_forward, forward(changed, prepared, GUIDANCE))
        else:
            with others.at(ids):
                found = times(setup, ours_forward, forward(changed, prepared, GUIDANCE, 1, others))
    return found["ours"] / found["changed"]


def times(setup: Setup, ours: Callable[[], object], changed: Callable[[], object]) -> dict[str, float]:
    """Time both sides."""
    return in_turns({"ours": ours, "changed": changed}, setup.device, setup.repeats)
