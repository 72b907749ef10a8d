"""Write a student for ComfyUI: one merged file, or one LoRA file over any checkpoint of the base.

The merged file has the names of Black Forest Labs' control models: `img_in` takes noise and condition, 128 channels.
The LoRA file holds the whole adapter. ComfyUI widens `img_in` by its `reshape_weight` and adds the condition embedder
as `lora_up @ lora_down`, with `lora_down = [0 | I]` (ComfyUI@3cd7b32f, comfy/weight_adapter/lora.py). Shapes: D inner
dimension, C packed channels.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor

from dsd.models import layouts
from dsd.models.conditional import set_joint_embedder
from dsd.models.tensors import write_tensors
from dsd.publish.comfyui_rules import reference_method
from dsd.publish.source import Source
from dsd.runs.command import CONFIG_DIR

MERGED = "dsd_flux.safetensors"
LORA = "dsd_lora.safetensors"
IMG_IN = "diffusion_model.img_in."
IMPLEMENTATIONS = {  # of the base, as modelspec wants it
    "flux1": "https://github.com/black-forest-labs/flux",
    "flux2": "https://github.com/black-forest-labs/flux2",
}
Reader = Callable[[Path], Any]  # loads an export, from the folder that it was written to


def write_comfyui(source: Source, folder: Path, dtype: torch.dtype) -> Reader:
    """Write the merged transformer in one file, in Black Forest Labs' names."""
    transformer = source.merged()
    config, width = dict(transformer.config), transformer.inner_dim
    state = layouts.to_bfl(transformer.state_dict())
    tensors = layouts.scaled(state) if dtype == layouts.FP8 else layouts.rounded(state, dtype)
    write_tensors(folder / MERGED, tensors, model_spec(source, "merged"))

    def read(folder: Path) -> FluxTransformer2DModel:
        loaded: FluxTransformer2DModel = FluxTransformer2DModel.from_config(config)
        loaded.load_state_dict(layouts.from_bfl(layouts.unscaled(load_file(folder / MERGED)), width))
        return loaded

    return read


def write_comfyui_lora(source: Source, folder: Path, dtype: torch.dtype) -> Reader:
    """Write the whole adapter as a LoRA: the blocks' in diffusers' names, which ComfyUI reads, B carrying the scale."""
    embedder, factors = layouts.released(source.state, source.metadata["lora"])
    tensors = layouts.rounded({**(wide_input(embedder) if embedder else {}), **factors}, dtype)
    if embedder:
        wide, high = embedder["c_embedder.weight"].shape
        tensors[f"{IMG_IN}reshape_weight"] = torch.tensor([wide, 2 * high])
    write_tensors(folder / LORA, tensors, model_spec(source, "lora"))
    return lambda folder: patched(source.plain(), load_file(folder / LORA))


def wide_input(embedder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make the part of the LoRA that widens `img_in` from c_embedder, (D, C) and (D,)."""
    weight, bias = embedder["c_embedder.weight"], embedder["c_embedder.bias"]
    identity = torch.eye(weight.shape[1])
    return {
        f"{IMG_IN}lora_up.weight": weight,  # (D, C)
        f"{IMG_IN}lora_down.weight": torch.cat([torch.zeros_like(identity), identity], dim=1),  # (C, 2C)
        f"{IMG_IN}diff_b": bias,
    }


def patched(transformer: Any, state: Mapping[str, Tensor]) -> Any:
    """Put a LoRA file over a base's transformer, in place, as ComfyUI does."""
    transformer = transformer.float()
    tensors = {name: tensor.float() for name, tensor in state.items()}
    factors = {name: tensor for name, tensor in tensors.items() if not name.startswith(IMG_IN)}
    transformer.load_lora_adapter(factors, prefix="transformer", adapter_name="dsd")
    if f"{IMG_IN}reshape_weight" in tensors:
        embedder = transformer.x_embedder
        difference = tensors[f"{IMG_IN}lora_up.weight"] @ tensors[f"{IMG_IN}lora_down.weight"]  # (D, 2C)
        narrow = embedder.in_features
        assert difference.shape[1] == tensors[f"{IMG_IN}reshape_weight"][1] == 2 * narrow
        embedder.weight.data += difference[:, :narrow]
        set_joint_embedder(transformer, embedder, difference[:, narrow:], tensors[f"{IMG_IN}diff_b"])
    return transformer


def model_spec(source: Source, kind: str) -> dict[str, str]:
    """Describe a file in its header by the fields of https://github.com/Stability-AI/ModelSpec, and by ours.

    There is no date, so that equal exports are equal files, and no trigger phrase: a student has none.
    """
    student, base = source.metadata["student"], source.metadata["base"]["path"]
    name = re.sub(r"[^a-z0-9]+", "-", base.rsplit("/", 1)[-1].lower())
    method = reference_method(student)
    found = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": name + ("/lora" if kind == "lora" else ""),
        "modelspec.implementation": IMPLEMENTATIONS[student["family"]],
        "modelspec.title": f"Diffusion Self-Distillation: {student['kind']} student of {base} ({kind})",
        "modelspec.license": source.license or license_of(base),
        "modelspec.usage_hint": "Give a reference picture; no trigger phrase is needed.",
        "dsd.base": base,
        "dsd.student": student["kind"],
        "dsd.positions": student["positions"],
    }
    if method is not None:
        found["dsd.reference_method"] = method
    if "config_hash" in source.metadata:
        found["dsd.config_hash"] = source.metadata["config_hash"]
    return found


def license_of(base: str) -> str:
    """Look a base's licence up in configs/model, by its path; "other" where none has it."""
    for file in sorted(Path(CONFIG_DIR, "model").glob("*.yaml")):
        config: Any = OmegaConf.load(file)
        if config.get("path") == base:
            return str(config.get("license", "other"))
    return "other"
