"""A whole pipeline on the hub: pushed, loaded by our class, and loaded by diffusers with the code beside it."""

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from dsd.pipeline.pipeline import DSDPipeline

DATA = Path(__file__).parents[1] / "data" / "published_tiny"
CALL = {"height": 64, "width": 64, "num_inference_steps": 2, "max_sequence_length": 16, "output_type": "latent"}


def drawn(pipeline) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        "a dog", Image.open(DATA / "reference.png"), generator=torch.Generator().manual_seed(1), **CALL
    ).images


def test_a_pushed_pipeline_draws_the_same_for_everyone(hub) -> None:
    model = DATA / "dsd_model"
    lora = model / "pytorch_lora_weights.safetensors"
    pipeline = DSDPipeline.from_base(str(DATA / "base"), transformer=model / "transformer", lora=lora)
    expected = drawn(pipeline)
    pipeline.push_to_hub("user/pipe")
    assert {"model_index.json", "pipeline.py", "README.md"} <= hub.repos["user/pipe"].keys()
    assert not [name for name in hub.repos["user/pipe"] if name.endswith((".bin", ".pt"))]
    for ours in (DSDPipeline.from_pretrained("user/pipe"), DSDPipeline.from_base("user/pipe")):
        assert type(ours) is DSDPipeline
        torch.testing.assert_close(drawn(ours), expected)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained("user/pipe")
    theirs = DiffusionPipeline.from_pretrained("user/pipe", trust_remote_code=True)
    assert type(theirs).__module__.startswith("diffusers_modules.")
    assert (drawn(theirs) - expected).norm() / expected.norm() < 1e-5
    mixed = DiffusionPipeline.from_pretrained(
        DATA / "base", custom_pipeline="user/pipe", trust_remote_code=True, transformer=theirs.transformer
    )
    torch.testing.assert_close(drawn(mixed), drawn(theirs))
