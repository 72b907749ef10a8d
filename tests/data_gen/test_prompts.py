"""Grid prompts: from the list of subjects, and from a language model over real HTTP."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from omegaconf import OmegaConf
from servers import openai_says, serve

from dsd.chat.openai import KEY
from dsd.data_gen.captions import captions
from dsd.data_gen.near_duplicates import evaluation_subjects, overlap, without_near_duplicates
from dsd.data_gen.templates import TemplatePrompts, kind, words
from dsd.errors import UserError
from dsd.runs.command import CONFIG_DIR
from dsd.runs.manifest import read_manifest
from dsd.runs.shards import read_failures, read_shards

WORDING = OmegaConf.load(Path(CONFIG_DIR) / "prompts" / "subjects.yaml")


def templates(layout: str = "2x2", seed: int = 0, **changes: object) -> TemplatePrompts:
    return TemplatePrompts(layout, "same", seed, **{"grid": WORDING.grid, "panel": WORDING.panel, **changes})


def test_the_list_is_long_and_has_no_subject_twice() -> None:
    subjects = [subject for category in words("subjects").values() for subject in category]
    assert len(subjects) == len(set(subjects)) >= 300
    assert all(kind(subject) and len(kind(subject)) <= len(subject) for subject in subjects)


def test_every_subject_has_its_turn_before_one_comes_again() -> None:
    prompt_at, num = templates(), sum(map(len, words("subjects").values()))
    turns = [{prompt_at(index).subject for index in range(turn * num, (turn + 1) * num)} for turn in range(2)]
    assert turns[0] == turns[1]
    assert len(turns[0]) == num
    assert [prompt_at(i).subject for i in range(5)] != [prompt_at(i + num).subject for i in range(5)]
    assert prompt_at(7) == templates()(7) != templates(seed=1)(7)


@pytest.mark.parametrize("layout", ["2x2", "1x2", "2x1", "1x4"])
def test_a_prompt_names_every_panel_and_its_captions_keep_the_secret(layout) -> None:
    prompt = templates(layout, categories=["object"])(3)
    num = len(prompt.panel_captions)
    assert f"A grid of {num} images" in prompt.prompt
    assert prompt.prompt.count("[") == num == len(set(prompt.panel_captions))
    assert prompt.prompt.count(prompt.subject) == num + 1
    for caption in prompt.panel_captions:
        assert caption.startswith(kind(prompt.subject))
        assert prompt.subject not in caption


def test_logos_are_shown_on_things() -> None:
    assert all(
        "beach" not in caption for i in range(24) for caption in templates(categories=["logo"])(i).panel_captions
    )


def test_the_suffix_of_a_path_says_how_captions_are_read(tmp_path) -> None:
    """Empty captions are left out, and those that differ in case, space or punctuation alone, in any script."""
    lines = ["A red fox.", "", "a  RED fox", "一只猫 🐈", "кот на окне", "A red foxglove."]
    (tmp_path / "c.txt").write_text("\n".join(lines), encoding="utf-8")
    expected = ["A red fox.", "一只猫 🐈", "кот на окне", "A red foxglove."]
    assert captions(str(tmp_path / "c.txt")) == expected
    assert captions(str(tmp_path / "c.txt"), num=4) == expected[:2]
    rows = Dataset.from_dict({"text": lines})
    rows.to_parquet(tmp_path / "c.parquet")
    rows.to_json(tmp_path / "c.jsonl")
    for name in ("c.parquet", "c.jsonl"):
        assert captions(str(tmp_path / name), "text") == expected
        assert captions(str(tmp_path / name), "text", num=4) == expected[:2]
    with pytest.raises(UserError, match=r"prompts\.captions\.column=caption: no such column in .*; its columns: text"):
        captions(str(tmp_path / "c.parquet"), "caption")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"bad\.parquet: cannot be read"):
        captions(str(tmp_path / "bad.parquet"), "text")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        captions(str(tmp_path / "latin.txt"))
    for missing in ("none.txt", "none.jsonl", "none.parquet", "./none"):
        with pytest.raises(UserError, match=f"path={missing}: no such file"):
            captions(missing)
    with pytest.raises(UserError, match="nobody/nothing: neither a file nor a set on the hub"):
        captions("nobody/nothing")


def test_near_duplicates_leave_the_first() -> None:
    texts = [
        "a red fox sleeping in the deep snow under a pine", "a red fox sleeping in deep snow under the pine tree",
        "a blue tram on a rainy street", "一只在雪地里睡觉的红色狐狸", "一只在雪地里睡觉的红色狐狸呀",
        "a blue tram in a desert",
    ]  # fmt: skip
    assert without_near_duplicates(texts, 0.7) == [texts[0], texts[2], texts[3], texts[5]]
    assert without_near_duplicates(texts, 0.95) == texts


def test_prompts_about_evaluation_subjects_are_reported(run, refused, tmp_path) -> None:
    folder = tmp_path / "captions" / "object"
    folder.mkdir(parents=True)
    (folder / "00.txt").write_text("violin\na violin on a beach\n")
    (folder / "01.txt").write_text("space shuttle\nin orbit\n")
    names = evaluation_subjects(tmp_path / "captions")
    assert names == ["violin", "space shuttle"]
    subjects = ["a violin with a chipped scroll", "a violinist", "a space rocket", "a SPACE shuttle, dented"]
    assert [(row[0], row[2]) for row in overlap(subjects, names)] == [(0, "violin"), (3, "space shuttle")]
    here = (f"output_dir={tmp_path / 'out'}", "device=cpu", "model.num_inference_steps=1", "num_grids=44")
    run("data_gen", "prompts=subjects", "prompts.categories=[object]", *here,
        f"evaluation_captions={tmp_path / 'captions'}")  # fmt: skip
    (row,) = (tmp_path / "out" / "overlap.csv").read_text().splitlines()[1:]
    assert row.endswith("a violin with a chipped scroll and amber varnish,violin")
    assert read_manifest(tmp_path / "out", "data_gen")["counts"]["overlapping"] == 1
    (tmp_path / "empty").mkdir()
    assert "no .txt files there" in refused("data_gen", f"evaluation_captions={tmp_path / 'empty'}", *here)
    assert "no such folder" in refused("data_gen", f"evaluation_captions={tmp_path / 'nothing'}", *here)


CAPTIONS = ["a fox in the snow", "a crowd", "an old teapot", "fog", "mist", "rain", "a blue tram", "x", "y"]


def answer(body: dict) -> tuple[int, dict]:
    text = body["messages"][0]["content"][0]["text"]
    caption = next(c for c in CAPTIONS if f'"{c}"' in text)
    if "Does it have one clear subject" in text:
        return 200, openai_says(json.dumps({"has_subject": " a" in f" {caption}"[:2], "reason": "none"}))
    panels = [f"it, scene {n}" for n in range(4)]
    return 200, openai_says(json.dumps({"subject": caption, "panels": panels, "prompt": f"a grid of {caption}"}))


def settings(url: str, folder: Path, *more: str) -> list[str]:
    (folder / "captions.txt").write_text("\n".join(CAPTIONS))
    return [
        "prompts=llm", f"prompts.captions.path={folder / 'captions.txt'}", "vlm=openai", f"vlm.chat.base_url={url}/v1",
        "vlm.limits.first_wait=0.01", f"cache_dir={folder}", f"output_dir={folder / 'grids'}", "num_grids=4",
        "rows_per_shard=2", "model.num_inference_steps=1", "device=cpu", *more,
    ]  # fmt: skip


def test_a_language_model_filters_captions_and_writes_prompts(run, tmp_path, monkeypatch) -> None:
    """Three captions a grid: fox; none of three (fog, mist, rain); tram; none left."""
    monkeypatch.setenv(KEY, "sk-secret")
    with serve(answer) as server:
        run("data_gen", *settings(server.url, tmp_path))
        asked = len(server.requests)
        assert asked == 2 + 3 + 2
        run("data_gen", *settings(server.url, tmp_path, f"output_dir={tmp_path / 'again'}", "shard=1", "num_shards=2"))
        assert len(server.requests) == asked
    grids = read_shards(tmp_path / "grids", "grids")
    assert [(row["index"], row["prompt"]) for row in grids] == [(0, "a grid of a fox in the snow"), (2, "a grid of a blue tram")]  # noqa: E501  # fmt: skip
    reasons = [failure["reason"] for failure in read_failures(tmp_path / "grids", "grids")]
    assert reasons[0].startswith("no prompt: no subject to keep: none; no subject")
    assert reasons[1] == "no prompt: no more captions"


def test_a_language_model_writes_pictures_in_several_lights(run, refused, tmp_path, monkeypatch) -> None:
    """Layout 2x2 instead of 1x2, as the answers here have four panels."""
    monkeypatch.setenv(KEY, "sk-secret")
    with serve(answer) as server:
        ours = [*settings(server.url, tmp_path, "prompts.layout=2x2", "prompts.captions_per_grid=1")[1:], "num_grids=1"]
        ours.remove("num_grids=4")
        run("data_gen", "prompts=llm_lights", *ours)
        (text,) = (str(body) for _, _, body in server.requests if "Does it have" not in str(body))
    assert "names its light alone" in text
    (row,) = read_shards(tmp_path / "grids", "grids")
    assert (row["relation"], row["panel_captions"]) == ("relight", [f"it, scene {n}" for n in range(4)])
    said = refused("data_gen", "prompts=llm_lights", *ours, "prompts.relation=lit", f"output_dir={tmp_path / 'b'}")
    assert "prompts.relation=lit: choose from" in said


LONG = '{"subject": "fox", "panels": ["a1a", "b2b", "c3c", "d4d"], "prompt": "%s"}' % ("word " * 300)
SHORT = '{"subject": "fox", "panels": ["one", "two"], "prompt": "a grid"}'


def test_a_prompt_that_is_too_long_is_a_failure(refused, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(KEY, "sk-secret")
    with serve(lambda _: (200, openai_says(LONG))) as server:
        said = refused("data_gen", *settings(server.url, tmp_path, "prompts.filter=null", "num_grids=1"))
    assert "no grid was drawn, the first because: no prompt: the prompt has 300 words" in said


@pytest.mark.parametrize("fault", [(200, openai_says(SHORT)), (503, {"error": {"message": "busy"}})])
def test_a_prompt_that_is_not_answered_is_asked_for_by_the_next_run(run, refused, tmp_path, monkeypatch, fault) -> None:
    """It is in no shard, and no other caption is taken in its place."""
    monkeypatch.setenv(KEY, "sk-secret")
    down = [True]
    with serve(lambda body: fault if down[0] and "teapot" in str(body) else answer(body)) as server:
        ask = settings(
            server.url, tmp_path, "vlm.limits.attempts=1", "prompts.filter=null", "prompts.captions_per_grid=1"
        )
        said = refused("data_gen", *ask)
        assert "1 prompts have no answer, the first because: " in said
        assert not (tmp_path / "grids" / "manifest.json").exists()
        down[0] = False
        run("data_gen", *ask)
    assert read_shards(tmp_path / "grids", "grids")["subject"] == CAPTIONS[:4]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("c.txt", "caf\u00e9".encode("latin-1")), ("c.txt", "a fox".encode("utf-16")), ("c.txt", b"\n"),
        ("c.txt", None), ("pipe", None), ("c.jsonl", b"[1, 2]\n[3]"), ("c.jsonl", b'{"caption": 3}'),
        ("c.jsonl", b'{"caption": ["a"]}'), ("c.jsonl", b"null"), ("c.jsonl", b"{"),
        ("c.jsonl", b'{"caption": "caf\xe9"}'), ("c.json", b'[["a"]]'),
        ("c.json", b"[" * 100_000), ("c.parquet", b"PAR1" * 100), ("c.parquet", None),
    ],
)  # fmt: skip
def test_any_file_of_captions_is_captions_or_one_line(tmp_path, name, data) -> None:
    file = tmp_path / name
    os.mkfifo(file) if data is None else file.write_bytes(data)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        captions(str(file))


def test_a_line_separator_is_within_a_caption(tmp_path) -> None:
    (tmp_path / "c.txt").write_text("a fox\u2028in the snow\na tram", encoding="utf-8")
    assert captions(str(tmp_path / "c.txt")) == ["a fox in the snow", "a tram"]


def test_many_captions_are_read_in_seconds(tmp_path) -> None:
    """3 MB took 90 s."""
    words = [f"word{number}" for number in range(3000)]
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(words, 9)) for _ in range(8000)]
    (tmp_path / "c.txt").write_text("\n".join(lines))
    began = time.process_time()
    assert len(captions(str(tmp_path / "c.txt"))) > 7900
    assert time.process_time() - began < 8


def test_bad_input_is_one_line(refused, tmp_path) -> None:
    here = f"output_dir={tmp_path / 'out'}"
    ask = ("prompts=llm", f"prompts.captions.path={tmp_path / 'none.txt'}")
    server = ("vlm=openai", "vlm.chat.base_url=http://127.0.0.1:9/v1", f"output_dir={tmp_path / 'a'}")
    assert "no such file" in refused("data_gen", *ask, *server)
    (tmp_path / "none.txt").write_text("a fox")
    assert "choose vlm=gemini, openai, server or local" in refused("data_gen", *ask, f"output_dir={tmp_path / 'b'}")
    assert "unknown fish; known: animal" in refused("data_gen", "prompts=subjects", "prompts.categories=[fish]", here)
    here = f"output_dir={tmp_path / 'c'}"
    assert "unknown field 'who'" in refused("data_gen", "prompts=subjects", "prompts.grid='{who}'", here)
