"""Files for ComfyUI: their keys and shapes are those that it was seen to read, and what it cannot draw is refused."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors import safe_open
from safetensors.torch import load_file

from dsd.errors import UserError
from dsd.models.layouts import scaled, unscaled
from dsd.models.tensors import read_tensors, write_tensors
from dsd.publish.comfyui_rules import REFERENCE_METHODS, refuse_in_comfyui
from dsd.publish.commands import export
from dsd.publish.source import Released, Source

PUBLISHED = Path(__file__).parents[1] / "data" / "published_tiny"
MATRICES = ("img_attn.qkv", "img_attn.proj", "img_mlp.0", "img_mlp.2", "txt_attn.qkv", "txt_attn.proj", "txt_mlp.0",
            "txt_mlp.2", "linear1", "linear2")  # fmt: skip
LORA = {"rank": 4, "alpha": 4, "targets": "attention", "use_rslora": False, "use_dora": False}


def test_the_lora_file_has_the_keys_that_comfyui_reads(call, adapter, tmp_path) -> None:
    said = call(export, f"adapter={adapter}", "to=comfyui_lora", f"output_dir={tmp_path / 'out'}")
    assert "loaded partially" in said
    state, metadata = read_tensors(adapter / "adapter.safetensors")
    lora = json.loads(metadata["lora"])
    wide, channels = state["c_embedder.weight"].shape
    found = load_file(tmp_path / "out" / "dsd_lora.safetensors")
    table = {"reshape_weight": (2,), "lora_up.weight": (wide, channels), "lora_down.weight": (channels, 2 * channels),
             "diff_b": (wide,)}  # fmt: skip
    factors = {name for name in state if ".lora_" in name}
    assert found.keys() == {f"diffusion_model.img_in.{key}" for key in table} | factors
    for key, shape in table.items():
        assert found[f"diffusion_model.img_in.{key}"].shape == shape
    assert found["diffusion_model.img_in.reshape_weight"].dtype == torch.int64
    assert found["diffusion_model.img_in.reshape_weight"].tolist() == [wide, 2 * channels]
    up, down = (found[f"diffusion_model.img_in.lora_{part}.weight"] for part in ("up", "down"))
    assert torch.equal(up @ down, torch.cat([torch.zeros_like(up), state["c_embedder.weight"]], dim=1))
    for name in factors:
        scale = lora["alpha"] / lora["rank"] if ".lora_B." in name else 1
        assert torch.equal(found[name], state[name] * scale), name


def test_fp8_is_scaled_and_leaves_what_is_sensitive_wide(call, adapter, tmp_path) -> None:
    call(export, f"adapter={adapter}", "to=comfyui", "dtype=fp8", f"output_dir={tmp_path / 'out'}")
    found = load_file(tmp_path / "out" / "dsd_flux.safetensors")
    assert found["scaled_fp8"].dtype == torch.float8_e4m3fn
    assert found["scaled_fp8"].shape == (2,)
    small = {name for name, tensor in found.items() if tensor.dtype == torch.float8_e4m3fn and name != "scaled_fp8"}
    assert small == {
        name for name in found if "blocks." in name and name.endswith(tuple(f"{m}.weight" for m in MATRICES))
    }
    assert {name.removesuffix("weight") + "scale_weight" for name in small} == {n for n in found if "scale_weight" in n}
    assert all(found[name.removesuffix("weight") + "scale_weight"].shape == () for name in small)
    assert all(t.dtype == torch.bfloat16 for n, t in found.items() if n not in small and "scale" not in n.split("_")[0]
               and not n.endswith("scale_weight"))  # fmt: skip


def test_a_scale_for_each_matrix_keeps_small_weights() -> None:
    """A plain cast rounds weights below 2^-9 to nothing."""
    state = {
        "double_blocks.0.img_attn.proj.weight": 1e-4 * torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    }
    read = unscaled(scaled(state))
    (name,) = state
    assert (read[name] - state[name]).norm() / state[name].norm() < 2**-4


def test_the_header_says_what_it_is(call, adapter, tmp_path) -> None:
    config_hash = json.loads(read_tensors(adapter / "adapter.safetensors")[1]["config_hash"])
    for to, file, architecture in (
        ("comfyui", "dsd_flux.safetensors", "teacher"),
        ("comfyui_lora", "dsd_lora.safetensors", "teacher/lora"),
    ):
        call(export, f"adapter={adapter}", f"to={to}", "dtype=bf16", f"output_dir={tmp_path / to}")
        with safe_open(tmp_path / to / file, "pt") as opened:
            said = opened.metadata()
        assert said["format"] == "pt"
        assert said["modelspec.sai_model_spec"] == "1.0.0"
        assert said["modelspec.architecture"] == architecture  # the toybox's base is a folder of that name
        assert said["modelspec.license"] == "apache-2.0"
        assert said["dsd.config_hash"] == config_hash
        assert said["dsd.positions"] == "column"
        assert (tmp_path / to / file).stat().st_mode & 0o044 == 0o044


def test_the_released_files_become_one_lora(call, tmp_path) -> None:
    """The velocity over the base is that of the released transformer with its LoRA."""
    folder = PUBLISHED / "dsd_model"
    said = call(
        export, "to=comfyui_lora", f"transformer={folder / 'transformer'}",
        f"lora_weights={folder / 'pytorch_lora_weights.safetensors'}", f"output_dir={tmp_path / 'out'}",
    )  # fmt: skip
    assert "loaded partially" in said
    assert json.loads((tmp_path / "out" / "export.json").read_text())["relative_error"] < 1e-5
    with safe_open(tmp_path / "out" / "dsd_lora.safetensors", "pt") as opened:
        assert opened.metadata()["modelspec.license"] == "flux-1-dev-non-commercial-license"
        assert "diffusion_model.img_in.reshape_weight" in opened.keys()  # noqa: SIM118


def test_the_released_base_is_plain_again() -> None:
    folder = PUBLISHED / "dsd_model"
    source = Released.read_files(str(folder / "transformer"), str(folder / "pytorch_lora_weights.safetensors"))
    base = FluxTransformer2DModel.from_pretrained(PUBLISHED / "base" / "transformer")
    found = source.plain()
    assert found.config.in_channels == base.config.in_channels
    assert found.state_dict().keys() == base.state_dict().keys()


@pytest.mark.parametrize(("family", "method"), [("flux1", "index"), ("flux2", "index")])
def test_a_student_with_tokens_becomes_an_ordinary_lora(call, token_adapter, tmp_path, family, method) -> None:
    adapter = token_adapter(family, "full")
    said = call(export, f"adapter={adapter}", "to=comfyui_lora", f"output_dir={tmp_path / 'out'}")
    assert f"reference method {method}" in said
    found = load_file(tmp_path / "out" / "dsd_lora.safetensors")
    state, _ = read_tensors(adapter / "adapter.safetensors")
    assert found.keys() == state.keys()
    with safe_open(tmp_path / "out" / "dsd_lora.safetensors", "pt") as opened:
        assert opened.metadata()["dsd.reference_method"] == method


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ({"kind": "canvas", "family": "flux1", "positions": "diagonal"}, "positions=column alone"),
        (
            {"kind": "tokens", "family": "flux1", "positions": "column", "attention": "full"},
            "positions=column of flux1",
        ),
        ({"kind": "tokens", "family": "flux2", "positions": "kontext", "attention": "full"}, "kontext of flux2"),
        (
            {"kind": "tokens", "family": "flux1", "positions": "shared", "attention": "full"},
            "positions=shared of flux1",
        ),
        (
            {"kind": "tokens", "family": "flux2", "positions": "shared", "attention": "full"},
            "positions=shared of flux2",
        ),
        ({"kind": "tokens", "family": "z_image", "positions": "z_image", "attention": "full"}, "z_image"),
        ({"kind": "tokens", "family": "flux1", "positions": "kontext", "attention": "cached"}, "attention=cached"),
    ],
)
def test_what_comfyui_draws_otherwise_is_refused(student, words) -> None:
    with pytest.raises(UserError, match=words):
        refuse_in_comfyui("comfyui_lora", student, LORA)


def test_diagonal_positions_are_refused_by_the_command(call, adapter, tmp_path) -> None:
    state, metadata = read_tensors(adapter / "adapter.safetensors")
    metadata["student"] = json.dumps({**json.loads(metadata["student"]), "positions": "diagonal"})
    write_tensors(tmp_path / "a.safetensors", state, metadata)
    for to in ("comfyui", "comfyui_lora"):
        said = call(export, f"adapter={tmp_path / 'a.safetensors'}", f"to={to}", f"output_dir={tmp_path / to}", code=2)
        assert "positions=diagonal" in said
        assert not (tmp_path / to).exists()


def test_our_places_are_those_of_comfyui() -> None:
    """Its rules, written anew from comfy/ldm/flux/model.py: where each reference begins, in tokens."""
    from dsd.models.positions import RULES, grid

    rows, columns, num = 3, 5, 2
    for (family, positions), method in REFERENCE_METHODS.items():
        target, references = RULES[positions](rows, columns, num)
        step = {"flux1": 1, "flux2": 10}[family]
        expected = [
            grid(rows, columns, index=(k + 1) * step)
            if method == "index"
            else grid(rows, columns, row=(k + 1) * rows, column=(k + 1) * columns)
            for k in range(num)
        ]
        assert torch.equal(target, grid(rows, columns))
        assert torch.equal(references, torch.cat(expected)), (family, positions)


def test_half_of_the_released_files_is_refused(call, tmp_path) -> None:
    folder = PUBLISHED / "dsd_model" / "transformer"
    for overrides, words in (
        (["to=comfyui_lora", f"transformer={folder}"], "go together"),
        (["to=comfyui", f"transformer={folder}", f"lora_weights={folder}"], "goes with to=comfyui_lora"),
        (["to=comfyui_lora", f"transformer={folder}", "lora_weights=none.safetensors"], "no such file"),
    ):
        assert words in call(export, *overrides, f"output_dir={tmp_path / 'out'}", code=2)


def test_a_source_names_the_formats_of_tokens(token_adapter) -> None:
    source = Source.read(str(token_adapter("flux1", "full")), None)
    with pytest.raises(UserError, match="to=comfyui_lora"):
        source.refuse("comfyui")
