"""Exports: what is written is read back and computes the same; the names are those that others read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from safetensors import safe_open
from safetensors.torch import load_file

from dsd.models.layouts import from_bfl, to_bfl

ROOT = Path(__file__).parents[2]
RELEASED = ROOT / "tests" / "data" / "published_tiny" / "dsd_model"


def export(adapter: Path, to: str, output: Path, *more: str, code: int = 0) -> str:
    command = [sys.executable, "dsd/publish/export.py", str(adapter), "--to", to, "--output", str(output), *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return (done.stderr if code else done.stdout).strip()


@pytest.mark.parametrize(
    ("to", "dtype", "bound"),
    [("released", "fp32", 1e-5), ("diffusers", "fp32", 1e-5), ("merged", "bf16", 2e-2), ("comfyui", "fp8", 2e-1)],
)
def test_what_is_written_computes_the_same(adapter, tmp_path, to, dtype, bound) -> None:
    output = tmp_path / "out"
    said = export(adapter, to, output, "--dtype", dtype)
    found = json.loads((output / "export.json").read_text())
    assert 0 <= found["relative_error"] < bound
    assert f"relative error of a forward {found['relative_error']:.2e}" in said
    files = {"released": "transformer/config.json", "diffusers": "model_index.json", "merged": "config.json",
             "comfyui": "dsd_flux.safetensors"}  # fmt: skip
    assert (output / files[to]).exists()
    if to == "comfyui":
        with safe_open(output / files[to], "pt") as file:
            assert file.get_tensor("double_blocks.0.img_attn.qkv.weight").dtype == torch.float8_e4m3fn
            assert file.get_tensor("img_in.weight").shape == (128, 128)  # noise and condition
    if to == "released":
        config = json.loads((output / files[to]).read_text())
        theirs = json.loads((RELEASED / "transformer" / "config.json").read_text())
        assert config["_class_name"] == theirs["_class_name"]
        assert config["in_channels"] == 64
        ours = load_file(output / "pytorch_lora_weights.safetensors")
        published = load_file(RELEASED / "pytorch_lora_weights.safetensors")
        block = "transformer.transformer_blocks.0."
        assert {n for n in published if n.startswith(block)} <= {n for n in ours if n.startswith(block)}


def test_the_names_are_those_that_diffusers_reads() -> None:
    """At FLUX's width, which its converter has built in; any type of number will do."""
    with torch.device("meta"):
        model = FluxTransformer2DModel(in_channels=128, out_channels=64, num_layers=1, num_single_layers=1,
                                       guidance_embeds=True)  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randint(0, 255, tensor.shape, dtype=torch.uint8, generator=generator)
        for name, tensor in model.state_dict().items()
    }
    theirs = convert_flux_transformer_checkpoint_to_diffusers(to_bfl(state))
    assert theirs.keys() == state.keys()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in state.items())
    ours = from_bfl(to_bfl(state), model.inner_dim)
    assert ours.keys() == state.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in state.items())


def test_bad_input_is_one_line(adapter, tmp_path) -> None:
    assert "no such adapter" in export(tmp_path / "none", "merged", tmp_path / "a", code=1)
    assert "is there already" in export(adapter, "merged", tmp_path, code=1)
    assert "--dtype fp8 goes with" in export(adapter, "released", tmp_path / "b", "--dtype", "fp8", code=1)
    base = ROOT / "tests" / "data" / "published_tiny" / "base"
    assert "made for another base" in export(adapter, "merged", tmp_path / "c", "--base", str(base), code=1)
    assert not list(tmp_path.iterdir())
