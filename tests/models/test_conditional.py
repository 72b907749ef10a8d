"""The conditional transformer: one Linear, the released layout, the adapter. On the released tiny weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file

from dsd.errors import UserError
from dsd.models.adapter import adapter_state, build_student, describe, fingerprint, load_adapter, trainable_parameters
from dsd.models.adapter_file import read_adapter, save_adapter
from dsd.models.conditional import is_conditional, join, load_transformer, split
from dsd.models.student import CanvasStudent
from dsd.models.tensors import write_tensors

DATA = Path(__file__).parents[1] / "data" / "published_tiny"


def trained(model: FluxTransformer2DModel) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in trainable_parameters(model).items()}


def base() -> FluxTransformer2DModel:
    return FluxTransformer2DModel.from_pretrained(DATA / "base" / "transformer").eval()


def inputs(channels: int = 64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(2, 8, channels, generator=generator),
        "timestep": torch.tensor([0.3, 0.9]),
        "guidance": torch.tensor([3.5, 3.5]),
        "pooled_projections": torch.randn(2, 32, generator=generator),
        "encoder_hidden_states": torch.randn(2, 5, 32, generator=generator),
        "txt_ids": torch.zeros(5, 3),
        "img_ids": torch.stack([torch.zeros(8), torch.arange(8.0) // 4, torch.arange(8.0) % 4], dim=1),
    }


@torch.no_grad()
def run(transformer: FluxTransformer2DModel, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
    return transformer(**tokens, return_dict=False)[0]


def student(rank: int = 4) -> FluxTransformer2DModel:
    return build_student(base(), CanvasStudent(), rank=rank, alpha=8)


def stir(transformer: FluxTransformer2DModel) -> None:
    """Give every trainable tensor random values, as training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainable_parameters(transformer).values():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def test_a_student_begins_as_its_base() -> None:
    tokens = inputs()
    wide = tokens | {"hidden_states": torch.cat([tokens["hidden_states"], torch.randn(2, 8, 64)], dim=-1)}
    assert torch.equal(run(student(), wide), run(base(), tokens))


def test_apart_and_joined_embedders_compute_the_same() -> None:
    apart = split(base())
    torch.nn.init.normal_(apart.x_embedder.c_embedder.weight, std=0.1)
    torch.nn.init.normal_(apart.x_embedder.c_embedder.bias, std=0.1)
    expected = run(apart, inputs(128))
    joined = join(apart)
    assert is_conditional(joined)
    assert isinstance(joined.x_embedder, torch.nn.Linear)
    torch.testing.assert_close(run(joined, inputs(128)), expected, atol=1e-5, rtol=1e-5)


def test_only_the_adapter_trains() -> None:
    model = student()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainable = trainable_parameters(model)
    assert all("lora_" in name or "c_embedder" in name for name in trainable)
    optimizer = torch.optim.AdamW(trainable.values(), lr=0.1)
    model(**inputs(128), return_dict=False)[0].square().mean().backward()
    optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert changed <= set(trainable)


@pytest.mark.parametrize("fuse", [True, False])
def test_an_adapter_file_gives_the_student_back(tmp_path: Path, fuse: bool) -> None:
    """LoRA = W + BA, fused or not, and the condition embedder comes along."""
    model = student()
    stir(model)
    lora = {"rank": 4, "alpha": 8, "targets": "attention", "use_rslora": False, "use_dora": False}
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, adapter_state(trained(model)), {"base": describe(base(), "tiny"), "lora": lora})
    loaded = base()
    metadata = load_adapter(loaded, tmp_path, fuse)
    assert metadata["lora"] == lora
    torch.testing.assert_close(run(loaded, inputs(128)), run(model, inputs(128)), atol=1e-5, rtol=1e-4)


def test_a_lora_is_merged_in_fp32_and_rounded_once(tmp_path: Path) -> None:
    """A base in bf16 was merged in bf16: A and B were rounded first, then their product, then the sum."""
    model = student(rank=16)
    stir(model)
    lora = {"rank": 16, "alpha": 8, "targets": "attention", "use_rslora": False, "use_dora": False}
    half = base().to(torch.bfloat16)
    about = {"base": describe(half, "tiny"), "lora": lora}
    save_adapter(tmp_path / "adapter.safetensors", adapter_state(trained(model)), about)
    loaded = base().to(torch.bfloat16)
    load_adapter(loaded, tmp_path)
    state = load_file(tmp_path / "adapter.safetensors")
    merged = {name.removesuffix(".lora_A.weight") for name in state if name.endswith(".lora_A.weight")}
    assert len(merged) > 10
    for name in merged:
        a, b = (state[f"{name}.lora_{part}.weight"].double() for part in "AB")
        module = name.removeprefix("transformer.")
        exact = half.get_submodule(module).weight.double() + 0.5 * b @ a
        found = loaded.get_submodule(module).weight
        assert found.dtype == torch.bfloat16
        error, least = ((w.double() - exact).norm() for w in (found, exact.to(torch.bfloat16)))
        assert error <= 1.0001 * least, name


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    other = base()
    torch.nn.init.normal_(other.proj_out.weight)
    assert fingerprint(other) != fingerprint(base())
    lora = {"rank": 4, "alpha": 8, "targets": "attention", "use_rslora": False, "use_dora": False}
    made = {"base": describe(other, "other"), "lora": lora}
    save_adapter(tmp_path / "a.safetensors", adapter_state(trained(student())), made)
    with pytest.raises(UserError, match="another base"):
        load_adapter(base(), tmp_path / "a.safetensors")


def test_a_cut_adapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        read_adapter(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="no such adapter"):
        read_adapter(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lora_B": None}, r"1 tensors are missing, such as .*lora_B\.weight"),
        ({"lora_A": lambda t: t[:, :-1]}, r"lora_A\.weight has shape \(4, \d+\) instead of \(4, \d+\)"),
        ({"lora_B": lambda t: t * float("nan")}, r"lora_B\.weight holds NaN or infinity"),
        ({"c_embedder.weight": lambda t: t[:-1]}, r"c_embedder\.weight has shape"),
        ({"more": lambda t: t}, "1 unknown tensors, such as more"),
    ],
)
def test_a_damaged_adapter_is_refused(tmp_path: Path, change, words: str) -> None:
    """0.1.0 drew without the LoRA, or black pictures, and ended with code 0."""
    transformer = base()
    lora = {"rank": 4, "alpha": 8, "targets": "attention", "use_rslora": False, "use_dora": False}
    state = adapter_state(trained(student()))
    for part, edit in change.items():
        name = next((name for name in sorted(state) if part in name), part)
        tensor = state.pop(name, torch.zeros(1))
        state |= {} if edit is None else {name: edit(tensor).contiguous()}
    save_adapter(tmp_path / "a.safetensors", state, {"base": describe(transformer, "here"), "lora": lora})
    with pytest.raises(UserError, match=words):
        load_adapter(transformer, tmp_path / "a.safetensors")


@pytest.mark.parametrize("lora", [{"rank": 0}, {"rank": "x"}, {"alpha": float("nan")}, {"targets": "some"}, "no"])
def test_damaged_metadata_is_refused(tmp_path: Path, lora) -> None:
    whole = {"rank": 4, "alpha": 8, "targets": "attention", "use_rslora": False, "use_dora": False}
    made = {"base": describe(base(), "here"), "lora": {**whole, **lora} if isinstance(lora, dict) else lora}
    text = {name: json.dumps(value) for name, value in made.items()}
    write_tensors(tmp_path / "a.safetensors", adapter_state(trained(student())), text)
    with pytest.raises(UserError, match="its metadata is damaged: lora"):
        read_adapter(tmp_path / "a.safetensors")


def test_equal_adapters_are_equal_files_that_others_can_read(tmp_path: Path) -> None:
    """safetensors writes its header in random order, and files with mode 0600."""
    lora = {"rank": 4, "alpha": 8, "targets": "attention", "use_rslora": False, "use_dora": False}
    state, made = adapter_state(trained(student())), {"base": describe(base(), "here"), "lora": lora}
    for name in "ab":
        save_adapter(tmp_path / f"{name}.safetensors", state, made)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    (tmp_path / "c").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "c").stat().st_mode
    assert load_file(tmp_path / "a.safetensors").keys() == state.keys()


@pytest.fixture
def released(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / "dsd_model" / "transformer", tmp_path / "transformer"))


def rewrite(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    file = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file) | change
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, file)


def test_the_released_layout_is_read_with_its_stray_lora(released: Path) -> None:
    stray = "transformer_blocks.0.attn.to_q.lora_A.default_0.weight"
    rewrite(released, {stray: torch.zeros(4, 32)})
    transformer = load_transformer(released)
    raw = load_file(released / "diffusion_pytorch_model.safetensors")
    expected = torch.cat([raw["x_embedder.weight"], raw["c_embedder.weight"]], dim=1)
    assert torch.equal(transformer.x_embedder.weight, expected)
    assert torch.equal(transformer.x_embedder.bias, raw["x_embedder.bias"] + raw["c_embedder.bias"])


def test_a_config_of_another_version_is_read(released: Path) -> None:
    config = json.loads((released / "config.json").read_text())
    (released / "config.json").write_text(json.dumps(config | {"a_key_of_another_version": 1, "out_channels": None}))
    assert load_transformer(released).config.num_layers == config["num_layers"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"proj_out.weight": None}, "missing"),
        ({"c_embedder.weight": None}, "c_embedder"),
        ({"something.else": torch.zeros(1)}, "unknown"),
        ({"proj_out.weight": torch.zeros(3, 3)}, "do not fit"),
    ],
)
def test_a_released_folder_that_is_not_whole_is_refused(released: Path, change: dict, message: str) -> None:
    rewrite(released, change)
    with pytest.raises(UserError, match=message):
        load_transformer(released)


def test_weights_are_read_from_safetensors_only(released: Path) -> None:
    (released / "diffusion_pytorch_model.safetensors").rename(released / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors only"):
        load_transformer(released)
    (released / "config.json").write_text(json.dumps({})[:1])
    with pytest.raises(UserError, match="config"):
        load_transformer(released)
