"""Similarity by a real CLIP at tiny size; the mean of what was measured."""

import json
import math
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dsd.metrics.measure import Drawing, Scale, mean_scores
from dsd.metrics.similarity import Similarity
from dsd.models.embeddings import OpenClipFeatures


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> OpenClipFeatures:
    folder: Path = tmp_path_factory.mktemp("clip")
    config = {
        "embed_dim": 16, "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }  # fmt: skip
    torch.manual_seed(0)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(open_clip.model.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    return OpenClipFeatures("clip", f"local-dir:{folder}", device="cpu")


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
