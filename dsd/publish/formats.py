"""Write an adapter in the formats that others read: released, diffusers, merged, ComfyUI.

`released` is a transformer/ with a condition embedder and a LoRA beside it, as published. `diffusers` is a folder for
`DSDPipeline`. `merged` is diffusers' FluxTransformer2DModel with 128 input channels, the LoRA merged in fp32 and
rounded once. `comfyui` is the same in one file, in the names of Black Forest Labs' control models.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file
from torch import Tensor

from dsd.errors import UserError
from dsd.models import layouts
from dsd.models.adapter import load_adapter, load_released_lora
from dsd.models.adapter_file import read_adapter
from dsd.models.conditional import SHARD, load_transformer
from dsd.models.families import Family, family_named
from dsd.models.kinds import student_from
from dsd.models.loading import load_without_encoders
from dsd.models.student import Student
from dsd.models.tensors import write_tensors
from dsd.pipeline.pipeline import DSDPipeline

COMFYUI = "dsd_flux.safetensors"
RELEASED_LORA = "pytorch_lora_weights.safetensors"
Reader = Callable[[Path], Any]  # loads an export, from the folder that it was written to


@dataclass(frozen=True)
class Source:
    """An adapter and the base under it."""

    adapter: str
    base: str  # folder or hub id
    state: Mapping[str, Tensor]
    metadata: Mapping[str, Any]

    @classmethod
    def read(cls, adapter: str, base: str | None) -> "Source":
        """Read an adapter; `base=None` is the one that it names."""
        state, metadata = read_adapter(adapter)
        return cls(adapter, base or metadata["base"]["path"], state, metadata)

    def refuse(self, to: str) -> None:
        """Raise UserError where the kind of the student has no such format."""
        if to != "diffusers" and self.metadata["student"]["kind"] == "tokens":
            raise UserError(
                f"to={to} is for student=canvas; the adapter.safetensors of student=tokens is a LoRA that diffusers' "
                "load_lora_weights loads as it is (or export a whole pipeline with to=diffusers)"
            )

    @property
    def family(self) -> Family:
        """The family of the base."""
        return family_named(self.metadata["student"]["family"])

    def plain(self) -> Any:
        """Load the base's transformer."""
        return load_without_encoders(self.base).transformer

    def merged(self) -> Any:
        """Load the student with its LoRA merged in fp32."""
        return self._loaded(fuse=True)

    def unmerged(self) -> Any:
        """Load the student with its LoRA beside the weights, W + BA: what exports are compared with."""
        return self._loaded(fuse=False)

    def _loaded(self, fuse: bool) -> Any:
        pipeline = load_without_encoders(self.base)
        twin = bool(pipeline.config.get("is_distilled"))
        load_adapter(pipeline.transformer, self.adapter, fuse, self.family, twin)
        return pipeline.transformer

    def student(self, transformer: Any) -> Student:
        """Make a transformer the student that was trained, computing in fp32."""
        return student_from(self.metadata["student"], transformer=transformer.float().eval())


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


def write_comfyui(source: Source, folder: Path, dtype: torch.dtype) -> Reader:
    """Write the merged transformer in one file, in Black Forest Labs' names."""
    transformer = source.merged()
    config, width = dict(transformer.config), transformer.inner_dim
    write_tensors(folder / COMFYUI, layouts.rounded(layouts.to_bfl(transformer.state_dict()), dtype))

    def read(folder: Path) -> FluxTransformer2DModel:
        loaded: FluxTransformer2DModel = FluxTransformer2DModel.from_config(config)
        tensors = layouts.from_bfl(load_file(folder / COMFYUI), width)
        loaded.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        return loaded

    return read


WRITERS: dict[str, Callable[[Source, Path, torch.dtype], Reader]] = {
    "released": write_released, "diffusers": write_diffusers, "merged": write_merged, "comfyui": write_comfyui,
}  # fmt: skip
