"""A published set reads as any other, and its card says where it came from."""

import json
import shutil

import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard

from dsd.publish import pairs as publishing
from dsd.publish.commands import publish


def test_a_folder_reads_as_a_data_set(call, pairs, tmp_path) -> None:
    said = call(publish, f"pairs={pairs}", f"local={tmp_path / 'set'}", "license=mit")
    rows = load_dataset(str(tmp_path / "set"), split="train")
    assert f"{len(rows)} pairs in" in said
    assert rows[0]["image"].size == rows[0]["conditioning"].size == (64, 64)
    assert rows[0]["caption"]
    card = DatasetCard.load(tmp_path / "set" / "README.md")
    assert card.data.license == "mit"
    assert f"{len(rows)} ordered pairs" in card.text
    assert "| answered → kept |" in card.text
    assert "is there already" in call(publish, f"pairs={pairs}", f"local={tmp_path / 'set'}", code=2)


@pytest.mark.parametrize(
    ("license", "fields"),
    [("apache-2.0", {"license": "apache-2.0"}),
     ("flux-1-dev-non-commercial-license",
      {"license": "other", "license_name": "flux-1-dev-non-commercial-license"})],
)  # fmt: skip
def test_the_card_names_the_teacher_and_its_licence(call, pairs, tmp_path, license, fields) -> None:
    shutil.copytree(pairs, tmp_path / "pairs")
    path = tmp_path / "pairs" / "manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest["teacher"] == {"name": "toybox", "path": "dsd.toybox.prompts.Oracle", "license": "apache-2.0"}
    path.write_text(json.dumps({**manifest, "teacher": {**manifest["teacher"], "license": license}}))
    call(publish, f"pairs={tmp_path / 'pairs'}", f"local={tmp_path / 'set'}")
    card = DatasetCard.load(tmp_path / "set" / "README.md")
    assert fields.items() <= card.data.to_dict().items()
    assert f"Teacher: toybox (`dsd.toybox.prompts.Oracle`), licence {license}." in card.text


def test_pairs_of_an_unknown_teacher_are_under_another_licence(call, pairs, tmp_path) -> None:
    """Folders of an older version name no teacher."""
    shutil.copytree(pairs, tmp_path / "pairs")
    path = tmp_path / "pairs" / "manifest.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "teacher"}))
    call(publish, f"pairs={tmp_path / 'pairs'}", f"local={tmp_path / 'set'}")
    card = DatasetCard.load(tmp_path / "set" / "README.md")
    assert card.data.license == "other"
    assert "Teacher: not recorded." in card.text


def test_the_hub_gets_rows_and_card(call, pairs, monkeypatch) -> None:
    pushed = []
    monkeypatch.setenv("HF_TOKEN", "hf_hush-hush-hush-hush")
    monkeypatch.setattr(publishing, "push", lambda rows, card, repo, private: pushed.append((len(rows), repo, private)))
    said = call(publish, f"pairs={pairs}", "repo=user/name", "private=true")
    assert pushed == [(len(publishing.read_shards(pairs, "pairs")), "user/name", True)]
    assert "https://huggingface.co/datasets/user/name" in said


@pytest.mark.parametrize("places", [[], ["repo=user/name", "local=folder"]])
def test_one_place_is_asked_for(call, pairs, places) -> None:
    assert "give either repo=user/name, or local=folder" in call(publish, f"pairs={pairs}", *places, code=2)


def test_a_missing_token_is_one_line(call, pairs, monkeypatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert "repo=user/name: no token; set HF_TOKEN" in call(publish, f"pairs={pairs}", "repo=user/name", code=2)


def test_pairs_come_from_a_finished_folder(call, grids) -> None:
    assert "made by dsd-data-gen" in call(publish, f"pairs={grids}", "local=folder", code=2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": "x"}, "not a manifest (steps: "),
        ({"steps": [{"name": "x"}]}, "not a manifest (steps."),
        ({"reasons": 3}, "not a manifest (reasons: "),
        ({"teacher": {"name": "x"}}, "not a manifest (teacher."),
        ({"counts": None}, "not a manifest (counts: "),
    ],
)
def test_a_damaged_manifest_is_one_line(call, pairs, tmp_path, change, words) -> None:
    shutil.copytree(pairs, tmp_path / "pairs")
    path = tmp_path / "pairs" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert words in call(publish, f"pairs={tmp_path / 'pairs'}", f"local={tmp_path / 'set'}", code=2)


@pytest.mark.parametrize(
    ("config", "words"), [("a: [\n", "not a readable config"), (None, "config.yaml: not a readable config")]
)
def test_a_damaged_config_is_one_line(call, pairs, tmp_path, config, words) -> None:
    shutil.copytree(pairs, tmp_path / "pairs")
    path = tmp_path / "pairs" / "config.yaml"
    path.unlink() if config is None else path.write_text(config)
    assert words in call(publish, f"pairs={tmp_path / 'pairs'}", f"local={tmp_path / 'set'}", code=2)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(("place", "words"), [("repo='a b c'", "user/name is needed"), ("local=''", "local is empty")])
def test_a_place_that_cannot_be_is_one_line(call, pairs, place, words) -> None:
    assert words in call(publish, f"pairs={pairs}", place, code=2)


def test_what_is_published_can_be_read_by_others(call, pairs, tmp_path) -> None:
    call(publish, f"pairs={pairs}", f"local={tmp_path / 'set'}")
    assert all(f.stat().st_mode & 0o044 == 0o044 for f in (tmp_path / "set").rglob("*") if f.is_file())
