"""Any text-to-image pipeline of diffusers draws grids: genuine classes at tiny size."""

import inspect
from pathlib import Path
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5EncoderModel,
)

from dsd.data_gen.teachers import PipelineTeacher
from dsd.io.records import Prompt
from dsd.models.speed import Speed
from dsd.pipeline import prompt_encoding
from dsd.pipeline.prompt_encoding import PROMPTINGS, Embeddings, Prompting, Words, prompting_of
from dsd.runs.shards import read_shards

BASE = Path(__file__).parents[1] / "data" / "published_tiny" / "base"


def save_sd3(folder: Path) -> None:
    torch.manual_seed(0)
    clip = CLIPTextConfig(
        hidden_size=32, intermediate_size=37, num_attention_heads=4, num_hidden_layers=2, projection_dim=32,
        vocab_size=1000,
    )  # fmt: skip
    t5 = T5EncoderModel.from_pretrained(BASE / "text_encoder_2")
    transformer = SD3Transformer2DModel(
        sample_size=32, patch_size=1, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=64, out_channels=4,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(4, 4), down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4, norm_num_groups=1, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06,
        scaling_factor=1.5,
    )  # fmt: skip
    tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer")
    StableDiffusion3Pipeline(
        transformer, FlowMatchEulerDiscreteScheduler(), vae, CLIPTextModelWithProjection(clip), tokenizer,
        CLIPTextModelWithProjection(clip), tokenizer, t5, PreTrainedTokenizerFast.from_pretrained(BASE / "tokenizer_2"),
    ).save_pretrained(folder)  # fmt: skip


def test_stable_diffusion_3_is_a_teacher(run, tmp_path) -> None:
    save_sd3(tmp_path / "sd3")
    size = ("model.panel_height=16", "model.panel_width=16", "model.max_sequence_length=16")
    run("data_gen", "prompts=subjects", "prompts.layout=1x2", "num_grids=3", f"model.path={tmp_path / 'sd3'}", *size,
        "model.num_inference_steps=2", f"output_dir={tmp_path / 'grids'}", "device=cpu")  # fmt: skip
    grids = read_shards(tmp_path / "grids", "grids")
    assert [row["image"].size for row in grids] == [(32, 16)] * 3
    assert len({row["image"].tobytes() for row in grids}) == 3


@pytest.mark.parametrize("family", PROMPTINGS, ids=lambda family: family.pipeline)
def test_the_names_of_a_family_are_the_pipeline_s(family: Prompting) -> None:
    """`encode_prompt` takes what we give it, and a call takes every embedding that we hand back."""
    pipeline = getattr(diffusers, family.pipeline)
    negative = {f"negative_{name}" for name in family.embeddings} if family.negative is not None else set()
    taken = {*family.embeddings, *negative, family.guidance, "max_sequence_length"}
    assert taken <= set(inspect.signature(pipeline.__call__).parameters)
    encoder = SimpleNamespace(config=SimpleNamespace(num_hidden_layers=36))
    given = {"prompt", "max_sequence_length", *family.others(SimpleNamespace(text_encoder=encoder))}
    assert given <= set(inspect.signature(pipeline.encode_prompt).parameters)


def test_an_unknown_family_is_called_whole_and_draws_the_same(monkeypatch) -> None:
    """FLUX.1 is known and has its prompts encoded beforehand; taken as unknown, it draws the same pictures."""

    def drawn() -> tuple[object, list]:
        speed = Speed("eager", True, False, None, False, None)
        teacher = PipelineTeacher(str(BASE), "float32", 16, 16, 16, 2, 3.5, speed, device="cpu")
        prompts = [Prompt(i, f"grid {i}", "1x2", ["", ""], "", "same", "") for i in range(2)]
        teacher.prepare(prompts)
        return teacher.text, teacher(prompts, [5, 6])

    text, apart = drawn()
    assert isinstance(text, Embeddings)
    monkeypatch.setattr(prompt_encoding, "PROMPTINGS", ())
    text, whole = drawn()
    assert isinstance(text, Words)
    assert all(np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1 for a, b in zip(apart, whole, strict=True))


def test_a_pipeline_of_another_class_has_no_family() -> None:
    assert prompting_of(object()) is None
