"""Random weights of a published shape, made where they will run."""

import torch
from transformers import T5Config, T5EncoderModel

from dsd.models import random_weights
from dsd.models.random_weights import draw_weights, empty


def test_a_module_that_was_made_empty_is_filled(monkeypatch) -> None:
    """Matrices are small and random, norms scale by 1, tied parameters stay tied, flags and dtypes stay."""
    monkeypatch.setattr(random_weights, "PATTERN", 100)  # so that a matrix needs several copies of it
    config = T5Config(d_model=32, d_ff=48, d_kv=8, num_heads=4, num_layers=2, vocab_size=70)
    with empty(torch.bfloat16):
        encoder = T5EncoderModel(config)
    encoder.tie_weights()
    encoder.requires_grad_(False).eval()
    draw_weights(encoder, "cpu")
    assert encoder.shared.weight is encoder.encoder.embed_tokens.weight
    assert all(
        p.device.type == "cpu" and p.dtype == torch.bfloat16 and not p.requires_grad for p in encoder.parameters()
    )
    matrix = encoder.encoder.block[0].layer[0].SelfAttention.q.weight
    assert 0.01 < float(matrix.float().std()) < 0.03
    assert torch.equal(encoder.encoder.final_layer_norm.weight, torch.ones(32, dtype=torch.bfloat16))
    assert encoder(torch.arange(6)[None]).last_hidden_state.isfinite().all()
