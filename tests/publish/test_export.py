"""Exports: what is written is read back and computes the same; the names are those that others read."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from safetensors import safe_open
from safetensors.torch import load_file

from dsd.errors import UserError
from dsd.models.layouts import from_bfl, to_bfl
from dsd.models.tensors import read_tensors, write_tensors
from dsd.publish import export as exporting
from dsd.publish.commands import export

ROOT = Path(__file__).parents[2]
RELEASED = ROOT / "tests" / "data" / "published_tiny" / "dsd_model"


@pytest.mark.parametrize(
    ("to", "dtype", "bound", "file"),
    [
        ("released", "fp32", 1e-5, "transformer/config.json"),
        ("diffusers", "fp32", 1e-5, "model_index.json"),
        ("merged", "bf16", 2e-2, "config.json"),
        ("comfyui", "fp8", 2e-1, "dsd_flux.safetensors"),
        ("comfyui_lora", "fp32", 1e-5, "dsd_lora.safetensors"),
        ("comfyui_lora", "bf16", 2e-2, "dsd_lora.safetensors"),
    ],
)
def test_what_is_written_computes_the_same(call, adapter, tmp_path, to, dtype, bound, file) -> None:
    output = tmp_path / "out"
    said = call(export, f"adapter={adapter}", f"to={to}", f"dtype={dtype}", f"output_dir={output}")
    found = json.loads((output / "export.json").read_text())
    assert 0 <= found["relative_error"] < bound
    assert f"relative error of a velocity {found['relative_error']:.2e}" in said
    assert (output / file).exists()
    if to == "comfyui":
        with safe_open(output / file, "pt") as tensors:
            assert tensors.get_tensor("img_in.weight").shape == (128, 128)  # noise and condition
    if to == "released":
        config = json.loads((output / file).read_text())
        theirs = json.loads((RELEASED / "transformer" / "config.json").read_text())
        assert config["_class_name"] == theirs["_class_name"]
        assert config["in_channels"] == 64
        ours = load_file(output / "pytorch_lora_weights.safetensors")
        published = load_file(RELEASED / "pytorch_lora_weights.safetensors")
        block = "transformer.transformer_blocks.0."
        assert {n for n in published if n.startswith(block)} <= {n for n in ours if n.startswith(block)}


def test_an_export_that_computes_something_else_is_not_written(adapter, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(exporting.BOUNDS, "fp32", 0.0)
    with pytest.raises(UserError, match="nothing was written"):
        exporting.export(exporting.Source.read(str(adapter), None), "merged", "fp32", tmp_path / "out")
    assert not list(tmp_path.iterdir())


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


def test_bad_input_is_one_line(call, adapter, tmp_path) -> None:
    base = ROOT / "tests" / "data" / "published_tiny" / "base"
    for overrides, words in (
        (["to=merged", f"adapter={tmp_path / 'none'}"], "no such adapter"),
        (["to=merged", f"adapter={adapter}", f"output_dir={adapter}"], "is there already"),
        (["to=released", f"adapter={adapter}", "dtype=fp8"], "dtype=fp8 goes with"),
        (["to=zip", f"adapter={adapter}"], "invalid value 'zip'"),
        ([f"adapter={adapter}"], "no value for to"),
        (["to=merged", f"adapter={adapter}", f"base={base}"], "made for another base"),
    ):
        said = call(export, f"output_dir={tmp_path / 'out'}", *overrides, code=2)
        assert said.count(": error: ") == 1
        assert words in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "words"),
    [("no B", "1 tensors are missing"), ("NaN", "holds NaN"), ("shape", "has shape"), ("metadata", "is not JSON")],
)
def test_a_damaged_adapter_is_one_line(call, adapter, tmp_path, name, words) -> None:
    state, metadata = read_tensors(adapter / "adapter.safetensors")
    if name == "no B":
        state.pop(next(key for key in state if "lora_B" in key))
    elif name == "metadata":
        metadata["lora"] = "{"
    else:
        bias = state["c_embedder.bias"]
        state["c_embedder.bias"] = bias[:-1].clone() if name == "shape" else bias * float("nan")
    write_tensors(tmp_path / "a.safetensors", state, metadata)
    said = call(export, f"adapter={tmp_path / 'a.safetensors'}", "to=merged", f"output_dir={tmp_path / 'out'}", code=2)
    assert words in said
    assert not (tmp_path / "out").exists()


def test_equal_exports_are_equal_files_that_others_can_read(call, adapter, tmp_path) -> None:
    """safetensors leaves the header in any order, and its files to their owner alone."""
    for name in ("a", "b"):
        call(export, f"adapter={adapter}", "to=comfyui", "dtype=bf16", f"output_dir={tmp_path / name}")
    files = [tmp_path / name / "dsd_flux.safetensors" for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert all(f.stat().st_mode & 0o044 == 0o044 for f in files)
    with safe_open(files[0], "pt") as opened:
        assert opened.metadata()["format"] == "pt"
