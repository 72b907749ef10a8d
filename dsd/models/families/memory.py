"""Keys and values of references for FLUX.1, whose own attention keeps none (FLUX.2's does, in diffusers).

References are shown to the transformer by themselves ("store"). What is drawn then sees their keys and values beside
its own ("use"). The two passes compute what one pass with a mask would compute.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor

Memory = list[
    tuple[Tensor, Tensor]
]  # of each block: keys and values (B, R, heads, width of a head), after the rotation


class RememberingAttention:
    """FLUX.1's attention with a memory. Without `memory=` it computes what diffusers' `FluxAttnProcessor` does."""

    _attention_backend = None  # diffusers sets both
    _parallel_config = None

    def __init__(self) -> None:
        self.kept: tuple[Tensor, Tensor] | None = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
        memory: str | None = None,
    ) -> Any:
        """Attend. `memory` is "store", "use" or None."""
        query, key, value = _heads(attn, hidden_states, "to_q", "to_k", "to_v", attn.norm_q, attn.norm_k)
        if encoder_hidden_states is not None:
            names = ("add_q_proj", "add_k_proj", "add_v_proj")
            text = _heads(attn, encoder_hidden_states, *names, attn.norm_added_q, attn.norm_added_k)
            query, key, value = _joined(text, (query, key, value))
        if image_rotary_emb is not None:
            query, key = (_rotated(states, image_rotary_emb) for states in (query, key))
        if memory == "store":
            self.kept = key, value
        elif memory == "use":
            assert self.kept is not None
            key, value = _joined((key, value), self.kept)
        attended = dispatch_attention_fn(
            query, key, value, attn_mask=attention_mask, backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )  # fmt: skip
        attended = attended.flatten(2, 3).to(query.dtype)
        if encoder_hidden_states is None:
            return attended
        length = encoder_hidden_states.shape[1]
        shown = attn.to_out[1](attn.to_out[0](attended[:, length:].contiguous()))
        return shown, attn.to_add_out(attended[:, :length].contiguous())


def _joined(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
    """Join queries, keys or values, each (B, N, heads, width of a head), along N."""
    return [torch.cat(both, dim=1) for both in zip(first, second, strict=True)]


def _rotated(states: Tensor, rotation: Any) -> Tensor:
    """Rotate queries or keys by their positions."""
    rotated: Any = apply_rotary_emb(states, rotation, sequence_dim=1)
    found: Tensor = rotated
    return found


def _heads(
    attn: Any, states: Tensor, to_q: str, to_k: str, to_v: str, norm_q: Any, norm_k: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Project to queries, keys and values (B, N, heads, width of a head)."""
    query, key, value = (getattr(attn, name)(states).unflatten(-1, (-1, attn.head_dim)) for name in (to_q, to_k, to_v))
    return norm_q(query), norm_k(key), value


def attentions(transformer: Any) -> list[Any]:
    """List the attention of every block, in the order of the forward pass."""
    blocks = (*transformer.transformer_blocks, *transformer.single_transformer_blocks)
    return [block.attn for block in blocks]


def allow_memory(transformer: Any) -> None:
    """Give every block an attention with a memory, where it has none."""
    for attention in attentions(transformer):
        if not isinstance(attention.processor, RememberingAttention):
            attention.set_processor(RememberingAttention())


def take(transformer: Any) -> Memory:
    """Take the memory that a pass with memory="store" has left."""
    return [attention.processor.kept for attention in attentions(transformer)]


def forget(transformer: Any) -> None:
    """Let the blocks forget what they were given."""
    for attention in attentions(transformer):
        attention.processor.kept = None


def repeatable(block: Any) -> Callable[..., Any]:
    """Make a call of a block that reads the memory of now whenever it is repeated: the backward pass comes later."""
    processor = getattr(getattr(block, "attn", None), "processor", None)
    if not isinstance(processor, RememberingAttention):
        called: Callable[..., Any] = block
        return called
    kept = processor.kept

    def call(*inputs: Any) -> Any:
        processor.kept = kept
        return block(*inputs)

    return call


def joined_numbers(block: Any, num_references: int) -> int:
    """Count the numbers that a sample's `num_references` tokens add to what a block keeps: keys and values once more.

    They stand beside those of what is drawn, in tensors of their own. 0 for a block without such an attention.
    """
    attention: Any = getattr(block, "attn", None)
    remembers = isinstance(getattr(attention, "processor", None), RememberingAttention)
    return 2 * num_references * int(attention.inner_dim) if remembers else 0


def give(transformer: Any, memory: Memory) -> None:
    """Give a memory to the blocks, for the passes with memory="use"."""
    for attention, kept in zip(attentions(transformer), memory, strict=True):
        attention.processor.kept = kept
