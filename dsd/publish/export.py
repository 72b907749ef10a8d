"""An adapter of dsd-train for others; every export is loaded back and compared before it gets its name.

    dsd-export outputs/train --to released --output exported      # transformer/ and LoRA, as published
    dsd-export outputs/train --to diffusers --output exported     # a pipeline folder for DSDPipeline
    dsd-export outputs/train --to merged --dtype bf16 --output exported
    dsd-export outputs/train --to comfyui --dtype fp8 --output exported

`merged` is a folder of diffusers' FluxTransformer2DModel with 128 input channels, LoRA merged in fp32 and rounded once;
`comfyui` the same in Black Forest Labs' names, one file, as their control models. export.json holds the relative error
of a forward on fixed inputs.
"""

import dsd  # first, as it quietens the libraries

# isort: split
import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import FluxTransformer2DModel
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsd.errors import UserError
from dsd.files import atomic, write_json
from dsd.models import layouts as export
from dsd.models.adapter import load_adapter, load_released_lora
from dsd.models.adapter_file import read_adapter
from dsd.models.canvas import img_ids
from dsd.models.conditional import SHARD, load_transformer
from dsd.models.loading import load_without_encoders
from dsd.pipeline.pipeline import DSDPipeline

BOUNDS = {"fp32": 1e-5, "bf16": 2e-2, "fp8": 2e-1}  # rounding of the weights: 2^-9 and 2^-4 a number, over the depth
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp8": export.FP8}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", help="output_dir of dsd-train, or its adapter.safetensors")
    parser.add_argument("--to", choices=sorted(WRITERS), required=True)
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32")
    parser.add_argument("--base", help="folder or hub id of the base; by default what the adapter names")
    parser.add_argument("--output", type=Path, required=True, help="a folder that is not there yet")
    arguments = parser.parse_args()
    try:
        error = write(**vars(arguments))
    except UserError as problem:
        sys.exit(f"export.py: error: {problem}")
    print(f"{arguments.output}: {arguments.to}, relative error of a forward {error:.2e}")


def write(adapter: str, to: str, dtype: str, base: str | None, output: Path) -> float:
    """Write, load back, compare; returns the relative error. UserError where it is beyond the bound."""
    if output.exists():
        raise UserError(f"--output {output} is there already; choose another folder, or delete it")
    if dtype == "fp8" and to not in ("merged", "comfyui"):
        raise UserError(f"--dtype fp8 goes with --to merged and comfyui, not with {to}")
    state, metadata = read_adapter(adapter)
    path = base or metadata["base"]["path"]
    unfused = load_without_encoders(path).transformer
    load_adapter(unfused, adapter, fuse=False)  # the truth: W + BA in fp32, nothing merged
    expected = forward(unfused)
    del unfused
    with atomic(output) as temporary:
        temporary.mkdir()
        reader = WRITERS[to](temporary, path, adapter, state, metadata, DTYPES[dtype])
        found = forward(reader(temporary))
        error = float((found - expected).norm() / expected.norm())
        if not error <= BOUNDS[dtype]:
            raise UserError(
                f"{to} as {dtype} is off by {error:.2e}, the bound is {BOUNDS[dtype]:g}; nothing was written"
            )
        write_json(temporary / "export.json", {
            "to": to, "dtype": dtype, "relative_error": error, "bound": BOUNDS[dtype], "base": metadata["base"],
            "lora": metadata["lora"], "config_hash": metadata.get("config_hash"),
            "versions": {"dsd": dsd.__version__, "diffusers": diffusers.__version__, "torch": torch.__version__},
        })  # fmt: skip
    return error


Reader = Callable[[Path], FluxTransformer2DModel]


def write_released(
    folder: Path, base: str, adapter: str, state: dict[str, Tensor], metadata: dict[str, Any], dtype: torch.dtype
) -> Reader:
    transformer = load_without_encoders(base).transformer
    embedder, lora = export.released(state, metadata["lora"])
    (folder / "transformer").mkdir()
    tensors = export.rounded({**transformer.state_dict(), **embedder}, dtype)
    save_torch_state_dict(tensors, folder / "transformer", filename_pattern=SHARD)
    config = export.released_config(transformer.config)
    (folder / "transformer" / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(export.rounded(lora, dtype), folder / "pytorch_lora_weights.safetensors", metadata={"format": "pt"})

    def read(folder: Path) -> FluxTransformer2DModel:
        loaded = load_transformer(folder / "transformer")
        load_released_lora(loaded, folder / "pytorch_lora_weights.safetensors")
        return loaded

    return read


def write_diffusers(
    folder: Path, base: str, adapter: str, state: dict[str, Tensor], metadata: dict[str, Any], dtype: torch.dtype
) -> Reader:
    DSDPipeline.from_base(base, adapter).to(dtype).save_pretrained(folder)
    return lambda folder: DSDPipeline.from_base(str(folder)).transformer


def write_merged(
    folder: Path, base: str, adapter: str, state: dict[str, Tensor], metadata: dict[str, Any], dtype: torch.dtype
) -> Reader:
    transformer = load_without_encoders(base).transformer
    load_adapter(transformer, adapter)
    transformer.save_config(folder)
    save_torch_state_dict(export.rounded(transformer.state_dict(), dtype), folder, filename_pattern=SHARD)
    return load_transformer


def write_comfyui(
    folder: Path, base: str, adapter: str, state: dict[str, Tensor], metadata: dict[str, Any], dtype: torch.dtype
) -> Reader:
    transformer = load_without_encoders(base).transformer
    load_adapter(transformer, adapter)
    config, width = dict(transformer.config), transformer.inner_dim
    save_file(export.rounded(export.to_bfl(transformer.state_dict()), dtype), folder / "dsd_flux.safetensors")

    def read(folder: Path) -> FluxTransformer2DModel:
        loaded = FluxTransformer2DModel.from_config(config)
        tensors = export.from_bfl(load_file(folder / "dsd_flux.safetensors"), width)
        loaded.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        return loaded

    return read


WRITERS: dict[str, Callable[..., Reader]] = {
    "released": write_released, "diffusers": write_diffusers, "merged": write_merged, "comfyui": write_comfyui,
}  # fmt: skip


@torch.inference_mode()
def forward(transformer: FluxTransformer2DModel) -> Tensor:
    """The velocity (2, L, C) of fixed inputs, in fp32."""
    transformer.float().eval()
    config, generator = transformer.config, torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    rows, columns, text = 4, 8, 16
    return transformer(
        hidden_states=draw(2, rows * columns, config.in_channels),
        timestep=torch.tensor([0.3, 0.9]),
        guidance=torch.full((2,), 3.5) if config.guidance_embeds else None,
        pooled_projections=draw(2, config.pooled_projection_dim),
        encoder_hidden_states=draw(2, text, config.joint_attention_dim),
        txt_ids=torch.zeros(text, 3),
        img_ids=img_ids(rows, columns),
        return_dict=False,
    )[0]


if __name__ == "__main__":
    main()
