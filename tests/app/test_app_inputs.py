"""What enters dsd-app: settings of the command, uploads, numbers, settings in a PNG, finished folders."""

import json
from pathlib import Path

import pytest
from app.conftest import settings_in

from dsd.app.adapters import find_adapters
from dsd.app.data import browse, views
from dsd.app.wishes import drawing, numbers_of, prompts_of, read_settings, read_upload, seed_of, wishes
from dsd.errors import UserError
from dsd.io.pictures import save_picture
from dsd.runs.settings import plain
from dsd.runs.shards import read_shards


@pytest.mark.parametrize("setting", ["host=0.0.0.0", "host=192.0.2.1", "share=true"])
def test_nobody_is_let_in_without_a_password(setting, refused, monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("DSD_APP_AUTH", raising=False)
    assert f"{setting} lets others in: set DSD_APP_AUTH" in refused("app", setting, f"output_dir={tmp_path}")


def test_the_password_has_a_user(refused, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("DSD_APP_AUTH", "justaword")
    said = refused("app", f"output_dir={tmp_path}")
    assert "not of the form user:password" in said
    assert "justaword" not in said


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("adapter=nowhere", "no such adapter"),
        ("offload=sequential quantization=int8", "offload=sequential"),
        ("styles=nowhere", "no such folder"),
        ("settings.height=100", "multiple of 16"),
    ],
)
def test_settings_that_cannot_work_are_refused(setting, words, refused, tmp_path) -> None:
    assert words in refused("app", *setting.split(), f"output_dir={tmp_path}")


def test_uploads_are_limited(compose_app, reference, not_a_picture, huge, tmp_path) -> None:
    cfg = compose_app()
    assert read_upload(str(reference), cfg).size == (64, 64)
    with pytest.raises(UserError, match=r"^notes.png: no picture that can be read"):
        read_upload(str(not_a_picture), cfg)
    with pytest.raises(UserError, match=r"^huge.png: 100 megapixels \(10000 x 10000\); this server takes at most 50"):
        read_upload(str(huge), cfg)
    cfg.most_megabytes = 0
    with pytest.raises(UserError, match="more than 0 MB"):
        read_upload(str(reference), cfg)
    for none in (None, "", str(tmp_path), str(tmp_path / "absent.png")):
        with pytest.raises(UserError, match="no reference"):
            read_upload(none, cfg)


def test_numbers_and_words_are_checked(compose_app) -> None:
    settings = plain(compose_app())["settings"]
    assert drawing(settings, 64).num_inference_steps == 3
    for change, words in (
        ({"height": 63}, "height"),
        ({"width": 128}, "at most 64 pixels"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"image_guidance_scale": float("nan")}, "image_guidance_scale"),
        ({"fit": "tear"}, "fit"),
    ):
        with pytest.raises(UserError, match=words):
            drawing(settings | change, 64)
    assert prompts_of(" a\n\n b ") == ["a", "b"]
    assert numbers_of("1, 1.5;2,1", "x") == [1, 1.5, 2]
    for call in (
        lambda: prompts_of(" \n "), lambda: prompts_of("x" * 5000), lambda: numbers_of("a", "x"),
        lambda: numbers_of("nan", "x"), lambda: seed_of(-1), lambda: seed_of(None), lambda: seed_of(1.5),
    ):  # fmt: skip
        with pytest.raises(UserError):
            call()


def test_seeds_count_up_for_every_prompt(compose_app, reference) -> None:
    settings = drawing(plain(compose_app())["settings"], 64)
    asked = wishes([], ["a", "b"], 2, 7, most=4, drawing=settings)
    assert [(wish.prompt, wish.seed) for wish in asked] == [("a", 7), ("a", 8), ("b", 7), ("b", 8)]
    with pytest.raises(UserError, match="6 pictures; one request takes 1 to 4"):
        wishes([], ["a", "b"], 3, 7, most=4, drawing=settings)


def test_settings_are_read_from_a_png_of_dsd_infer(compose_app, reference, not_a_picture, tmp_path) -> None:
    from PIL import Image

    settings = plain(compose_app("settings.text_guidance_scale=2"))["settings"]
    path = tmp_path / "made.png"
    save_picture(Image.new("RGB", (64, 64)), path, "a critter", 11, settings)
    prompt, seed, read, adapter = read_settings(path, 64)
    assert (prompt, seed, adapter) == ("a critter", 11, "")
    assert read.text_guidance_scale == 2
    assert read.model_dump().items() <= settings_in(path).items()
    for wrong in (reference, not_a_picture):
        with pytest.raises(UserError, match=r"no settings|no picture"):
            read_settings(wrong, 64)
    for damaged in ({**settings, "height": "tall"}, [1], {"height": 64}):
        save_picture(Image.new("RGB", (64, 64)), path, "a critter", 11, damaged)
        with pytest.raises(UserError, match=r"^made.png: "):
            read_settings(path, 64)


def test_adapters_are_found_once_they_are_finished(compose_app) -> None:
    found = find_adapters(compose_app())
    assert found[0].name == "canvas"
    assert {choice.name for choice in found} == {"canvas", "tokens", "foreign", "the base itself"}
    assert found[-2].name == "foreign", "those of another base come last"
    assert {choice.name: choice.most_references for choice in found}["canvas"] == 1
    assert {choice.name: choice.most_references for choice in found}["tokens"] > 1
    found = find_adapters(compose_app("adapter=null"))
    assert found[0].name in ("canvas", "tokens")


def test_data_is_browsed_with_reasons_and_labels(runs, tmp_path, monkeypatch) -> None:
    assert set(views(runs)) == {"grids: grids", "pairs: pairs", "pairs: rejected"}
    kept, rejected = read_shards(runs / "pairs", "pairs"), read_shards(runs / "pairs", "rejected")
    assert browse(runs, "grids: grids").num_rows == 12
    assert browse(runs, "pairs: pairs").num_rows == len(kept)
    page = browse(runs, "pairs: rejected")
    assert page.num_rows == len(rejected) > 0
    assert sum(browse(runs, "pairs: rejected", reason).num_rows for reason in page.reasons) == len(rejected)
    assert all("Rejected: " in card.words for card in page.cards)
    last = browse(runs, "pairs: pairs", number=10**9)
    assert 0 < len(last.cards) <= 12
    row = kept[0]
    first, second = sorted((row["reference_panel"], row["target_panel"]))
    monkeypatch.chdir(tmp_path)
    label = {"grid": row["grid"], "first": first, "second": second, "same": True}
    Path("labels.jsonl").write_text(json.dumps(label) + "\n")
    assert "Labelled same" in browse(runs, "pairs: pairs", labels="labels.jsonl").cards[0].words
    for view in ("pairs: verdicts", "../..: pairs", None):
        with pytest.raises(UserError, match="nothing to browse there"):
            browse(runs, view)
    with pytest.raises(UserError, match="no such file here"):
        browse(runs, "pairs: pairs", labels="/etc/passwd")
