"""The adapter's file: LoRA and, of a canvas student, condition embedder, with what they were made for.

The metadata says what the adapter was made for: base model, rank, alpha, geometry. The LoRA keys are diffusers' own
(`transformer.<module>.lora_A.weight`), the condition embedder is the released `c_embedder.weight`, `c_embedder.bias`.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor, nn

from dsd.errors import UserError
from dsd.io.files import atomic, resolve
from dsd.io.hub import fetched, names_repo
from dsd.io.inputs import first_problem
from dsd.models.families import Family, family_named
from dsd.models.tensors import read_tensors, refuse_not_finite, write_tensors
from dsd.runs.manifest import versions

ADAPTER = "adapter.safetensors"


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


class About(BaseModel):
    """The kind of student, as `Student.about` says it."""

    kind: Literal["canvas", "tokens"] = "canvas"
    family: Literal["flux1", "flux2", "z_image"] = "flux1"
    positions: Literal["column", "diagonal", "kontext", "flux2", "shared", "z_image"] = "column"
    attention: Literal["cached", "full"] | None = None


class Metadata(BaseModel, extra="allow"):
    """What every adapter file says of itself."""

    base: Base
    lora: Lora
    student: About = About()
    geometry: dict[str, Annotated[int, Field(gt=0)]] = {}


def target_pattern(family: Family, targets: str) -> str:
    """Make the regular expression of the modules that a LoRA changes. UserError where `targets` is unknown."""
    if targets not in family.lora_targets:
        raise UserError(f"lora.targets={targets!r} is unknown; choose one of {', '.join(family.lora_targets)}")
    return family.blocks_at + f"({'|'.join(map(re.escape, family.lora_targets[targets]))})"


def save_adapter(path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write the adapter file. `metadata` (JSON values) holds at least `base` and `lora`."""
    about = {**metadata, "versions": versions("diffusers", "torch")}
    text = {name: json.dumps(value) for name, value in about.items()}
    text[LORA_ADAPTER_METADATA_KEY] = json.dumps(for_diffusers(state, metadata["lora"]))
    with atomic(path) as temporary:
        write_tensors(temporary, state, text)


def adapter_at(name: str | Path) -> str:
    """Find an adapter: a path as it is, pkg:// in the package; user/name on the hub is downloaded, the file alone."""
    path = resolve(str(name))
    return str(fetched("adapter", path, ADAPTER, (ADAPTER,))) if names_repo(path) else path


def read_adapter(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and metadata of an adapter file, or of the folder that holds one. UserError where it is damaged."""
    path = Path(path)
    path = path / ADAPTER if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"{path}: no such adapter; train one with dsd-train, or give adapter=path/to/{ADAPTER}")
    state, text = read_tensors(path)
    if "base" not in text:
        raise UserError(f"{path}: it does not say for which base it is; an adapter that dsd-train wrote is needed")
    try:
        metadata = {name: json.loads(value) for name, value in text.items() if name != "format"}
        metadata.setdefault(
            "student", {"positions": metadata.get("positions", "column")}
        )  # before there were two kinds
        metadata["student"] = Metadata.model_validate(metadata).student.model_dump()
    except ValidationError as error:
        raise UserError(f"{path}: its metadata is damaged: {first_problem(error)}") from error
    except ValueError as error:
        raise UserError(f"{path}: its metadata is not JSON ({error})") from error
    if metadata["student"]["kind"] == "canvas" and not {"c_embedder.weight", "c_embedder.bias"} <= state.keys():
        raise UserError(f"{path}: it holds no condition embedder, and a canvas student needs one")
    return state, metadata


def for_diffusers(state: Mapping[str, Tensor], lora: Mapping[str, Any]) -> dict[str, Any]:
    """Say of a LoRA what diffusers' `load_lora_weights` wants to know: its scale and its modules."""
    return {
        "transformer.r": lora["rank"], "transformer.lora_alpha": lora["alpha"],
        "transformer.target_modules": sorted(lora_modules(state)), "transformer.use_rslora": lora["use_rslora"],
        "transformer.use_dora": lora["use_dora"], "transformer.rank_pattern": {}, "transformer.alpha_pattern": {},
    }  # fmt: skip


def refuse_misfit(path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, Any], transformer: Any) -> None:
    """Raise UserError unless the file holds every tensor that `transformer` needs, of its shape and finite."""
    expected = expected_shapes(state, metadata, transformer)
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
    state: Mapping[str, Tensor], metadata: Mapping[str, Any], transformer: Any
) -> dict[str, tuple[int, ...]]:
    """List the tensors of an adapter and their shapes.

    Every module of the LoRA's targets is expected, and every other one that the file names: two stages may differ.
    """
    lora, student = metadata["lora"], metadata["student"]
    rank, linears = lora["rank"], linears_of(transformer)
    wanted = lora_linears(transformer, family_named(student["family"]), lora["targets"])
    chosen = wanted | (lora_modules(state) & linears.keys())
    shapes: dict[str, tuple[int, ...]] = {}
    if student["kind"] == "canvas":
        embedder = transformer.x_embedder
        shapes["c_embedder.weight"] = embedder.out_features, embedder.in_features
        shapes["c_embedder.bias"] = (embedder.out_features,)
    for name in chosen:
        wide, high, prefix = linears[name].in_features, linears[name].out_features, f"transformer.{name}"
        shapes |= {f"{prefix}.lora_A.weight": (rank, wide), f"{prefix}.lora_B.weight": (high, rank)}
        if lora["use_dora"]:
            shapes[f"{prefix}.lora_magnitude_vector"] = (high,)
    return shapes


def linears_of(transformer: Any) -> dict[str, nn.Linear]:
    """List the Linear layers of a transformer by name."""
    return {name: module for name, module in transformer.named_modules() if isinstance(module, nn.Linear)}


def lora_linears(transformer: Any, family: Family, targets: str) -> set[str]:
    """List the Linear layers that get a LoRA."""
    pattern = re.compile(target_pattern(family, targets))
    return {name for name in linears_of(transformer) if pattern.fullmatch(name)}


def lora_modules(state: Mapping[str, Tensor]) -> set[str]:
    """List the modules for which an adapter's file holds a LoRA."""
    return {name.removeprefix("transformer.").rsplit(".lora_", 1)[0] for name in state if ".lora_" in name}
