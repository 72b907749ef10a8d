"""The adapter's file: LoRA and condition embedder with what they were made for, checked when it is read.

The metadata says what the adapter was made for: base model, rank, alpha, geometry. The LoRA keys are diffusers' own
(`transformer.<module>.lora_A.weight`), the condition embedder is the released `c_embedder.weight`, `c_embedder.bias`.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError
from torch import Tensor, nn

from dsd.errors import UserError
from dsd.io.files import atomic
from dsd.io.inputs import first_problem
from dsd.models.tensors import read_tensors, refuse_not_finite, write_tensors
from dsd.runs.manifest import versions

ADAPTER = "adapter.safetensors"
# What the released LoRA holds; in single blocks only to_q, to_k, to_v exist.
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
ALL_LINEAR = (*ATTENTION, "net.0.proj", "net.2", "proj_mlp", "proj_out")
TARGETS = {"attention": ATTENTION, "all_linear": ALL_LINEAR}


class Base(BaseModel):
    """The base that an adapter was made for."""

    path: str
    fingerprint: str


class Lora(BaseModel):
    """The LoRA's settings."""

    rank: Annotated[int, Field(gt=0)]
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    targets: Literal["attention", "all_linear"]
    use_rslora: bool
    use_dora: bool


class Metadata(BaseModel, extra="allow"):
    """What every adapter file says of itself."""

    base: Base
    lora: Lora
    positions: Literal["column", "diagonal"] = "column"
    geometry: dict[str, Annotated[int, Field(gt=0)]] = {}


def target_pattern(targets: str) -> str:
    """Make the regular expression of the modules that a LoRA changes. UserError where `targets` is unknown."""
    if targets not in TARGETS:
        raise UserError(f"lora.targets={targets!r} is unknown; choose one of {', '.join(TARGETS)}")
    names = "|".join(map(re.escape, TARGETS[targets]))
    return rf"(single_)?transformer_blocks\.\d+\..*({names})"


def save_adapter(path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write the adapter file. `metadata` (JSON values) holds at least `base` and `lora`."""
    about = {**metadata, "versions": versions("diffusers", "torch")}
    text = {name: json.dumps(value) for name, value in about.items()}
    with atomic(path) as temporary:
        write_tensors(temporary, state, text)


def read_adapter(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and metadata of an adapter file, or of the folder that holds one. UserError where it is damaged."""
    path = Path(path)
    path = path / ADAPTER if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"{path}: no such adapter; train one with dsd-train, or give adapter=path/to/{ADAPTER}")
    state, text = read_tensors(path)
    if "c_embedder.weight" not in state or "c_embedder.bias" not in state or "base" not in text:
        raise UserError(f"{path}: no condition embedder in it; an adapter that dsd-train wrote is needed")
    try:
        metadata = {name: json.loads(value) for name, value in text.items() if name != "format"}
        Metadata.model_validate(metadata)
    except ValidationError as error:
        raise UserError(f"{path}: its metadata is damaged: {first_problem(error)}") from error
    except ValueError as error:
        raise UserError(f"{path}: its metadata is not JSON ({error})") from error
    return state, metadata


def refuse_misfit(path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, Any], transformer: Any) -> None:
    """Raise UserError unless the file holds every tensor that `transformer` needs, of its shape and finite."""
    expected = expected_shapes(state, metadata["lora"], transformer)
    if missing := sorted(expected.keys() - state.keys()):
        raise UserError(f"{path}: {len(missing)} tensors are missing, such as {missing[0]}")
    if unknown := sorted(state.keys() - expected.keys()):
        raise UserError(f"{path}: {len(unknown)} unknown tensors, such as {unknown[0]}")
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise UserError(f"{path}: {name} has shape {tuple(state[name].shape)} instead of {shape}")
        if not state[name].is_floating_point():
            raise UserError(f"{path}: {name} holds {state[name].dtype} instead of floating-point numbers")
    refuse_not_finite(path, state)


def expected_shapes(
    state: Mapping[str, Tensor], lora: Mapping[str, Any], transformer: Any
) -> dict[str, tuple[int, ...]]:
    """List the tensors of an adapter and their shapes.

    Every module of the LoRA's targets is expected, and every other one that the file names: two stages may differ.
    """
    pattern, rank, embedder = re.compile(target_pattern(lora["targets"])), lora["rank"], transformer.x_embedder
    linears = {name: module for name, module in transformer.named_modules() if isinstance(module, nn.Linear)}
    chosen = {name for name in linears if pattern.fullmatch(name)} | (lora_modules(state) & linears.keys())
    shapes: dict[str, tuple[int, ...]] = {
        "c_embedder.weight": (embedder.out_features, embedder.in_features),
        "c_embedder.bias": (embedder.out_features,),
    }
    for name in chosen:
        wide, high, prefix = linears[name].in_features, linears[name].out_features, f"transformer.{name}"
        shapes |= {f"{prefix}.lora_A.weight": (rank, wide), f"{prefix}.lora_B.weight": (high, rank)}
        if lora["use_dora"]:
            shapes[f"{prefix}.lora_magnitude_vector"] = (high,)
    return shapes


def lora_modules(state: Mapping[str, Tensor]) -> set[str]:
    """List the modules for which an adapter's file holds a LoRA."""
    return {name.removeprefix("transformer.").rsplit(".lora_", 1)[0] for name in state if ".lora_" in name}
