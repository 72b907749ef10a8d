"""Convert a student to the layouts of others: the released files, and Black Forest Labs' names, which ComfyUI reads."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dsd.errors import UserError
from dsd.models.adapter import scale_of
from dsd.models.conditional import RELEASED_CLASS

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
# diffusers' names and Black Forest Labs'. (diffusers.loaders.single_file_utils converts the other way.)
TOP = {
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
}
SINGLE = {
    "norm.linear": "modulation.lin",
    "proj_out": "linear2",
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
}
STACKED: dict[str, dict[str, tuple[str, ...]]] = {  # Black Forest Labs stacks these into one matrix, in this order
    "double_blocks": {
        "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
        "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    },
    "single_blocks": {"linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")},
}


def released(state: Mapping[str, Tensor], lora: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Divide an adapter's tensors into the embedder (part of `transformer/`) and `pytorch_lora_weights.safetensors`.

    The released LoRA has no alpha: its B matrices carry the scale.
    """
    scale = scale_of(lora)
    embedder = {name: tensor for name, tensor in state.items() if name.startswith("c_embedder.")}
    factors = {name: tensor for name, tensor in state.items() if name not in embedder}
    return embedder, {name: t * scale if ".lora_B." in name else t for name, t in factors.items()}


def released_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Make config.json of the released transformer: the base's, with the released class's name."""
    return {**config, "_class_name": RELEASED_CLASS}


def to_bfl(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename diffusers' transformer tensors to Black Forest Labs' names.

    The result is a FLUX whose `img_in` takes noise and condition, as in their control models (128 channels). UserError
    names a tensor that has no place there.
    """
    found: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        module, kind = name.rsplit(".", 1)
        block = re.match(r"(single_)?transformer_blocks\.(\d+)\.(.*)", module)
        if block is None:
            if module not in TOP:
                raise UserError(f"{name}: no such tensor in FLUX")
            swapped = swap(tensor) if module == "norm_out.linear" else tensor
            found[f"{TOP[module]}.{kind}"] = swapped
            continue
        group = "single_blocks" if block[1] else "double_blocks"
        prefix, inner = f"{group}.{block[2]}", block[3]
        names = SINGLE if block[1] else DOUBLE
        stack = next((stack for stack, members in STACKED[group].items() if inner in members), None)
        if stack is not None:
            parts.setdefault(f"{prefix}.{stack}.{kind}", {})[inner] = tensor
        elif inner in names:
            found[f"{prefix}.{names[inner]}.{'scale' if 'norm_' in inner else kind}"] = tensor
        else:
            raise UserError(f"{name}: no such tensor in FLUX")
    for name, members in parts.items():
        group, _, stack = name.rsplit(".", 1)[0].split(".", 2)
        found[name] = torch.cat([members[inner] for inner in STACKED[group][stack]])
    return found


def from_bfl(state: Mapping[str, Tensor], width: int) -> dict[str, Tensor]:
    """Undo `to_bfl`; `width` is the transformer's inner dimension."""
    found: dict[str, Tensor] = {}
    top = {theirs: ours for ours, theirs in TOP.items()}
    for name, tensor in state.items():
        module, kind = name.rsplit(".", 1)
        if module in top:
            found[f"{top[module]}.{kind}"] = swap(tensor) if top[module] == "norm_out.linear" else tensor
            continue
        group, number, inner = module.split(".", 2)
        prefix = f"{'single_' if group == 'single_blocks' else ''}transformer_blocks.{number}"
        if inner in STACKED[group]:
            members = STACKED[group][inner]
            sizes = [width] * 3 + ([len(tensor) - 3 * width] if len(members) == 4 else [])
            found |= {
                f"{prefix}.{member}.{kind}": part for member, part in zip(members, tensor.split(sizes), strict=True)
            }
            continue
        names = {theirs: ours for ours, theirs in (SINGLE if group == "single_blocks" else DOUBLE).items()}
        found[f"{prefix}.{names[inner]}.{'weight' if kind == 'scale' else kind}"] = tensor
    return found


def swap(tensor: Tensor) -> Tensor:
    """Swap the last norm's scale and shift, which stand in the other order there."""
    return torch.cat(tensor.chunk(2)[::-1])


def rounded(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Cast tensors to fp32 or bf16; with fp8, the matrices of blocks alone, and the others to bf16.

    These are plain casts, as diffusers' layerwise casting reads them.
    """
    if dtype != FP8:
        return {name: tensor.to(dtype) for name, tensor in state.items()}
    return {
        name: tensor.clamp(-LARGEST, LARGEST).to(FP8) if in_block(name, tensor) else tensor.to(torch.bfloat16)
        for name, tensor in state.items()
    }


def scaled(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Store the matrices of blocks in fp8 with a scale each, and the others in bf16, as ComfyUI reads them.

    `scaled_fp8` tells the loader that `X.scale_weight` belongs to `X.weight` (ComfyUI@3cd7b32f, comfy/utils.py,
    `convert_old_quants`).
    """
    found = {"scaled_fp8": torch.zeros(2).to(FP8)}
    for name, tensor in state.items():
        if in_block(name, tensor):
            scale = tensor.float().abs().max().clamp_min(1e-12) / LARGEST
            found[name] = (tensor.float() / scale).to(FP8)
            found[name.removesuffix("weight") + "scale_weight"] = scale
        else:
            found[name] = tensor.to(torch.bfloat16)
    return found


def unscaled(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `scaled`, in fp32; tensors without a scale are cast."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name != "scaled_fp8" and not name.endswith(".scale_weight"):
            scale = state.get(name.removesuffix("weight") + "scale_weight")
            found[name] = tensor.float() if scale is None else tensor.float() * scale
    return found


def in_block(name: str, tensor: Tensor) -> bool:
    """Tell whether a tensor is a matrix of attention or of an MLP: norms and modulations are too sensitive for fp8."""
    return tensor.ndim == 2 and "blocks." in name and "norm" not in name and "mod" not in name
