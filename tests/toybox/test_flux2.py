"""The toybox on FLUX.2's classes: it reads the grammar, speaks the code, and is a stock pipeline."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, Flux2KleinPipeline
from transformers import Qwen2Tokenizer

from dsd.io.files import resolve
from dsd.models.canvas import pack
from dsd.models.families import family_named
from dsd.models.families.flux2 import layers_of, statistics
from dsd.toybox import flux2
from dsd.toybox.samples import LAYOUTS, sample_grids

WEIGHTS = Path(resolve("pkg://dsd.toybox/weights"))


@pytest.fixture(scope="module")
def pipeline() -> Flux2KleinPipeline:
    pipeline = Flux2KleinPipeline.from_pretrained(WEIGHTS / flux2.FOLDER)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return Qwen2Tokenizer.from_pretrained(WEIGHTS / flux2.FOLDER / "tokenizer")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_prompt_fits(tokenizer, layout: str) -> None:
    rng = np.random.default_rng(1)
    for relation in ("same", "different", "relight"):
        for prompt in sample_grids(rng, 100, layout, relation).prompts(rng):
            assert len(tokenizer(flux2.START + prompt + flux2.END).input_ids) <= flux2.LENGTHS[layout]


def test_words_are_tokens_and_any_text_can_be_spelt(tokenizer) -> None:
    assert tokenizer.tokenize(" a red round critter") == ["Ġa", "Ġred", "Ġround", "Ġcritter"]
    assert tokenizer.decode(tokenizer("Zürich, 7 Ωs!").input_ids) == "Zürich, 7 Ωs!"


def test_tokens_are_placed_in_the_prompt_as_the_pipeline_asks_for_it(pipeline, tokenizer) -> None:
    """Training and the stock pipeline see the same ids."""
    prompt = "two panels of the same red round critter. [LEFT] big beach [RIGHT] small snow"
    ids, mask, spans = flux2.tokenize(tokenizer, [prompt])
    with torch.no_grad():
        ours = flux2.embed(pipeline.text_encoder, ids, mask)
        (theirs,) = family_named("flux2").encode_text(pipeline, [prompt], flux2.MAX_SEQUENCE_LENGTH)
    torch.testing.assert_close(ours, theirs)
    said = [prompt[start:end] for start, end in spans[0] if end > start]
    assert "".join(said) == prompt
    assert layers_of(pipeline.text_encoder) == flux2.LAYERS


@torch.no_grad()
def test_the_vae_is_the_small_flux_1_s_and_its_statistics_matter(pipeline) -> None:
    old = AutoencoderKL.from_pretrained(WEIGHTS / "teacher" / "vae")
    pixels = sample_grids(np.random.default_rng(3), 2, "1x2", "same").pixels() * 2 - 1
    code = pack(old.encode(pixels).latent_dist.mode())
    family = family_named("flux2")
    torch.testing.assert_close(family.encode(pipeline.vae, pixels), code, atol=1e-4, rtol=1e-4)
    raw = pack(pipeline.vae.encode(pixels).latent_dist.mode())
    assert (raw - code).abs().max() > 0.5, "without the statistics latents are something else"
    assert statistics(pipeline.vae)[1].unique().numel() == 16
    drawn = family.decode(pipeline.vae, code, rows=4)
    torch.testing.assert_close(drawn, old.decode(old.encode(pixels).latent_dist.mode()).sample, atol=1e-4, rtol=1e-4)


def test_it_is_small_and_a_base(pipeline) -> None:
    files = [f for f in (WEIGHTS / flux2.FOLDER).rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 32e6
    assert not pipeline.config["is_distilled"]
