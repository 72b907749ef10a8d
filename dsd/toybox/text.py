"""Tokenizers and text encoders of the toybox: FLUX's classes with the vocabulary of the grammar, trained to read it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from dsd.toybox import grammar
from dsd.toybox.fit import fit
from dsd.toybox.samples import sample_grids
from dsd.toybox.world import NAMED

SEED = 2
PANELS = 4
RELATIONS = ("same", "same", "different", "relight")
VALUES = [(name, pattern) for name, finder in grammar.FINDERS.items() for pattern in finder.values()]

MAX_SEQUENCE_LENGTH = 56  # the longest grid prompt has 55 tokens


def corpus() -> list[str]:
    """List every phrase of the grammar once, so that the world's odds do not matter."""
    phrases = [phrase for values in grammar.WORDINGS.values() for wordings in values.values() for phrase in wordings]
    heads = [
        "two four panels of the same critter.",
        "of different critters.",
        "of the same picture of a, only the light changes.",
    ]
    tags = [tag for pair in grammar.TAGS.values() for tag in pair]
    return [*phrases, *grammar.NOUNS, *heads, *tags, "a b, c: d."]


def train_clip_tokenizer(texts: list[str], vocab_size: int = 1024) -> CLIPTokenizer:
    """Train CLIP's byte-pair encoding on these texts; any other text can still be spelt."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    splitter = CLIPTokenizer().backend_tokenizer  # has the normaliser and the way of splitting words
    learner = Tokenizer(models.BPE(unk_token=end, end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = splitter.normalizer, splitter.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[start, end],
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    learnt = json.loads(learner.to_str())["model"]
    vocab = learnt["vocab"]
    for character in alphabet:  # any letter can end a word
        vocab.setdefault(character + "</w>", len(vocab))
    merges: Any = [tuple(merge) for merge in learnt["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)


def build_tokenizers() -> tuple[CLIPTokenizer, T5Tokenizer]:
    """Make CLIP's tokenizer from the corpus; T5's is a unigram model with one piece for each word of the grammar."""
    texts = corpus()
    pieces = sorted({piece for text in texts for piece in re.findall(r"[^\s,.:]+|[,.:]", text)})
    words = [(piece if piece in ",.:" else "▁" + piece, -3.0) for piece in pieces]
    letters = [(chr(code), -12.0) for code in range(33, 127) if chr(code) not in ",.:"]
    specials = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -6.0)]
    t5 = T5Tokenizer(vocab=specials + words + letters, extra_ids=0, model_max_length=512)
    return train_clip_tokenizer(texts), t5


def build_text_encoders(clip: CLIPTokenizer, t5: T5Tokenizer) -> tuple[CLIPTextModel, T5EncoderModel]:
    """Make the untrained encoders: a CLIP of one layer and a T5 of two."""
    clip_config = CLIPTextConfig(
        vocab_size=len(clip),
        hidden_size=64,
        intermediate_size=128,
        projection_dim=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=clip.bos_token_id,
        eos_token_id=clip.eos_token_id,
        pad_token_id=clip.pad_token_id,
    )
    t5_config = T5Config(
        vocab_size=len(t5),
        d_model=128,
        d_kv=32,
        d_ff=256,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        is_encoder_decoder=False,
        use_cache=False,
        pad_token_id=t5.pad_token_id,
        eos_token_id=t5.eos_token_id,
    )
    t5_encoder = T5EncoderModel(t5_config)
    look_left(t5_encoder)
    return CLIPTextModel(clip_config), t5_encoder


@torch.no_grad()
def look_left(encoder: T5EncoderModel) -> None:
    """Initialise T5's relative position bias as slopes, like ALiBi's.

    Two heads favour near words on the left, one favours near words on both sides. The last tag on the left of a word
    tells its panel. From T5's own initial bias, near zero, training finds this late.
    """
    block: Any = encoder.encoder.block
    table = block[0].layer[0].SelfAttention.relative_attention_bias.weight  # (32 buckets, 4 heads)
    half = len(table) // 2
    distance = torch.arange(half).float()
    far = distance >= half // 2  # buckets hold single distances first, then wider and wider ranges up to 128
    distance[far] = half / 2 * (128 / (half / 2)) ** ((distance[far] - half // 2) / (half // 2))
    left, right = table[:half], table[half:]
    for head, slope in ((0, 0.3), (1, 0.15)):
        left[:, head], right[:, head] = -slope * distance, -4.0
    left[:, 2] = right[:, 2] = -0.4 * distance


class Reading(nn.Module):
    """The task on which the text encoders are trained before the teacher, as FLUX's were trained on language.

    T5 learns which value each word names, and for which panel. CLIP, which turns a prompt into one vector, learns which
    subject the prompt names. FLUX gives text tokens no positions, so only T5 can tell the transformer which panel a
    word belongs to.
    """

    def __init__(self, clip: CLIPTextModel, t5: T5EncoderModel) -> None:
        super().__init__()
        self.clip, self.t5 = clip, t5
        width = t5.config.d_model
        self.panel, self.value = nn.Linear(width, 1 + PANELS), nn.Linear(width, 1 + len(VALUES))
        self.who = nn.Linear(clip.config.hidden_size, len(VALUES))

    def forward(self, clip_ids: Tensor, t5_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the logits of the panel (B, T, 5), of the value (B, T, V + 1), and of the values present (B, V).

        The weights of a class have unit length, so the embedding itself must show the answer clearly.
        """
        hidden, pooled = self.t5(t5_ids).last_hidden_state, self.clip(clip_ids).pooler_output
        return (
            F.linear(hidden, F.normalize(self.panel.weight)),
            F.linear(hidden, F.normalize(self.value.weight)),
            self.who(pooled),
        )


def labels(prompt: str, offsets: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Label every token at `offsets` of the prompt by its panel (0: all of them) and its value (0: none)."""
    tags = [match.start() for match in re.finditer(r"\[", prompt)]
    said = [0] * len(prompt)
    for number, (_, pattern) in enumerate(VALUES, start=1):
        for match in pattern.finditer(prompt):
            said[match.start() : match.end()] = [number] * (match.end() - match.start())
    panels = [sum(tag < end for tag in tags) for _, end in offsets]
    return panels, [said[end - 1] if end > start else 0 for start, end in offsets]


def train_text(folder: Path, out: Path, num_steps: int = 1200, lr: float = 2e-3, device: str = "cpu") -> None:
    """Train both encoders and write them with their tokenizers to `out`/teacher; `folder` holds checkpoints."""
    torch.manual_seed(SEED)
    clip, t5 = build_tokenizers()
    reading = Reading(*build_text_encoders(clip, t5)).to(device)
    named = torch.tensor([name in NAMED for name, _ in VALUES])

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        rng = np.random.default_rng((SEED, step))
        layout = ("1x1", "1x2", "2x2", "2x2")[step % 4]
        prompts = [sample_grids(rng, 1, layout, str(rng.choice(RELATIONS))).prompts(rng)[0] for _ in range(64)]
        clip_ids, t5_ids = tokenize(clip, t5, prompts)
        offsets = t5(prompts, padding="max_length", max_length=MAX_SEQUENCE_LENGTH, return_offsets_mapping=True)
        panels, values = torch.tensor(
            [labels(prompt, spans) for prompt, spans in zip(prompts, offsets.offset_mapping, strict=True)]
        ).unbind(1)
        present = torch.stack([(values == 1 + i).any(1) for i in range(len(VALUES))], dim=1)[:, named].float()
        panel, value, who = reading(clip_ids.to(device), t5_ids.to(device))
        panels, values = panels.to(device), values.to(device)
        words = t5_ids.to(device) != t5.pad_token_id
        loss = F.cross_entropy(panel[words], panels[words]) + F.cross_entropy(value[words], values[words])
        loss = loss + F.binary_cross_entropy_with_logits(who[:, named.to(device)], present.to(device))
        right = (panel[words].argmax(-1) == panels[words]) & (value[words].argmax(-1) == values[words])
        return loss, {"words_right": right.float().mean()}

    fit(reading, loss_at, folder, num_steps=num_steps, lr=lr)
    for part, name in (
        (clip, "tokenizer"),
        (t5, "tokenizer_2"),
        (reading.clip, "text_encoder"),
        (reading.t5, "text_encoder_2"),
    ):
        part.save_pretrained(out / "teacher" / name)


def tokenize(clip: CLIPTokenizer, t5: T5Tokenizer, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Convert prompts to ids as `FluxPipeline` does: CLIP's (B, 77), T5's (B, 56)."""
    short = clip(list(prompts), padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    long = t5(list(prompts), padding="max_length", truncation=True, max_length=MAX_SEQUENCE_LENGTH, return_tensors="pt")
    return short.input_ids, long.input_ids
