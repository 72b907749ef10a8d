"""FLUX.2 and its kleins: one language model, latents normalised by batch statistics, shared modulations, no biases."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu, retrieve_timesteps
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from dsd.errors import UserError
from dsd.models.canvas import pack, unpack
from dsd.models.families import Text, unwrapped
from dsd.models.families.parts import OneLanguageModel, TwoKindsOfBlocks

BLOCKS = r"(single_)?transformer_blocks\.\d+\..*"
ATTENTION = (
    *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    *("to_qkv_mlp_proj", "attn.to_out"),  # of single blocks, which do both at once
)
ALL_LINEAR = (*ATTENTION, "linear_in", "linear_out")


@dataclass(frozen=True)
class Flux2(TwoKindsOfBlocks, OneLanguageModel):
    """FLUX.2-klein and its like; see `dsd.models.families.Family`."""

    thinking: ClassVar[bool] = False
    name: str = "flux2"
    positions: tuple[str, ...] = ("flux2", "column", "diagonal", "kontext", "shared")
    attentions: tuple[str, ...] = ("cached", "full")
    blocks_at: str = BLOCKS
    precomputable: bool = False  # whether `dsd.pipeline.precompute` knows its modulations
    step_cacheable: bool = False  # diffusers 0.42 reads its single blocks' outputs as those of double blocks

    @property
    def lora_targets(self) -> dict[str, tuple[str, ...]]:
        """Endings of the modules that get a LoRA."""
        return {"attention": ATTENTION, "all_linear": ALL_LINEAR}

    def encode_text(self, pipeline: Any, prompts: Sequence[str], max_sequence_length: int) -> Text:
        """Ask the language model, (B, T, D)."""
        embeds, _ = pipeline.encode_prompt(
            prompt=list(prompts), max_sequence_length=max_sequence_length,
            text_encoder_out_layers=layers_of(pipeline.text_encoder),
        )  # fmt: skip
        return (embeds,)

    def text_width(self, pipeline: Any) -> int:
        """Count the numbers of a text token: three layers side by side."""
        return 3 * int(pipeline.text_encoder.config.hidden_size)

    def text_shapes(self, transformer: Any, num: int) -> tuple[tuple[int, ...], ...]:
        """Give the shapes of a text of `num` tokens, without the batch."""
        return ((num, transformer.config["joint_attention_dim"]),)

    def encode(self, vae: Any, pixels: Tensor) -> Tensor:
        """Encode pixels (B, 3, H, W) to tokens (B, L, C) by the posterior's mode."""
        mean, deviation = statistics(vae)
        tokens = pack(vae.encode(pixels.to(vae.dtype)).latent_dist.mode())
        normal: Tensor = (tokens - mean) / deviation
        return normal

    def decode(self, vae: Any, tokens: Tensor, rows: int) -> Tensor:
        """Decode tokens (B, L, C) of `rows` rows to pixels (B, 3, H, W)."""
        mean, deviation = statistics(vae)
        latents = unpack(tokens * deviation.to(tokens.dtype) + mean.to(tokens.dtype), rows)
        pixels: Tensor = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
        return pixels

    def timesteps(self, scheduler: Any, num_steps: int, num_tokens: int, device: torch.device) -> Tensor:
        """Set the scheduler's timesteps (S,), by FLUX.2's rule where it shifts dynamically."""
        timesteps: Tensor
        timesteps, _ = retrieve_timesteps(
            scheduler,
            device=device,
            sigmas=np.linspace(1.0, 1 / num_steps, num_steps).tolist(),
            mu=compute_empirical_mu(image_seq_len=num_tokens, num_steps=num_steps),
        )
        return timesteps

    def channels(self, transformer: Any) -> int:
        """Count the channels of a token, C."""
        return int(transformer.out_channels)

    def noise(self, num: int, rows: int, columns: int, channels: int, generator: Any, device: torch.device) -> Tensor:
        """Draw the noise of `num` pictures, (num, L, C), as diffusers' pipeline does."""
        latents = randn_tensor((num, channels, rows, columns), generator=generator, device=device, dtype=torch.float32)
        tokens: Tensor = latents.flatten(2).mT.contiguous()
        return tokens

    def velocity(
        self, transformer: Any, tokens: Tensor, ids: Tensor, sigmas: Tensor, text: Text, guidance_scale: float
    ) -> Tensor:
        """Call the transformer on tokens that all see each other: (B, N, C) at `ids` (N, 3) -> (B, N, C)."""
        found: Tensor = transformer(**self._inputs(transformer, tokens, ids, sigmas, text, guidance_scale))[0]
        return found

    def remembering_velocity(
        self, transformer: Any, tokens: Tensor, ids: Tensor, references: Tensor, reference_ids: Tensor,
        sigmas: Tensor, text: Text, guidance_scale: float, memory: Any = None,
    ) -> tuple[Tensor, Any]:  # fmt: skip
        """Call the transformer beside references that see themselves alone, by diffusers' own cache for klein."""
        if memory is not None:
            inputs = self._inputs(transformer, tokens, ids, sigmas, text, guidance_scale)
            return transformer(**inputs, kv_cache=memory, kv_cache_mode="cached")[0], memory
        together, places = torch.cat([references, tokens], dim=1), torch.cat([reference_ids, ids])
        inputs = self._inputs(transformer, together, places, sigmas, text, guidance_scale)
        velocity, memory = transformer(**inputs, kv_cache_mode="extract", num_ref_tokens=references.shape[1])
        return velocity, memory

    def allow_memory(self, transformer: Any) -> None:
        """Give every block the attention of diffusers that knows a cache; without it, the cache is ignored.

        UserError where diffusers is too old.
        """
        try:
            from diffusers.models.transformers.transformer_flux2 import (
                Flux2KVAttnProcessor,
                Flux2KVParallelSelfAttnProcessor,
            )
        except ImportError as error:
            raise UserError(
                "student.attention=cached on FLUX.2 needs diffusers 0.38 or newer; update it, or use attention=full"
            ) from error
        for blocks, wanted in (
            (transformer.transformer_blocks, Flux2KVAttnProcessor),
            (transformer.single_transformer_blocks, Flux2KVParallelSelfAttnProcessor),
        ):
            for block in blocks:
                if not isinstance(block.attn.processor, wanted):
                    block.attn.set_processor(wanted())

    def block_inputs(
        self, transformer: Any, block: Any, zeros: Callable[..., Tensor], batch: int, num_tokens: int, text_tokens: int
    ) -> dict[str, Any]:
        """Make the inputs of a block, to measure what it keeps."""
        width, ids = transformer.inner_dim, zeros(text_tokens + num_tokens, 4).detach().float()
        common = {"image_rotary_emb": transformer.pos_embed(ids)}
        if hasattr(block, "norm1_context"):  # a double block
            both = {name: zeros(batch, 6 * width).detach() for name in ("temb_mod_img", "temb_mod_txt")}
            states = {"hidden_states": zeros(batch, num_tokens, width)}
            return states | {"encoder_hidden_states": zeros(batch, text_tokens, width)} | both | common
        together = zeros(batch, text_tokens + num_tokens, width)
        modulation = zeros(batch, 3 * width).detach()  # a LoRA stands in blocks alone
        return {"hidden_states": together, "encoder_hidden_states": None, "temb_mod": modulation, **common}

    def edges(self, transformer: Any) -> tuple[Tensor, Tensor]:
        """Give the weights of the input and output layers."""
        return transformer.x_embedder.weight, transformer.proj_out.weight

    @staticmethod
    def _inputs(
        transformer: Any, tokens: Tensor, ids: Tensor, sigmas: Tensor, text: Text, guidance_scale: float
    ) -> dict[str, Any]:
        (embeds,) = text
        guided = unwrapped(transformer).config.guidance_embeds
        return {
            "hidden_states": tokens,
            "encoder_hidden_states": embeds,
            "timestep": sigmas,
            "img_ids": torch.nn.functional.pad(ids, (0, 1)).to(tokens.device),  # index, row, column, 0
            "txt_ids": text_ids(embeds.shape[1], tokens.device),
            "guidance": torch.full_like(sigmas, guidance_scale) if guided else None,
            "return_dict": False,
        }


def text_ids(num: int, device: torch.device) -> Tensor:
    """Place text tokens along the fourth axis, (T, 4)."""
    return torch.nn.functional.pad(torch.arange(num, device=device)[:, None], (3, 0))


def layers_of(encoder: Any) -> tuple[int, int, int]:
    """Choose the layers whose outputs are read: at 1/4, 1/2 and 3/4 of the depth (9, 18 and 27 of Qwen3's 36)."""
    quarter = encoder.config.num_hidden_layers // 4
    return quarter, 2 * quarter, 3 * quarter


def statistics(vae: Any) -> tuple[Tensor, Tensor]:
    """Give the mean and the deviation of the channels of a token, (C,) each."""
    mean: Tensor = vae.bn.running_mean.to(vae.dtype)
    return mean, torch.sqrt(vae.bn.running_var + vae.config["batch_norm_eps"]).to(vae.dtype)


FAMILY = Flux2()
