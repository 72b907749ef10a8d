"""The released code's own outputs on tiny weights (tests/data/published_tiny), reproduced."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from dsd.pipeline.pipeline import DSDPipeline

DATA = Path(__file__).parents[1] / "data" / "published_tiny"
CASES = json.loads((DATA / "cases.json").read_text())


def load(fuse: bool) -> DSDPipeline:
    model = DATA / "dsd_model"
    loaded = DSDPipeline.from_base(
        str(DATA / "base"),
        transformer=model / "transformer",
        lora=model / "pytorch_lora_weights.safetensors",
        fuse=fuse,
    )
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def fused() -> DSDPipeline:
    return load(fuse=True)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_final_latents_agree_with_the_released_code(fused: DSDPipeline, number: int) -> None:
    compare(fused, number)


def test_so_they_do_with_the_lora_left_unfused() -> None:
    compare(load(fuse=False), number=2)


def compare(pipeline: DSDPipeline, number: int) -> None:
    case, tensors = CASES[number], load_file(DATA / "latents.safetensors")
    call = {
        "prompt": case["text"],
        "image": Image.open(DATA / "reference.png"),
        "height": 512,
        "width": 512,
        "num_inference_steps": case["steps"],
        "guidance_scale": case["guidance"],
        "image_guidance_scale": case["i_guidance"],
        "text_guidance_scale": case["t_guidance"],
        "latents": tensors[f"initial_latents_{number}"],
    }
    final, expected = pipeline(**call, output_type="latent").images, tensors[f"final_latents_{number}"]
    assert (final - expected).norm() / expected.norm() < 1e-4
    if number == 1:
        picture = np.asarray(pipeline(**call).images[0], np.int16)
        released = np.asarray(Image.open(DATA / "expected_1.png"), np.int16)
        assert np.abs(picture - released).max() <= 1
