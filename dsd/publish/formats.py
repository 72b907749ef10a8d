"""Write an adapter in the formats that others read: released, diffusers, merged, ComfyUI.

`released` is a transformer/ with a condition embedder and a LoRA beside it, as published. `diffusers` is a folder for
`DSDPipeline`. `merged` is diffusers' FluxTransformer2DModel with 128 input channels, the LoRA merged in fp32 and
rounded once. ComfyUI's two formats are in `dsd.publish.comfyui`.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from huggingface_hub import save_torch_state_dict

from dsd.models import layouts
from dsd.models.adapter import load_released_lora
from dsd.models.conditional import SHARD, load_transformer
from dsd.models.tensors import write_tensors
from dsd.pipeline.pipeline import DSDPipeline
from dsd.publish.comfyui import Reader, write_comfyui, write_comfyui_lora
from dsd.publish.source import Source

RELEASED_LORA = "pytorch_lora_weights.safetensors"


def write_released(source: Source, folder: Path, dtype: torch.dtype) -> Reader:
    """Write transformer/ and the LoRA apart, as published."""
    transformer = source.plain()
    embedder, lora = layouts.released(source.state, source.metadata["lora"])
    (folder / "transformer").mkdir()
    tensors = layouts.rounded({**transformer.state_dict(), **embedder}, dtype)
    save_torch_state_dict(tensors, folder / "transformer", filename_pattern=SHARD)
    config = layouts.released_config(transformer.config)
    (folder / "transformer" / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_tensors(folder / RELEASED_LORA, layouts.rounded(lora, dtype))

    def read(folder: Path) -> FluxTransformer2DModel:
        loaded = load_transformer(folder / "transformer")
        load_released_lora(loaded, folder / RELEASED_LORA)
        return loaded

    return read


def write_diffusers(source: Source, folder: Path, dtype: torch.dtype) -> Reader:
    """Write a whole pipeline, text encoders and VAE included."""
    DSDPipeline.from_base(source.base, source.adapter).to(dtype).save_pretrained(folder)
    return lambda folder: DSDPipeline.from_base(str(folder)).transformer


def write_merged(source: Source, folder: Path, dtype: torch.dtype) -> Reader:
    """Write the merged transformer in diffusers' names."""
    transformer = source.merged()
    transformer.save_config(folder)
    save_torch_state_dict(layouts.rounded(transformer.state_dict(), dtype), folder, filename_pattern=SHARD)
    return load_transformer


WRITERS: dict[str, Callable[[Source, Path, torch.dtype], Reader]] = {
    "released": write_released, "diffusers": write_diffusers, "merged": write_merged, "comfyui": write_comfyui,
    "comfyui_lora": write_comfyui_lora,
}  # fmt: skip
