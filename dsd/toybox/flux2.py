"""The toybox on FLUX.2's classes: the tokenizer, text encoder, VAE and teacher of a small `Flux2KleinPipeline`.

The world, the linear code and the lessons are those of the small FLUX.1. Like the models of its family, it reads the
prompt by a language model (Qwen3, layers at a quarter, a half and three quarters of its depth), normalises latents by
the VAE's batch statistics, and has no distilled guidance (like the klein bases).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
)
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

from dsd.models.positions import grid
from dsd.toybox import code
from dsd.toybox.fit import fit
from dsd.toybox.samples import sample_grids
from dsd.toybox.teacher import lesson_at
from dsd.toybox.text import PANELS, RELATIONS, VALUES, corpus, labels

SEED = 4
FOLDER = "flux2"  # of the pipeline, beside the other weights
MAX_SEQUENCE_LENGTH = 74  # the longest grid prompt has 73 tokens
LENGTHS = {"1x1": 24, "1x2": 44, "2x2": MAX_SEQUENCE_LENGTH}  # the longest prompts, in tokens
LAYERS = (1, 2, 3)  # of the encoder's four, as 9, 18 and 27 of the released one's 36
START, END = "<|im_start|>", "<|im_end|>"
CHAT = "{% for message in messages %}" + START + "{{ message['content'] }}" + END + "{% endfor %}"


def build_tokenizer() -> Qwen2Tokenizer:
    """Train Qwen's byte-pair encoding on the grammar; any other text can still be spelt."""
    pad = "<|endoftext|>"
    splitter = Qwen2Tokenizer().backend_tokenizer
    learner = Tokenizer(models.BPE())
    learner.normalizer, learner.pre_tokenizer = splitter.normalizer, splitter.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1024, special_tokens=[pad, START, END], initial_alphabet=alphabet, show_progress=False
    )
    texts = corpus()
    learner.train_from_iterator([*texts, *(f" {text}" for text in texts)], trainer)
    learnt = json.loads(learner.to_str())["model"]
    merges: Any = [tuple(merge) for merge in learnt["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=learnt["vocab"], merges=merges, additional_special_tokens=[START, END], model_max_length=512
    )
    tokenizer.chat_template = CHAT
    return tokenizer


def build_text_encoder(tokenizer: Qwen2Tokenizer) -> Any:
    """Make the untrained language model, 96 wide."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=4,
            num_attention_heads=3,
            num_key_value_heads=3,
            head_dim=32,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            use_cache=False,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.pad_token_id,
        )
    )


class Reading(nn.Module):
    """The task on which the text encoder is trained before the teacher: which value a word names, for which panel."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        width = len(LAYERS) * encoder.config.hidden_size
        self.panel, self.value = nn.Linear(width, 1 + PANELS), nn.Linear(width, 1 + len(VALUES))

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the logits of the panel (B, T, 5) and of the value (B, T, V + 1)."""
        hidden = embed(self.encoder, ids, mask)
        return F.linear(hidden, F.normalize(self.panel.weight)), F.linear(hidden, F.normalize(self.value.weight))


def embed(encoder: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Embed text as `Flux2KleinPipeline` does: ids (B, T) -> hidden states of three layers side by side, (B, T, 3D)."""
    states = encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states
    return torch.cat([states[layer] for layer in LAYERS], dim=-1)


def tokenize(
    tokenizer: Qwen2Tokenizer, prompts: Sequence[str], length: int = MAX_SEQUENCE_LENGTH
) -> tuple[Tensor, Tensor, list[list[tuple[int, int]]]]:
    """Convert prompts to ids and mask (B, T) as the pipeline does; also where each token stands in its prompt."""
    texts = [START + prompt + END for prompt in prompts]
    encoded = tokenizer(
        texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt",
        return_offsets_mapping=True,
    )  # fmt: skip
    offsets = [
        [(max(0, a - len(START)), min(b - len(START), len(prompt))) for a, b in spans]
        for prompt, spans in zip(prompts, encoded.offset_mapping.tolist(), strict=True)
    ]
    return encoded.input_ids, encoded.attention_mask.bool(), offsets


def train_text(folder: Path, out: Path, num_steps: int = 1200, lr: float = 2e-3, device: str = "cpu") -> None:
    """Train the text encoder and write it with its tokenizer to `out`/flux2; `folder` holds checkpoints."""
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer()
    reading = Reading(build_text_encoder(tokenizer)).to(device)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        rng = np.random.default_rng((SEED, step))
        layout = ("1x1", "1x2", "2x2", "2x2")[step % 4]
        prompts = [sample_grids(rng, 1, layout, str(rng.choice(RELATIONS))).prompts(rng)[0] for _ in range(64)]
        ids, mask, offsets = tokenize(tokenizer, prompts)
        panels, values = torch.tensor(
            [labels(prompt, spans) for prompt, spans in zip(prompts, offsets, strict=True)]
        ).unbind(1)
        panel, value = reading(ids.to(device), mask.to(device))
        panels, values, words = panels.to(device), values.to(device), mask.to(device)
        loss = F.cross_entropy(panel[words], panels[words]) + F.cross_entropy(value[words], values[words])
        right = (panel[words].argmax(-1) == panels[words]) & (value[words].argmax(-1) == values[words])
        return loss, {"words_right": right.float().mean()}

    fit(reading, loss_at, folder, num_steps=num_steps, lr=lr)
    tokenizer.save_pretrained(out / FOLDER / "tokenizer")
    reading.encoder.save_pretrained(out / FOLDER / "text_encoder")


@torch.no_grad()
def convert_vae(vae: AutoencoderKL) -> Any:
    """Turn the small FLUX.1's VAE into FLUX.2's class. Its latents are plain components; `bn` makes them the code.

    The batch statistics hold each channel's scale, so that latents are the code of `code.py` after normalisation.
    """
    config = {
        name: vae.config[name]
        for name in (
            "block_out_channels", "down_block_types", "up_block_types", "latent_channels", "layers_per_block",
            "mid_block_add_attention", "norm_num_groups", "use_quant_conv", "use_post_quant_conv", "sample_size",
        )
    }  # fmt: skip
    converted: Any = AutoencoderKLFlux2(**config)
    converted.load_state_dict(vae.state_dict(), strict=False)
    spread = 1 / code.basis()[2]  # of each channel, (16,)
    means, variances = converted.encoder.conv_out.weight.chunk(2), converted.encoder.conv_out.bias.chunk(2)
    means[0].mul_(spread[:, None, None, None])
    variances[0].mul_(spread)
    variances[1].add_(2 * spread.log())
    converted.decoder.conv_in.weight.div_(spread[:, None, None])
    converted.bn.running_mean.zero_()
    converted.bn.running_var.copy_(spread.square().repeat_interleave(4) - converted.config.batch_norm_eps)
    return converted.eval()


def build_transformer() -> Any:
    """Make an untrained `Flux2Transformer2DModel`: 3 double and 6 single blocks, 4 heads of 32, as the small FLUX.1."""
    return Flux2Transformer2DModel(
        in_channels=64,
        num_layers=3,
        num_single_layers=6,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=len(LAYERS) * 96,
        axes_dims_rope=(8, 12, 12),  # FLUX.1's; the text needs no positions, since the language model has read it
        rope_theta=10000,
        guidance_embeds=False,
    )


@torch.no_grad()
def begin_as(transformer: Any, example: Any) -> None:
    """Copy from the small FLUX.1 what both have: attention, embedders, output. Modulations begin as blocks' means."""
    known: dict[str, Tensor] = example.state_dict()

    def weight(name: str) -> Tensor:
        return known[f"{name}.weight"]

    def mean(kind: str, norm: str, num: int) -> Tensor:
        return torch.stack([weight(f"{kind}.{n}.{norm}.linear") for n in range(num)]).mean(0)

    for name, parameter in transformer.named_parameters():  # the same names, but for the biases, which FLUX.2 has not
        if name in known and known[name].shape == parameter.shape:
            parameter.copy_(known[name])
    for part in ("linear_1", "linear_2"):
        target = getattr(transformer.time_guidance_embed.timestep_embedder, part)
        target.weight.copy_(weight(f"time_text_embed.timestep_embedder.{part}"))
    num, width = len(transformer.transformer_blocks), transformer.inner_dim
    transformer.double_stream_modulation_img.linear.weight.copy_(mean("transformer_blocks", "norm1", num))
    transformer.double_stream_modulation_txt.linear.weight.copy_(mean("transformer_blocks", "norm1_context", num))
    singles = transformer.single_transformer_blocks
    transformer.single_stream_modulation.linear.weight.copy_(mean("single_transformer_blocks", "norm", len(singles)))
    for n, block in enumerate(singles):
        prefix = f"single_transformer_blocks.{n}"
        qkv = torch.cat([weight(f"{prefix}.attn.{name}") for name in ("to_q", "to_k", "to_v")])
        block.attn.to_qkv_mlp_proj.weight[: 3 * width].copy_(qkv)
        block.attn.to_out.weight[:, :width].copy_(weight(f"{prefix}.proj_out")[:, :width])


def build_pipeline(out: Path, transformer: Flux2Transformer2DModel) -> Flux2KleinPipeline:
    """Make a pipeline of a transformer, the text encoder in `out`/flux2 and the VAE in `out`/teacher."""
    return Flux2KleinPipeline(
        # FLUX.2's own rule of the shift is made for thousands of tokens and gives nearly pure noise for 32
        FlowMatchEulerDiscreteScheduler(shift=2.0, use_dynamic_shifting=False),
        convert_vae(AutoencoderKL.from_pretrained(out / "teacher" / "vae")),
        Qwen3ForCausalLM.from_pretrained(out / FOLDER / "text_encoder"),
        Qwen2Tokenizer.from_pretrained(out / FOLDER / "tokenizer"),
        transformer,
        is_distilled=False,
    )


def train_teacher(folder: Path, out: Path, num_steps: int = 4500, lr: float = 1.2e-3, device: str = "cpu") -> None:
    """Train the transformer and write the whole pipeline to `out`/flux2; `folder` holds checkpoints.

    It learns from the small FLUX.1 in the same lessons, with half the grids: its velocities, and what its image tokens
    are after every block. Prompts are padded to the longest of their layout: how long the padding is says nothing.
    """
    torch.manual_seed(SEED)
    transformer = build_transformer().to(device)
    encoder: Any = Qwen3ForCausalLM.from_pretrained(out / FOLDER / "text_encoder")
    encoder = encoder.to(device)
    tokenizer = Qwen2Tokenizer.from_pretrained(out / FOLDER / "tokenizer")
    example: Any = FluxPipeline.from_pretrained(out / "teacher", vae=None).to(device)
    begin_as(transformer, example.transformer)
    for network in (transformer, example.transformer):
        network.compile_repeated_blocks(dynamic=False)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        lesson = lesson_at(step, device, share=0.5)
        noisy_latents = lesson.noisy_latents()
        ids = grid(lesson.rows, lesson.columns).to(noisy_latents)
        with torch.no_grad():
            tokens, mask, _ = tokenize(tokenizer, lesson.prompts, LENGTHS[lesson.layout])
            words = embed(encoder, tokens.to(device), mask.to(device))
            embeds, pooled, _ = example.encode_prompt(lesson.prompts, None, max_sequence_length=56)
            wanted, states = flux1_states(
                example.transformer, noisy_latents, ids, lesson.sigmas, embeds, pooled, lesson.guidance
            )
        velocity, found = flux2_states(transformer, noisy_latents, ids, lesson.sigmas, words)
        error = (velocity - wanted).square().masked_fill(lesson.given, 0)
        loss = error.sum() / (~lesson.given).sum() / wanted.shape[-1]
        inner = torch.stack([distance(a, b) for a, b in zip(found, states, strict=True)]).mean()
        told = {"velocity_error": loss, "true_loss": lesson.loss(velocity), "example_loss": lesson.loss(wanted)}
        return loss + inner, told

    fit(transformer, loss_at, folder, num_steps=num_steps, lr=lr)
    build_pipeline(out, transformer).save_pretrained(out / FOLDER)


def distance(found: Tensor, wanted: Tensor) -> Tensor:
    """Measure the squared error of states (B, L, D) as a share of their squares."""
    return (found - wanted).square().mean() / wanted.square().mean()


def flux1_states(
    transformer: Any, tokens: Tensor, ids: Tensor, sigmas: Tensor, words: Tensor, pooled: Tensor, guidance: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Run the small FLUX.1: its velocity (B, L, C), and its image tokens (B, L, D) after every block."""
    time = transformer.time_text_embed(sigmas * 1000, guidance * 1000, pooled)
    image, text = transformer.x_embedder(tokens), transformer.context_embedder(words)
    rotation = transformer.pos_embed(torch.cat([ids.new_zeros(words.shape[1], 3), ids]))
    states = []
    for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks):
        text, image = block(hidden_states=image, encoder_hidden_states=text, temb=time, image_rotary_emb=rotation)
        states.append(image)
    return transformer.proj_out(transformer.norm_out(image, time)), states


def flux2_states(
    transformer: Any, tokens: Tensor, ids: Tensor, sigmas: Tensor, words: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Run the small FLUX.2: its velocity (B, L, C), and its image tokens (B, L, D) after every block."""
    time = transformer.time_guidance_embed(sigmas * 1000, None)
    image, text = transformer.x_embedder(tokens), transformer.context_embedder(words)
    rotation = transformer.pos_embed(torch.cat([ids.new_zeros(words.shape[1], 3), ids]))
    of_image, of_text = transformer.double_stream_modulation_img(time), transformer.double_stream_modulation_txt(time)
    states = []
    for block in transformer.transformer_blocks:
        text, image = block(
            hidden_states=image, encoder_hidden_states=text, temb_mod_img=of_image, temb_mod_txt=of_text,
            image_rotary_emb=rotation,
        )  # fmt: skip
        states.append(image)
    together, of_both = torch.cat([text, image], dim=1), transformer.single_stream_modulation(time)
    for block in transformer.single_transformer_blocks:
        together = block(
            hidden_states=together, encoder_hidden_states=None, temb_mod=of_both, image_rotary_emb=rotation
        )
        states.append(together[:, words.shape[1] :])
    return transformer.proj_out(transformer.norm_out(states[-1], time)), states
