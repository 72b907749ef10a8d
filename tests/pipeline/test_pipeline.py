"""`DSDPipeline` beyond what the released code does: batches, guidance, callbacks, its own file format."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from PIL import Image

from dsd.errors import UserError
from dsd.models.loading import load_pipeline
from dsd.pipeline.pipeline import DSDPipeline

DATA = Path(__file__).parents[1] / "data" / "published_tiny"
SMALL = {"height": 64, "width": 64, "num_inference_steps": 3, "max_sequence_length": 16}


@pytest.fixture(scope="module")
def pipeline() -> DSDPipeline:
    model = DATA / "dsd_model"
    lora = model / "pytorch_lora_weights.safetensors"
    loaded = DSDPipeline.from_base(str(DATA / "base"), transformer=model / "transformer", lora=lora)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def references(num: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)) for _ in range(num)]


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


def draw(pipeline: DSDPipeline, *arguments: object, **settings: object) -> torch.Tensor:
    return pipeline(*arguments, **SMALL, **settings, output_type="latent").images


def test_a_picture_does_not_depend_on_its_batch(pipeline) -> None:
    pictures, prompts = references(3), ["a dog", "a cat in the rain", "a hat"]
    guidance = {"image_guidance_scale": 1.5, "text_guidance_scale": 2.0}
    together = draw(pipeline, prompts, pictures, generator=seeds(1, 2, 3), **guidance)
    alone = draw(pipeline, prompts[1], pictures[1], generator=seeds(2), **guidance)
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=1e-4)
    assert (together[0] - together[1]).abs().mean() > 0.01


def test_one_picture_serves_many_prompts_and_many_pictures_a_prompt(pipeline) -> None:
    (picture,) = references(1)
    both = draw(pipeline, ["a dog", "a cat"], picture, generator=seeds(1, 2))
    each = draw(pipeline, ["a dog", "a cat"], [picture, picture], generator=seeds(1, 2))
    torch.testing.assert_close(both, each)
    assert len(draw(pipeline, "a dog", picture, generator=seeds(1, 2), num_images_per_prompt=2)) == 2
    with pytest.raises(UserError, match="2 images for 3 prompts"):
        draw(pipeline, ["a", "b", "c"], references(2))


def test_a_reference_matters_and_none_is_the_zero_latent(pipeline) -> None:
    first, second = references(2)
    drawn = [draw(pipeline, "a dog", picture, generator=seeds(1)) for picture in (first, second, None)]
    assert (drawn[0] - drawn[1]).abs().mean() > 1e-3
    assert (drawn[0] - drawn[2]).abs().mean() > 1e-3


def test_the_panels_are_apart(pipeline) -> None:
    result = pipeline("a dog", references(1)[0], **SMALL, generator=seeds(1), return_reference=True)
    assert result.images[0].size == result.references[0].size == (64, 64)
    assert result.images[0].tobytes() != result.references[0].tobytes()


def test_a_callback_may_change_the_latents(pipeline) -> None:
    steps = []

    def erase(pipe: DSDPipeline, step: int, timestep: torch.Tensor, known: dict) -> dict:
        steps.append(step)
        return {"latents": torch.zeros_like(known["latents"])}

    ended = draw(pipeline, "a dog", references(1)[0], callback_on_step_end=erase)
    assert steps == [0, 1, 2]
    assert not ended.any()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"guidance_scale": float("nan")}, "guidance_scale=nan"),
        ({"text_guidance_scale": float("inf")}, "text_guidance_scale=inf"),
        ({"num_inference_steps": 0}, "num_inference_steps=0"),
        ({"height": 50}, "50"),
    ],
)
def test_values_that_cannot_work_are_refused(pipeline, settings, words) -> None:
    with pytest.raises(UserError, match=words):
        pipeline("a dog", references(1)[0], **{**SMALL, **settings})


def test_a_base_without_adapter_is_refused() -> None:
    with pytest.raises(UserError, match="adapter="):
        DSDPipeline.from_base(str(DATA / "base"))
    base = load_pipeline(str(DATA / "base"), cls=DSDPipeline)
    with pytest.raises(UserError, match="takes no reference"):
        base("a dog", references(1)[0], **SMALL)


def test_it_saves_and_loads_as_any_pipeline(pipeline, tmp_path) -> None:
    """Merged, in diffusers' own layout: its transformer is one that diffusers reads without us."""
    pipeline.save_pretrained(tmp_path)
    again = DSDPipeline.from_pretrained(tmp_path)
    without = DSDPipeline.from_base(str(tmp_path))
    (picture,) = references(1)
    for loaded in (again, without):
        loaded.set_progress_bar_config(disable=True)
        torch.testing.assert_close(*(draw(p, "a dog", picture, generator=seeds(1)) for p in (pipeline, loaded)))
    plain = FluxTransformer2DModel.from_pretrained(tmp_path, subfolder="transformer")
    assert (plain.config.in_channels, plain.out_channels) == (128, 64)
    assert not any("lora" in name or "c_embedder" in name for name in plain.state_dict())


def test_the_schedule_is_that_of_the_students_own_base(tmp_path) -> None:
    """FLUX.1-schnell has the same parts and no gate, but another schedule, with which the student would fail."""
    base = Path(shutil.copytree(DATA / "base", tmp_path / "schnell"))
    FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False).save_pretrained(base / "scheduler")
    released = DSDPipeline.from_base(str(base), transformer=DATA / "dsd_model" / "transformer")
    expected = DSDPipeline.from_base(str(DATA / "base"), transformer=DATA / "dsd_model" / "transformer")
    ours, theirs = (p.family.timesteps(p.scheduler, 28, 2048, torch.device("cpu")) for p in (released, expected))
    torch.testing.assert_close(ours, theirs)


def test_a_base_that_is_not_whole_is_refused(tmp_path) -> None:
    base = Path(shutil.copytree(DATA / "base", tmp_path / "base"))
    (file,) = (base / "vae").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be loaded"):
        DSDPipeline.from_base(str(base), transformer=DATA / "dsd_model" / "transformer")
