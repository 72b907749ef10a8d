"""FLUX.1: T5 and CLIP, latents packed 2 x 2, distilled guidance, a modulation in every block."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps
from torch import Tensor

from dsd.models.families import Text, unwrapped
from dsd.models.families import memory as memories
from dsd.models.families.parts import PackedLatents, TwoKindsOfBlocks

BLOCKS = r"(single_)?transformer_blocks\.\d+\..*"
# What the released LoRA holds; in single blocks only to_q, to_k, to_v exist.
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
ALL_LINEAR = (*ATTENTION, "net.0.proj", "net.2", "proj_mlp", "proj_out")


@dataclass(frozen=True)
class Flux1(PackedLatents, TwoKindsOfBlocks):
    """FLUX.1-dev and its like; see `dsd.models.families.Family`."""

    name: str = "flux1"
    positions: tuple[str, ...] = ("kontext", "column", "diagonal", "shared")
    attentions: tuple[str, ...] = ("cached", "full")
    blocks_at: str = BLOCKS
    precomputable: bool = True  # whether `dsd.pipeline.precompute` knows its modulations
    step_cacheable: bool = True

    @property
    def lora_targets(self) -> dict[str, tuple[str, ...]]:
        """Endings of the modules that get a LoRA."""
        return {"attention": ATTENTION, "all_linear": ALL_LINEAR}

    def encode_text(self, pipeline: Any, prompts: Sequence[str], max_sequence_length: int) -> Text:
        """Ask T5, (B, T, D), and CLIP, (B, P)."""
        embeds, pooled, _ = pipeline.encode_prompt(
            prompt=list(prompts), prompt_2=None, max_sequence_length=max_sequence_length
        )
        return embeds, pooled

    def text_encoders(self, pipeline: Any) -> dict[str, Any]:
        """Name the text encoders; the one whose embeddings are large comes last."""
        return {"text_encoder": pipeline.text_encoder, "text_encoder_2": pipeline.text_encoder_2}

    def text_width(self, pipeline: Any) -> int:
        """Count the numbers of a text token."""
        width: int = pipeline.text_encoder_2.config.d_model
        return width

    def text_shapes(self, transformer: Any, num: int) -> tuple[tuple[int, ...], ...]:
        """Give the shapes of a text of `num` tokens, without the batch."""
        config = transformer.config
        return (num, config["joint_attention_dim"]), (config["pooled_projection_dim"],)

    def count_tokens(self, pipeline: Any, prompt: str) -> int:
        """Count the tokens of a prompt for T5."""
        return len(pipeline.tokenizer_2(prompt, truncation=False, verbose=False).input_ids)

    def timesteps(self, scheduler: Any, num_steps: int, num_tokens: int, device: torch.device) -> Tensor:
        """Set the scheduler's timesteps (S,), shifted by the number of tokens where it shifts dynamically."""
        config = scheduler.config
        keys = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        timesteps: Tensor
        timesteps, _ = retrieve_timesteps(
            scheduler,
            device=device,
            sigmas=np.linspace(1.0, 1 / num_steps, num_steps).tolist(),
            mu=calculate_shift(num_tokens, *(config[key] for key in keys)),
        )
        return timesteps

    def channels(self, transformer: Any) -> int:
        """Count the channels of a token, C."""
        return int(transformer.out_channels)

    def velocity(
        self, transformer: Any, tokens: Tensor, ids: Tensor, sigmas: Tensor, text: Text, guidance_scale: float
    ) -> Tensor:
        """Call the transformer on tokens that all see each other: (B, N, C) at `ids` (N, 3) -> (B, N, C)."""
        embeds, pooled = text
        guidance = torch.full_like(sigmas, guidance_scale) if takes_guidance(transformer) else None
        return flux_velocity(transformer, tokens, sigmas, embeds, pooled, ids.to(tokens), guidance)

    def remembering_velocity(
        self, transformer: Any, tokens: Tensor, ids: Tensor, references: Tensor, reference_ids: Tensor,
        sigmas: Tensor, text: Text, guidance_scale: float, memory: Any = None,
    ) -> tuple[Tensor, Any]:  # fmt: skip
        """Call the transformer beside references that see themselves alone, at time 0 and without a text."""
        (embeds, pooled), below = text, unwrapped(transformer)
        guidance = torch.full_like(sigmas, guidance_scale) if takes_guidance(transformer) else None
        unused: Tensor | None = None
        if memory is None:
            no_words, no_text, now = embeds[:, :0], torch.zeros_like(pooled), torch.zeros_like(sigmas)
            places = reference_ids.to(references)
            unused = flux_velocity(transformer, references, now, no_words, no_text, places, guidance, "store")
            memory = memories.take(below)
        memories.give(below, memory)
        velocity = flux_velocity(transformer, tokens, sigmas, embeds, pooled, ids.to(tokens), guidance, "use")
        memories.forget(below)
        if unused is not None and unused.requires_grad:
            # FSDP2 gathers a block's weights for the backward pass when a gradient reaches the block's output
            velocity = velocity + 0 * unused.sum()
        return velocity, memory

    def allow_memory(self, transformer: Any) -> None:
        """Give every block an attention that can store and use the keys and values of references."""
        memories.allow_memory(transformer)

    def block_inputs(
        self, transformer: Any, block: Any, zeros: Callable[..., Tensor], batch: int, num_tokens: int, text_tokens: int
    ) -> dict[str, Any]:
        """Make the inputs of a block, to measure what it keeps."""
        width, ids = transformer.inner_dim, zeros(text_tokens + num_tokens, 3).detach().float()
        return {
            "hidden_states": zeros(batch, num_tokens, width),
            "encoder_hidden_states": zeros(batch, text_tokens, width),
            "temb": zeros(batch, width).requires_grad_(trains(transformer.time_text_embed)),
            "image_rotary_emb": transformer.pos_embed(ids),
        }

    def edges(self, transformer: Any) -> tuple[Tensor, Tensor]:
        """Give the weights of the input and output layers."""
        embedder = transformer.x_embedder
        return getattr(embedder, "x_embedder", embedder).weight, transformer.proj_out.weight


def trains(module: Any) -> bool:
    """Tell whether any parameter of a module is trained."""
    return any(parameter.requires_grad for parameter in module.parameters())


def takes_guidance(transformer: Any) -> bool:
    """Tell whether the transformer has distilled guidance as an input."""
    return bool(unwrapped(transformer).config.guidance_embeds)


def flux_velocity(
    transformer: Any, tokens: Tensor, sigmas: Tensor, prompt_embeds: Tensor, pooled_prompt_embeds: Tensor, ids: Tensor,
    guidance: Tensor | None, memory: str | None = None,
) -> Tensor:  # fmt: skip
    """Call FLUX.1's transformer: tokens (B, L, C') at positions `ids` (L, 3), noise levels (B,) -> (B, L, C).

    `memory` is for `RememberingAttention`.
    """
    velocity: Tensor = transformer(
        hidden_states=tokens,
        timestep=sigmas,
        guidance=guidance,
        pooled_projections=pooled_prompt_embeds,
        encoder_hidden_states=prompt_embeds,
        txt_ids=ids.new_zeros(prompt_embeds.shape[1], 3),
        img_ids=ids,
        joint_attention_kwargs=None if memory is None else {"memory": memory},
        return_dict=False,
    )[0]
    return velocity


FAMILY = Flux1()
