"""Embeddings before the judge: genuine classes at tiny size, a score of their own, and bounds that save calls."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_embeddings import tiny_clip, tiny_dinov2

from dsd.errors import UserError
from dsd.models.embeddings import OpenClipFeatures, TransformersFeatures
from dsd.runs.shards import read_shards


@pytest.mark.parametrize("kind", ["dinov2", "open_clip"])
def test_a_picture_is_nearest_to_itself(tmp_path, kind) -> None:
    if kind == "dinov2":
        features = TransformersFeatures("dinov2", str(tiny_dinov2(tmp_path / "m")), device="cpu")
    else:
        features = OpenClipFeatures("clip", f"local-dir:{tiny_clip(tmp_path / 'm')}", device="cpu")
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)) for _ in range(3)]
    vectors = features([*images, images[1]])
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
    similarity = vectors @ vectors.T
    assert similarity[1, 3] == pytest.approx(1, abs=1e-5)
    assert similarity[1, :3].argmax() == 1
    assert similarity[0, 1] < 0.9999


def test_bounds_on_its_score_save_the_judge_s_work(run, grids, tmp_path) -> None:
    model = tiny_dinov2(tmp_path / "m")
    ask = (f"grids={grids}", "features=dinov2", f"features.path={model}", "device=cpu")
    run("curation", *ask, f"output_dir={tmp_path / 'all'}")
    scores = [json.loads(v["scores"])["dinov2"] for v in read_shards(tmp_path / "all", "verdicts")]
    bound = float(np.median(scores))
    run("curation", *ask, f"output_dir={tmp_path / 'half'}", f"+prefilter.minimum.dinov2={bound}")
    verdicts = list(read_shards(tmp_path / "half", "verdicts"))
    left_out = [v for v in verdicts if v["defect"]]
    assert 0.4 < len(left_out) / len(verdicts) < 0.6
    assert all(v["defect"].startswith("low dinov2: ") and not v["common_subject"] for v in left_out)
    assert all(json.loads(v["scores"])["dinov2"] < bound for v in left_out)
    reasons = set(read_shards(tmp_path / "half", "rejected")["rejection"])
    assert any(reason.startswith("low dinov2: ") for reason in reasons)
    for kept, among in ((read_shards(tmp_path / name, "pairs") for name in ("half", "all")),):
        assert len(kept) < len(among)


def test_seams_are_found_before_anything_is_asked(run, tmp_path, grids) -> None:
    """The toybox's panels may show one scene side by side, without a seam: such a sheet is rejected as a whole."""
    uncurated = ("selection.require_same=false", "selection.minimum.confidence=null")
    run("curation", f"grids={grids}", "panels=seams", *uncurated, f"output_dir={tmp_path}", "device=cpu")
    reasons = [row["rejection"].split(":")[0] for row in read_shards(tmp_path, "rejected")]
    assert set(reasons) <= {"layout", "evaluation subject"}


def test_a_model_that_is_not_there_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"features\.path=.*cannot be loaded"):
        TransformersFeatures("dinov2", str(tmp_path), device="cpu")
    with pytest.raises(UserError, match=r"features\.model=ViT-Z.*cannot be loaded"):
        OpenClipFeatures("clip", "ViT-Z", device="cpu")
