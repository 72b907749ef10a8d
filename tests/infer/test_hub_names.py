"""Weights by their name on the hub: what is downloaded, and what is said where it cannot be."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from dsd.io.hub import names_repo

DATA = Path(__file__).parents[1] / "data" / "published_tiny"
ONE = (f"image={Path(__file__).parents[2] / 'examples' / 'critter-1.png'}", "prompt=a", "device=cpu")
QUICK = ("settings.num_inference_steps=1", "model.max_sequence_length=16")


def test_the_released_files_are_downloaded_and_no_others(run, hub, tmp_path) -> None:
    hub.add("primecai/dsd_model", DATA / "dsd_model")
    hub.repos["primecai/dsd_model"] |= {"transformer/old.bin": b"pickle", "notes.txt": b"x"}
    settings = (*ONE, *QUICK, f"model.path={DATA / 'base'}")
    said = run("infer", *settings, "transformer=primecai/dsd_model", f"output={tmp_path / 'a.png'}")
    assert "its LoRA (pytorch_lora_weights.safetensors) is used, too" in said
    suffixes = {Path(name).suffix for name in hub.downloaded}
    assert suffixes == {".json", ".safetensors"}
    assert "pytorch_lora_weights.safetensors" in hub.downloaded
    path = DATA / "dsd_model"
    run("infer", *settings, f"transformer={path / 'transformer'}", f"output={tmp_path / 'b.png'}",
        f"lora_weights={path / 'pytorch_lora_weights.safetensors'}")  # fmt: skip
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_an_adapter_is_one_file(run, hub, token_adapter, base_folders, tmp_path) -> None:
    folder = token_adapter("flux1")
    hub.add("user/critters", folder)
    settings = (*ONE, "settings.num_inference_steps=1", "model.max_sequence_length=48",
                f"model.path={base_folders['flux1']}")  # fmt: skip
    run("infer", *settings, "adapter=user/critters", f"output={tmp_path / 'a.png'}")
    assert hub.downloaded == ["adapter.safetensors"]
    run("infer", *settings, "adapter=user/critters", f"output={tmp_path / 'a.png'}")
    assert hub.downloaded == ["adapter.safetensors"], "the cache has it"
    run("infer", *settings, f"adapter={folder}", f"output={tmp_path / 'b.png'}")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_what_the_hub_does_not_give_is_one_line(refused, hub, monkeypatch) -> None:
    said = refused("infer", *ONE, "adapter=user/none")
    assert f"adapter=user/none: no such folder here, and no such repository at {hub.url}/user/none" in said
    hub.repos["user/gated"] = {"adapter.safetensors": b"", "transformer/config.json": b"{}", "model_index.json": b"{}"}
    hub.gated.add("user/gated")
    for key in ("adapter", "transformer"):
        said = refused("infer", *ONE, f"{key}=user/gated")
        assert f"{key}=user/gated: its authors ask for your consent: accept their terms at {hub.url}/user/gated" in said
    said = refused("infer", *ONE, f"transformer={DATA / 'dsd_model' / 'transformer'}", "model.path=user/gated")
    assert f"model.path=user/gated: its authors ask for your consent: accept their terms at {hub.url}" in said
    said = refused("infer", *ONE, "method=text_only", "model.path=user/gone")
    assert f"model.path=user/gone: no such folder here, and no such repository at {hub.url}/user/gone" in said
    hub.repos["user/other"] = {"README.md": b"x"}
    said = refused("infer", *ONE, "adapter=user/other")
    assert "adapter=user/other: the repository has no adapter.safetensors" in said
    hub.repos["user/other"]["adapter.safetensors"] = b"not tensors"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", f"{constants.HF_HUB_CACHE}-2")
    assert "not a whole safetensors file" in refused("infer", *ONE, "adapter=user/other")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = refused("infer", *ONE, "adapter=user/elsewhere")
    assert "not in the cache; the hub cannot be reached (HF_HUB_OFFLINE is set)" in said


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("user/name", True), ("primecai/dsd_model", True), ("outputs/none", False), ("user/a.safetensors", False),
     ("./user/name", False), ("/user/name", False), ("user", False), ("a/b/c", False), ("pkg://dsd/x", False)],
)  # fmt: skip
def test_a_path_wins_over_a_name(name, is_one, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    assert names_repo(name) is is_one
