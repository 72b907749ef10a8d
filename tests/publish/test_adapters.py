"""A published adapter draws for others, and its card says how it was made and how good it is."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from worlds import leave

from dsd.publish.commands import publish
from dsd.runs.identity import fingerprint
from dsd.runs.manifest import read_manifest

EXAMPLES = Path(__file__).parents[2] / "examples"
TABLE = "| arm | CP |\n| --- | --- |\n| student | 0.712 [0.655, 0.768] |"


@pytest.fixture(scope="module")
def drawn(adapter, run_once, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "student"
    run_once("infer", f"adapter={adapter}", "jobs=folder", f"jobs.path={EXAMPLES}", "device=cpu",
             "settings.num_inference_steps=1", f"output_dir={folder}", "png=false")  # fmt: skip
    return folder


@pytest.fixture
def numbers(adapter, tmp_path) -> Path:
    """What dsd-evaluate leaves of this adapter."""
    folder = tmp_path / "report"
    folder.mkdir()
    about = {"config_hash": read_manifest(adapter, "train")["config_hash"]}
    (folder / "summary.json").write_text(json.dumps({"measures": {"toybox": {"explained": "CP is a share."}}}))
    (folder / "table.md").write_text(f"{TABLE}\n\n| another | table |\n| --- | --- |\n")
    return leave(folder, "evaluate", {}, inputs={"adapter": about})


def test_a_folder_has_everything(call, run, adapter, drawn, numbers, tmp_path) -> None:
    place = tmp_path / "out"
    call(publish, f"adapter={adapter}", f"pictures={drawn}", f"numbers={numbers}", "num_pictures=3",
         "exports=[merged:bf16]", f"local={place}")  # fmt: skip
    card = ModelCard.load(place / "README.md")
    assert card.data.license == "apache-2.0", "of the base"
    assert card.data.base_model is None, "the toybox is not on the hub"
    for said in (
        TABLE, "Measure `toybox`: CP is a share.", "num_steps: 4", "LoRA of rank", "4 steps on", "95 % intervals",
        "`merged-bf16/`", "dsd-infer model=toybox adapter=out", "trust_remote_code=True",
    ):  # fmt: skip
        assert said in card.text, said
    assert "another" not in card.text
    assert "identity" not in card.text
    for number in range(3):
        assert f"pictures/{number}-drawn.png" in card.text
    files = {file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file()}
    assert {"adapter.safetensors", "merged-bf16/export.json", "pictures/2-reference.png"} <= files
    assert not any(file.suffix in {".bin", ".pt"} for file in place.rglob("*"))
    assert fingerprint(place / "adapter.safetensors") == fingerprint(adapter / "adapter.safetensors")


def test_what_is_published_draws_by_its_name(call, run, adapter, hub, tmp_path) -> None:
    said = call(publish, f"adapter={adapter}", "repo=user/critters")
    assert "https://huggingface.co/user/critters" in said
    assert hub.repos["user/critters"].keys() >= {"README.md", "adapter.safetensors"}
    one = (f"image={EXAMPLES / 'critter-1.png'}", "prompt=a", "device=cpu", "settings.num_inference_steps=1")
    run("infer", *one, "adapter=user/critters", f"output={tmp_path / 'a.png'}")
    run("infer", *one, f"adapter={adapter}", f"output={tmp_path / 'b.png'}")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_secrets_stay_here(call, adapter, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "hush-hush")
    copy = shutil.copytree(adapter, tmp_path / "train")
    config = copy / "config.yaml"
    config.write_text(config.read_text() + "api_key: hush\nurl: https://me:hush@host/v1\ntext: a hush-hush b\n")
    call(publish, f"adapter={copy}", f"local={tmp_path / 'out'}")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "hush" not in text
    assert "<redacted>" in text


def test_bad_input_is_one_line(call, adapter, token_adapter, pairs, drawn, numbers, tmp_path) -> None:
    other = shutil.copytree(drawn, tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps({**manifest, "inputs": {"adapter": "0" * 16}}))
    (numbers / "summary.json").write_text('{"measures": 3}')
    for overrides, words in (
        ([], "give one of adapter=folder/of/dsd-train, pairs="),
        ([f"adapter={adapter}", f"pairs={pairs}"], "give one of adapter="),
        ([f"pairs={pairs}", f"pictures={drawn}"], "pictures= belongs to adapter="),
        ([f"adapter={adapter}", "exports=[zip:bf16]"], "exports=zip:bf16: to:dtype is needed"),
        ([f"adapter={adapter}", "exports=[diffusers:bf16]"], "goes into a repository of its own"),
        ([f"adapter={adapter}", f"pictures={other}"], "drawn with another adapter than"),
        ([f"adapter={adapter}", f"numbers={numbers}"], "summary.json: measures: "),
        ([f"adapter={pairs}"], "made by dsd-curate, but the output of dsd-train is wanted here"),
        ([f"adapter={tmp_path / 'none'}"], "no such folder"),
    ):
        said = call(publish, f"local={tmp_path / 'out'}", *overrides, code=2)
        assert said.count(": error: ") == 1
        assert words in said
        assert not (tmp_path / "out").exists()
    (numbers / "manifest.json").unlink()
    leave(numbers, "evaluate", {}, inputs={"adapter": {"config_hash": "another"}})
    said = call(publish, f"local={tmp_path / 'out'}", f"adapter={adapter}", f"numbers={numbers}", code=2)
    assert "they are of another adapter than" in said
