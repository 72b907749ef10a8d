"""The judge of aligned pairs, over real HTTP: what it is asked, and which pairs come of its answers."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from servers import openai_says, serve

from dsd.chat.openai import KEY
from dsd.runs.shards import read_shards

LIGHT = "golden hour, low light from the left"


def brightness(picture: dict) -> float:
    """The mean grey level of a picture of a request."""
    data = base64.b64decode(picture["image_url"]["url"].partition(",")[2])
    return float(np.asarray(Image.open(io.BytesIO(data)).convert("L"), float).mean())


def answer(body: dict) -> tuple[int, dict]:
    """Judge as asked: a pair counts only where the light differs. Phrases tell which of the two wordings was asked."""
    text, *pictures = body["messages"][0]["content"]
    if "You are shown two images" in text["text"]:
        first, second = map(brightness, pictures)
        said = {
            "common_subject": "a critter in a room", "first_description": f"light {first:.0f}",
            "second_description": f"light {second:.0f}", "parts": [{"part": "critter", "score": 4}],
            "reason": "the light differs", "same": abs(first - second) > 4,
        }  # fmt: skip
        return 200, openai_says(json.dumps(said))
    return 200, openai_says(LIGHT if len(pictures) == 1 else f"{LIGHT}, as asked")


@pytest.fixture
def asked(run, grids, tmp_path, monkeypatch) -> list[dict]:
    """What a curation with this judge asked."""
    monkeypatch.setenv(KEY, "sk-secret")
    with serve(answer) as server:
        run("curation", f"grids={grids}", f"output_dir={tmp_path / 'pairs'}", f"cache_dir={tmp_path}", "vlm=openai",
            "judge=vlm_relight", f"vlm.chat.base_url={server.url}/v1", "describe_rejected=false")  # fmt: skip
        return [body for _, _, body in server.requests]


def test_pairs_are_kept_where_the_light_differs_both_ways(asked, tmp_path) -> None:
    pairs, rejected = (read_shards(tmp_path / "pairs", name) for name in ("pairs", "rejected"))
    assert len(pairs) > 0 < len(rejected)
    for rows, differs in ((pairs, True), (rejected, False)):
        for row in rows:
            levels = [np.asarray(row[side].convert("L"), float).mean() for side in ("conditioning", "image")]
            assert bool(abs(levels[0] - levels[1]) > 4) == differs
    ways = {(row["grid"], row["reference_panel"], row["target_panel"]) for row in pairs}
    assert ways == {(grid, target, reference) for grid, reference, target in ways}
    assert set(pairs["caption"]) == {LIGHT}
    assert set(pairs["instruction"]) == {f"{LIGHT}, as asked"}
    assert pairs[0]["verdict_reason"] == "the light differs"


def test_the_wording_asks_for_one_scene_and_for_another_light(asked) -> None:
    """One question a pair, one a used panel, two a kept pair; each says what the geometry cannot."""
    words = {len(body["messages"][0]["content"]): set() for body in asked}
    for body in asked:
        words[len(body["messages"][0]["content"])].add(body["messages"][0]["content"][0]["text"])
    (caption,) = words[2]
    judge, instruct = sorted(words[3], key=lambda text: "You are shown two images" not in text)
    for said in ("camera that did not move", "kept its place", "conditions do differ", "shadows"):
        assert said in judge
    for phrase in (caption, instruct):
        assert "one short phrase" in phrase
        assert "Do not name the subject" in phrase
