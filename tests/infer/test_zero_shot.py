"""method=zero_shot: the base by itself, by diffusers' own pipelines, on tiny bases of the genuine classes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline
from PIL import Image
from worlds_of_families import kontext, random_base

from dsd.models.families.flux2 import layers_of

EXAMPLES = Path(__file__).parents[2] / "examples"
FIRST, SECOND = EXAMPLES / "critter-1.png", EXAMPLES / "critter-2.png"
PROMPT = "a red round critter, beach"
QUICK = ("method=zero_shot", "settings.num_inference_steps=2", "model.max_sequence_length=48", "device=cpu")


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def draw(run, base: Path, path: Path, *images: Path, prompt: str = PROMPT, more: tuple[str, ...] = ()) -> np.ndarray:
    given = f"[{','.join(map(str, images))}]" if len(images) > 1 else images[0]
    run(
        "infer", *QUICK, f"model.path={base}", f"image={given}", f"prompt='{prompt}'", "seed=3", f"output={path}", *more
    )
    return pixels(path)


def test_flux2_is_diffusers_own_pipeline(run, base_folders, tmp_path) -> None:
    ours = draw(run, base_folders["flux2"], tmp_path / "a.png", FIRST, SECOND)
    pipeline = Flux2KleinPipeline.from_pretrained(base_folders["flux2"])
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        image=[Image.open(FIRST).convert("RGB"), Image.open(SECOND).convert("RGB")], prompt=PROMPT, height=64, width=64,
        num_inference_steps=2, guidance_scale=3.5, generator=torch.Generator().manual_seed(3), max_sequence_length=48,
        text_encoder_out_layers=layers_of(pipeline.text_encoder),
    ).images[0]  # fmt: skip
    same = draw(run, base_folders["flux2"], tmp_path / "b.png", FIRST, SECOND, more=("settings.guidance_scale=3.5",))
    assert np.abs(same - np.asarray(theirs).astype(int)).max() <= 1
    other = draw(run, base_folders["flux2"], tmp_path / "c.png", SECOND, FIRST)
    assert np.abs(ours - other).max() > 1, "it sees its references"


@pytest.mark.slow  # its pipeline scales a reference to a million pixels
def test_kontext_takes_one_reference(run, refused, tmp_path) -> None:
    base = tmp_path / "kontext"
    kontext(random_base("flux1")).save_pretrained(base)
    first, second = (draw(run, base, tmp_path / f"{i}.png", image) for i, image in enumerate((FIRST, SECOND)))
    assert first.shape == (64, 64, 3)
    assert np.abs(first - second).max() > 1
    said = refused("infer", *QUICK, f"model.path={base}", f"image=[{FIRST},{SECOND}]", f"prompt='{PROMPT}'",
                   f"output={tmp_path / 'two.png'}")  # fmt: skip
    assert "2 references for a picture: this base takes at most 1" in said


def tiny_qwen(folder: Path) -> Path:
    """A Qwen-Image-Edit of two blocks: Qwen's own VAE, language model and transformer with random weights."""
    from diffusers import AutoencoderKLQwenImage, QwenImageEditPlusPipeline, QwenImageTransformer2DModel
    from tiny_vlm import save_tiny_vlm
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

    save_tiny_vlm(folder / "vlm")
    encoder = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "vlm")
    processor = Qwen2_5_VLProcessor.from_pretrained(folder / "vlm")
    torch.manual_seed(0)
    transformer = QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=3,
        joint_attention_dim=encoder.config.text_config.hidden_size, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    vae = AutoencoderKLQwenImage(
        base_dim=12, z_dim=4, dim_mult=[1, 2, 4, 4], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    pipeline = QwenImageEditPlusPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae, text_encoder=encoder, tokenizer=processor.tokenizer,
        processor=processor, transformer=transformer,
    )  # fmt: skip
    pipeline.save_pretrained(folder / "base")
    return folder / "base"


@pytest.mark.slow  # likewise
def test_qwen_image_edit_sees_prompt_and_references_together(run, tmp_path) -> None:
    base = tiny_qwen(tmp_path)
    one = ("settings.num_inference_steps=1", "settings.guidance_scale=2")
    first, second = (draw(run, base, tmp_path / f"{i}.png", image, more=one) for i, image in enumerate((FIRST, SECOND)))
    assert first.shape == (64, 64, 3)
    assert np.abs(first - second).max() > 0


@pytest.mark.parametrize("family", ["flux1", "z_image"])
def test_a_base_that_takes_no_references_is_refused(refused, base_folders, tmp_path, family) -> None:
    said = refused("infer", *QUICK, f"model.path={base_folders[family]}", f"image={FIRST}", f"prompt='{PROMPT}'",
                   f"output={tmp_path / 'a.png'}")  # fmt: skip
    assert "takes no references by itself; bases that do: Flux2KleinPipeline" in said


def test_a_set_of_jobs_and_a_reference_that_the_pipeline_refuses(run, base_folders, tmp_path) -> None:
    Image.new("RGB", (20, 80)).save(tmp_path / "narrow.png")
    lines = [f'{{"reference": "{name}", "prompt": "{PROMPT}"}}' for name in (FIRST, tmp_path / "narrow.png")]
    (tmp_path / "jobs.jsonl").write_text("\n".join(lines))
    jobs = ("jobs=jsonl", f"jobs.path={tmp_path / 'jobs.jsonl'}", f"output_dir={tmp_path / 'out'}")
    said = run("infer", *QUICK, f"model.path={base_folders['flux2']}", *jobs)
    assert "1 pictures by zero_shot (1 failed)" in said
    assert "the base refuses the job: Image too small: 20×80" in said
