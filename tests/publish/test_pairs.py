"""A published set reads as any other, and its card says where it came from."""

import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard

from dsd.publish import pairs as publishing
from dsd.publish.commands import publish


def test_a_folder_reads_as_a_data_set(call, pairs, tmp_path) -> None:
    said = call(publish, f"pairs={pairs}", f"local={tmp_path / 'set'}", "license=apache-2.0")
    rows = load_dataset(str(tmp_path / "set"), split="train")
    assert f"{len(rows)} pairs in" in said
    assert rows[0]["image"].size == rows[0]["conditioning"].size == (64, 64)
    assert rows[0]["caption"]
    card = DatasetCard.load(tmp_path / "set" / "README.md")
    assert card.data.license == "apache-2.0"
    assert f"{len(rows)} ordered pairs" in card.text
    assert "| answered → kept |" in card.text
    assert "is there already" in call(publish, f"pairs={pairs}", f"local={tmp_path / 'set'}", code=2)


def test_the_hub_gets_rows_and_card(call, pairs, monkeypatch) -> None:
    pushed = []
    monkeypatch.setattr(publishing, "push", lambda rows, card, repo, private: pushed.append((len(rows), repo, private)))
    said = call(publish, f"pairs={pairs}", "repo=user/name", "private=true")
    assert pushed == [(len(publishing.read_shards(pairs, "pairs")), "user/name", True)]
    assert "https://huggingface.co/datasets/user/name" in said


@pytest.mark.parametrize("places", [[], ["repo=user/name", "local=folder"]])
def test_one_place_is_asked_for(call, pairs, places) -> None:
    assert "give either repo=user/name, or local=folder" in call(publish, f"pairs={pairs}", *places, code=2)


def test_pairs_come_from_a_finished_folder(call, grids) -> None:
    assert "made by dsd-data-gen" in call(publish, f"pairs={grids}", "local=folder", code=2)
