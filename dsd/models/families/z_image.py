"""Z-Image: one language model, one stream; the transformer tells clean pictures from noisy ones by its own mask."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dsd.errors import UserError
from dsd.models.canvas import pack, unpack
from dsd.models.families import Text
from dsd.models.families.parts import OneLanguageModel, PackedLatents

ATTENTION = ("attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0")
ALL_LINEAR = (*ATTENTION, "feed_forward.w1", "feed_forward.w2", "feed_forward.w3")


@dataclass(frozen=True)
class ZImage(PackedLatents, OneLanguageModel):
    """Z-Image and its like; see `dsd.models.families.Family`.

    Its transformer places text and pictures by itself: a picture's index follows its text. So it has one rule of
    positions, its own, and no memory of references.
    """

    thinking: ClassVar[bool] = True
    name: str = "z_image"
    positions: tuple[str, ...] = ("z_image",)
    attentions: tuple[str, ...] = ("full",)
    blocks_at: str = r"(layers|noise_refiner|context_refiner)\.\d+\."
    precomputable: bool = False
    step_cacheable: bool = False

    @property
    def lora_targets(self) -> dict[str, tuple[str, ...]]:
        """Endings of the modules that get a LoRA."""
        return {"attention": ATTENTION, "all_linear": ALL_LINEAR}

    def encode_text(self, pipeline: Any, prompts: Sequence[str], max_sequence_length: int) -> Text:
        """Ask the language model, (B, T, D). Prompts have different lengths; rows of zeros are no tokens."""
        embeds, _ = pipeline.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, max_sequence_length=max_sequence_length
        )
        padded = pad_sequence(embeds, batch_first=True)
        return (torch.nn.functional.pad(padded, (0, 0, 0, max_sequence_length - padded.shape[1])),)

    def text_width(self, pipeline: Any) -> int:
        """Count the numbers of a text token."""
        return int(pipeline.text_encoder.config.hidden_size)

    def text_shapes(self, transformer: Any, num: int) -> tuple[tuple[int, ...], ...]:
        """Give the shapes of a text of `num` tokens, without the batch."""
        return ((num, transformer.config["cap_feat_dim"]),)

    def timesteps(self, scheduler: Any, num_steps: int, num_tokens: int, device: torch.device) -> Tensor:
        """Set the scheduler's timesteps (S,), shifted by the number of tokens where it shifts dynamically."""
        keys = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
        known = [scheduler.config.get(key, usual) for key, usual in keys.items()]
        sigmas = np.linspace(1.0, 1 / num_steps, num_steps).tolist()
        timesteps: Tensor
        timesteps, _ = retrieve_timesteps(
            scheduler, device=device, sigmas=sigmas, mu=calculate_shift(num_tokens, *known)
        )
        return timesteps

    def channels(self, transformer: Any) -> int:
        """Count the channels of a token, C."""
        return 4 * int(transformer.out_channels)

    def velocity(
        self, transformer: Any, tokens: Tensor, ids: Tensor, sigmas: Tensor, text: Text, guidance_scale: float
    ) -> Tensor:
        """Call the transformer: tokens (B, N, C) at `ids` (N, 3) -> (B, N, C), zero where a token is a reference's.

        Pictures are told apart by their index; that of what is drawn is 0 and comes first. References are clean.
        """
        pictures = [unpack(part, rows_of(where)) for part, where in pictures_of(tokens, ids)]
        target, references = pictures[0][:, :, None], [picture[:, :, None] for picture in pictures[1:]]
        (embeds,) = text
        words = [row[row.any(-1)] for row in embeds]
        nothing = [embeds.new_zeros(0, embeds.shape[-1])] * len(references)
        if references:  # the transformer's mode of several pictures: the last one is drawn, its text comes before it
            given: dict[str, Any] = {
                "x": [[*(reference[n] for reference in references), target[n]] for n in range(len(target))],
                "cap_feats": [[*nothing, word] for word in words],
                "siglip_feats": [None] * len(target),
                "image_noise_mask": [[0] * len(references) + [1]] * len(target),
            }
        else:
            given = {"x": list(target), "cap_feats": words}
        drawn = transformer(t=1 - sigmas, return_dict=False, **given)[0]
        velocity = pack(-torch.stack(list(drawn)).squeeze(2).to(tokens.dtype))
        return torch.nn.functional.pad(velocity, (0, 0, 0, tokens.shape[1] - velocity.shape[1]))

    def remembering_velocity(
        self, transformer: Any, tokens: Tensor, ids: Tensor, references: Tensor, reference_ids: Tensor,
        sigmas: Tensor, text: Text, guidance_scale: float, memory: Any = None,
    ) -> tuple[Tensor, Any]:  # fmt: skip
        """Z-Image has no memory of references."""
        raise UserError("student.attention=cached is not known of z_image; use full")

    def allow_memory(self, transformer: Any) -> None:
        """Z-Image has no memory of references."""
        raise UserError("student.attention=cached is not known of z_image; use full")

    def width(self, transformer: Any) -> int:
        """Count the numbers of a token within the transformer."""
        return int(transformer.dim)

    def block_tokens(self, name: str, image_tokens: int, text_tokens: int) -> tuple[float, int]:
        """Count tokens for a list of blocks: refiners see the pictures or the text alone."""
        num = {"noise_refiner": image_tokens, "context_refiner": text_tokens}.get(name, image_tokens + text_tokens)
        return num, num

    def block_inputs(
        self, transformer: Any, block: Any, zeros: Callable[..., Tensor], batch: int, num_tokens: int, text_tokens: int
    ) -> dict[str, Any]:
        """Make the inputs of a block, to measure what it keeps."""
        num, modulated = text_tokens + num_tokens, min(transformer.dim, 256)
        half = transformer.dim // transformer.n_heads // 2
        return {
            "x": zeros(batch, num, transformer.dim),
            "attn_mask": None,
            "freqs_cis": torch.polar(torch.ones(batch, num, half), torch.zeros(batch, num, half)).to(
                next(block.parameters()).device
            ),
            "noise_mask": torch.ones(batch, num, device=next(block.parameters()).device),
            "adaln_noisy": zeros(batch, modulated).detach(),  # a LoRA stands in blocks alone
            "adaln_clean": zeros(batch, modulated).detach(),
        }

    def edges(self, transformer: Any) -> tuple[Tensor, Tensor]:
        """Give the weights of the input and output layers."""
        return transformer.all_x_embedder["2-1"].weight, transformer.all_final_layer["2-1"].linear.weight


def pictures_of(tokens: Tensor, ids: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Divide tokens (B, N, C) into pictures by the index of their `ids` (N, 3): tokens and ids of each."""
    _, counts = torch.unique_consecutive(ids[:, 0].cpu(), return_counts=True)
    sizes = counts.tolist()
    return list(zip(tokens.split(sizes, dim=1), ids.split(sizes), strict=True))


def rows_of(ids: Tensor) -> int:
    """Count the rows of a picture's ids (L, 3)."""
    return int(ids[-1, 1]) + 1


FAMILY = ZImage()
