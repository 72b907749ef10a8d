"""Tokenizers and text encoders of the toybox: FLUX's classes over the vocabulary of the grammar."""

import re

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from dsd.toybox.sheets import sample_sheets

MAX_SEQUENCE_LENGTH = 56  # the longest sheet prompt has 55 tokens
SEED = 2


def corpus() -> list[str]:
    """Prompts of every kind, enough to meet every word."""
    rng = np.random.default_rng(SEED)
    kinds = (("1x1", "same"), ("1x2", "same"), ("2x2", "same"), ("2x2", "different"), ("1x2", "relight"), ("2x2", "relight"))
    return [prompt for layout, relation in kinds for prompt in sample_sheets(rng, 400, layout, relation).prompts(rng)]


def build_tokenizers() -> tuple[CLIPTokenizer, T5Tokenizer]:
    """CLIP's byte-pair encoding trained on the corpus; for T5 a unigram model in which every word is one piece."""
    texts = corpus()
    start, end = "<|startoftext|>", "<|endoftext|>"
    pairs = CLIPTokenizer()  # lends its normaliser and its way of splitting words
    learner = Tokenizer(models.BPE(unk_token=end, end_of_word_suffix="</w>"))
    learner.normalizer = pairs.backend_tokenizer.normalizer
    learner.pre_tokenizer = pairs.backend_tokenizer.pre_tokenizer
    alphabet = sorted({character for character in pre_tokenizers.ByteLevel.alphabet()})
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=1024,
            special_tokens=[start, end],
            initial_alphabet=alphabet,
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    learnt = models_json(learner)
    vocab = dict(learnt["vocab"])
    for character in alphabet:  # any last letter is known, so that any word is
        vocab.setdefault(character + "</w>", len(vocab))
    merges = [tuple(merge) for merge in learnt["merges"]]
    clip = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)

    pieces = sorted({piece for text in texts for piece in re.findall(r"[^\s,.:]+|[,.:]", text)})
    words = [(piece if piece in ",.:" else "▁" + piece, -3.0) for piece in pieces]
    letters = [(chr(code), -12.0) for code in range(33, 127) if chr(code) not in ",.:"]
    specials = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -6.0)]
    t5 = T5Tokenizer(vocab=specials + words + letters, extra_ids=0, model_max_length=512)
    return clip, t5


def models_json(tokenizer: Tokenizer) -> dict:
    import json

    return json.loads(tokenizer.to_str())["model"]


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
    return CLIPTextModel(clip_config), T5EncoderModel(t5_config)
