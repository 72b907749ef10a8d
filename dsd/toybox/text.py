"""Tokenizers and text encoders of the toybox: FLUX's classes over the vocabulary of the grammar."""

import json
import re

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from dsd.toybox import captions

MAX_SEQUENCE_LENGTH = 56  # the longest sheet prompt has 55 tokens


def corpus() -> list[str]:
    """Every word of the grammar, once a line, whatever the world's odds are."""
    phrases = [phrase for values in captions.WORDINGS.values() for wordings in values.values() for phrase in wordings]
    heads = [
        "two four panels of the same critter.",
        "of different critters.",
        "of the same picture of a, only the light changes.",
    ]
    tags = [tag for pair in captions.TAGS.values() for tag in pair]
    return [*phrases, *captions.NOUNS, *heads, *tags, "a b, c: d."]


def train_clip_tokenizer(texts: list[str], vocab_size: int = 1024) -> CLIPTokenizer:
    """CLIP's byte-pair encoding, learnt from these texts; any other text still has a spelling."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    splitter = CLIPTokenizer().backend_tokenizer  # lends its normaliser and its way of splitting words
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
    for character in alphabet:  # any letter may end a word
        vocab.setdefault(character + "</w>", len(vocab))
    merges = [tuple(merge) for merge in learnt["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)


def build_tokenizers() -> tuple[CLIPTokenizer, T5Tokenizer]:
    """CLIP's learnt from the corpus; for T5 a unigram model in which every word of the grammar is one piece."""
    texts = corpus()
    pieces = sorted({piece for text in texts for piece in re.findall(r"[^\s,.:]+|[,.:]", text)})
    words = [(piece if piece in ",.:" else "▁" + piece, -3.0) for piece in pieces]
    letters = [(chr(code), -12.0) for code in range(33, 127) if chr(code) not in ",.:"]
    specials = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -6.0)]
    t5 = T5Tokenizer(vocab=specials + words + letters, extra_ids=0, model_max_length=512)
    return train_clip_tokenizer(texts), t5


def build_text_encoders(clip: CLIPTokenizer, t5: T5Tokenizer) -> tuple[CLIPTextModel, T5EncoderModel]:
    """Two layers each; trained together with the transformer, since no pretrained ones fit this world."""
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
    """Begin T5's relative position bias as ALiBi-like slopes: two heads favour near words on the left, one near words.

    FLUX gives text tokens no positions, so T5 alone can tell which panel's tag a word stands behind. Its own start, a bias
    near zero, left the prompt a bag of words for thousands of steps: scenes right, in the wrong panels (LOG.md).
    """
    table = encoder.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight  # (32 buckets, 4 heads)
    half = len(table) // 2
    distance = torch.arange(half).float()
    far = distance >= half // 2  # buckets of single distances first, then ever wider ones up to 128
    distance[far] = half / 2 * (128 / (half / 2)) ** ((distance[far] - half // 2) / (half // 2))
    left, right = table[:half], table[half:]
    for head, slope in ((0, 0.3), (1, 0.15)):
        left[:, head], right[:, head] = -slope * distance, -4.0
    left[:, 2] = right[:, 2] = -0.4 * distance
