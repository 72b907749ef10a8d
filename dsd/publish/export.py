"""Export an adapter of dsd-train; every export is read back and compared before its folder appears.

export.json holds the relative error of a velocity on fixed inputs. Shapes: B batch, L packed tokens of a canvas, C
packed channels.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from dsd.errors import UserError
from dsd.io.files import atomic, write_json
from dsd.models.layouts import FP8
from dsd.models.student import Conditions, Student
from dsd.publish.comfyui_rules import reference_method
from dsd.publish.formats import WRITERS
from dsd.publish.source import Released, Source
from dsd.runs.manifest import versions

log = logging.getLogger(__name__)
BOUNDS = {"fp32": 1e-5, "bf16": 2e-2, "fp8": 2e-1}  # rounding of the weights: 2^-9 and 2^-4 a number, over the depth
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp8": FP8}


NOTES = {  # what users of a format have to know, by format and kind of student
    ("comfyui", "canvas"): "workflows of core nodes: examples/comfyui, docs/comfyui.md",
    ("comfyui_lora", "canvas"): (
        'load LoRAs of others before it; where ComfyUI says "loaded partially", use the node DSD Adapter or '
        "to=comfyui (docs/comfyui.md)"
    ),
    ("comfyui_lora", "tokens"): (
        "load it as any LoRA, with ReferenceLatent and the reference method {method} (docs/comfyui.md)"
    ),
}


def run(cfg: DictConfig) -> None:
    """Export as the config says, and report the error."""
    if cfg.transformer is None:
        source = Source.read(cfg.adapter, cfg.base, cfg.license)
    else:
        source = Released.read_files(cfg.transformer, cfg.lora_weights, cfg.license)
    output_dir = Path(cfg.output_dir)
    source.refuse(cfg.to.name)
    error = export(source, cfg.to.name, cfg.dtype.name, output_dir)
    log.info(
        "export: %s as %s in %s; relative error of a velocity %.2e%s", cfg.to.name, cfg.dtype.name, output_dir, error,
        note(source.metadata["student"], cfg.to.name),
    )  # fmt: skip


def note(student: Mapping[str, Any], to: str) -> str:
    """Say what users of a format have to know, after a semicolon; nothing of most."""
    found = NOTES.get((to, student["kind"]))
    return "" if found is None else "; " + found.format(method=reference_method(student))


def export(source: Source, to: str, dtype: str, output_dir: Path) -> float:
    """Write the export, read it back and compare; return the relative error. UserError where it is out of bounds."""
    expected = fixed_velocity(source.student(source.unmerged()))
    with atomic(output_dir) as folder:
        folder.mkdir()
        read = WRITERS[to](source, folder, DTYPES[dtype])
        error = relative_error(fixed_velocity(source.student(read(folder))), expected)
        if not error <= BOUNDS[dtype]:
            raise UserError(
                f"to={to} dtype={dtype}: the relative error {error:.2e} is above {BOUNDS[dtype]:g}; nothing was written"
            )
        write_json(folder / "export.json", report(source.metadata, to, dtype, error))
    return error


def report(metadata: Mapping[str, Any], to: str, dtype: str, error: float) -> dict[str, Any]:
    """Collect what export.json says. The error is that of the file's weights in an fp32 computation."""
    return {
        "to": to, "dtype": dtype, "relative_error": error, "bound": BOUNDS[dtype], "base": metadata["base"],
        "lora": metadata["lora"], "config_hash": metadata.get("config_hash"),
        "versions": versions("diffusers", "torch"),
    }  # fmt: skip


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Compare two tensors by the L2 norm of their difference."""
    return float((found - expected).norm() / expected.norm())


@torch.inference_mode()
def fixed_velocity(student: Student) -> Tensor:
    """Compute the velocity (2, L, C) of fixed inputs in fp32."""
    transformer, generator = student.transformer, torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    canvas = student.canvas(64, 64)
    channels = student.family.channels(transformer)
    noisy_latents, cond_latents = draw(2, canvas.num_tokens, 2 * channels).chunk(2, dim=-1)
    text = tuple(draw(2, *shape) for shape in student.family.text_shapes(transformer, 16))
    conditions = Conditions(cond_latents, text)
    return student.velocity(noisy_latents, torch.tensor([0.3, 0.9]), conditions, canvas, guidance_scale=3.5)
