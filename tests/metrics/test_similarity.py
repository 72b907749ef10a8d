"""Similarity by a real CLIP at tiny size; the mean of what was measured."""

import math

import numpy as np
import pytest
from PIL import Image
from tiny_embeddings import tiny_clip

from dsd.metrics.measure import Drawing, Scale, mean_scores
from dsd.metrics.similarity import Similarity
from dsd.models.embeddings import OpenClipFeatures


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> OpenClipFeatures:
    return OpenClipFeatures("clip", f"local-dir:{tiny_clip(tmp_path_factory.mktemp('clip'))}", device="cpu")


def test_image_and_text_of_each_picture_in_order(clip: OpenClipFeatures) -> None:
    rng = np.random.default_rng(0)
    one, other = (Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)) for _ in range(2))
    measure = Similarity(clip)
    copied, drawn = measure([Drawing(one, one, "a robot"), Drawing(one, other, "a kitchen")])
    assert measure.scale.names == ("clip_image", "clip_text")
    assert copied["clip_image"] == pytest.approx(1, abs=1e-5)
    assert drawn["clip_image"] < copied["clip_image"]
    assert copied["clip_text"] == pytest.approx(float((clip([one]) * clip.text(["a robot"])).sum()), abs=1e-5)
    assert measure.grids is None
    assert measure.self_check() is None
    assert measure.objection("a porcelain robot in a kitchen", "") == ""


def test_a_mean_is_over_the_pictures_that_have_the_number() -> None:
    scale = Scale(("A", "B", "AxB"), headline="AxB", explained="", products={"AxB": ("A", "B")})
    assert mean_scores(scale, [{"A": 0.5, "B": 1.0}, {"A": 1.0}]) == {"A": 0.75, "B": 1.0, "AxB": 0.75}
    assert math.isnan(mean_scores(scale, [{"A": 0.5}])["AxB"])
