"""Tokenizers and encoders: one piece a word, room for the longest prompt, and words that know their panel."""

from pathlib import Path

import numpy as np
import torch
from transformers import T5EncoderModel, T5Tokenizer

from dsd.io.files import resolve
from dsd.toybox.samples import LAYOUTS, sample_grids
from dsd.toybox.text import MAX_SEQUENCE_LENGTH, VALUES, build_tokenizers, corpus, labels, tokenize

TEACHER = Path(resolve("pkg://dsd.toybox/weights/teacher"))


def prompts(num: int) -> list[str]:
    rng = np.random.default_rng(0)
    relations = ("same", "different", "relight")
    return [p for layout in LAYOUTS for r in relations for p in sample_grids(rng, num, layout, r).prompts(rng)]


def test_every_prompt_fits_word_by_word() -> None:
    clip, t5 = build_tokenizers()
    for prompt in prompts(100):
        ids = t5(prompt).input_ids
        assert len(ids) <= MAX_SEQUENCE_LENGTH
        assert t5.unk_token_id not in ids
        assert t5.decode(ids, skip_special_tokens=True) == prompt
        assert len(clip(prompt).input_ids) <= 77
    assert all(
        len(t5(word).input_ids) <= 2
        for line in corpus()
        for word in line.replace(",", "").split()
        if word[-1] not in ".:"
    )
    assert t5.unk_token_id not in t5("zebra").input_ids  # a word of no grammar is spelt


def test_the_shipped_tokenizers_are_these() -> None:
    _, t5 = build_tokenizers()
    shipped = T5Tokenizer.from_pretrained(TEACHER / "tokenizer_2")
    assert [shipped(p).input_ids for p in prompts(5)] == [t5(p).input_ids for p in prompts(5)]


def test_labels_say_panel_and_value() -> None:
    prompt = (
        "two panels of the same red boxy critter. [LEFT] big on the left snow [RIGHT] small tilted left dunes night"
    )
    _, t5 = build_tokenizers()
    encoded = t5(prompt, return_offsets_mapping=True)
    panels, values = labels(prompt, encoded.offset_mapping)
    told = [(panel, VALUES[value - 1][0]) for panel, value in zip(panels, values, strict=True) if value]
    assert list(dict.fromkeys(told)) == [
        (0, "colour"), (0, "body"), (1, "size"), (1, "position"), (1, "scene"),
        (2, "size"), (2, "tilt"), (2, "scene"), (2, "light"),
    ]  # fmt: skip


@torch.inference_mode()
def test_a_word_is_encoded_with_its_panel() -> None:
    """The same word after the same neighbours in another panel is another vector; FLUX needs it, see `Reading`."""
    clip, t5 = build_tokenizers()
    encoder = T5EncoderModel.from_pretrained(TEACHER / "text_encoder_2").eval()
    head = "two panels of the same red boxy critter."
    _, ids = tokenize(
        clip, t5, [f"{head} [LEFT] big snow [RIGHT] small desert", f"{head} [LEFT] small desert [RIGHT] big snow"]
    )
    hidden = encoder(ids).last_hidden_state
    snow = t5("snow").input_ids[0]
    first, second = (hidden[row][ids[row] == snow][0] for row in range(2))
    assert torch.cosine_similarity(first, second, dim=0) < 0.8
