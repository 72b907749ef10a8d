"""The teacher: a small FLUX trained to draw single panels, diptychs and 2x2 grids from their prompts.

Its prompts do not say what the unnamed attributes of a "same" grid are. Like FLUX.1-dev, it keeps a subject across
panels only as well as it has learnt to by attention between them. This in-context consistency is what the method
distils.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from dsd.models.canvas import pack
from dsd.models.families.flux1 import flux_velocity
from dsd.models.positions import grid
from dsd.toybox import code
from dsd.toybox.fit import fit
from dsd.toybox.samples import LAYOUTS, sample_grids
from dsd.toybox.text import build_tokenizers, tokenize

SEED = 3
TEXT_DROPOUT = 0.1
# In this share of "same" grids one panel is given without noise, and the others are drawn beside it. FLUX.1-dev can do
# so without training (Diptych Prompting, arXiv 2411.15466); a network this small learns from it where to look.
GIVEN = 0.5
TOKENS = 4  # along a panel's side
SHIFT = 2.0  # more steps at high noise, where the panels of a grid settle what they share
# Steps take these in turn: (layout, relation, batch). The student's canvas is a diptych, the grid of dsd-data-gen 2x2.
SAME_PAIR, SAME_FOUR = ("1x2", "same", 32), ("2x2", "same", 16)
LESSONS = (
    *(SAME_PAIR, SAME_PAIR, SAME_FOUR, SAME_PAIR, ("1x2", "different", 24)),
    *(SAME_PAIR, SAME_PAIR, SAME_FOUR, SAME_PAIR, ("1x1", "same", 32)),
    *(SAME_PAIR, SAME_PAIR, SAME_FOUR, SAME_PAIR, ("2x2", "different", 16)),
    *(SAME_PAIR, SAME_PAIR, SAME_FOUR, SAME_PAIR, ("1x2", "relight", 24)),
)


def build_transformer() -> Any:
    """Make an untrained `FluxTransformer2DModel`: 3 double and 6 single blocks, 4 heads of 32, guidance embedding."""
    return FluxTransformer2DModel(
        in_channels=64,
        num_layers=3,
        num_single_layers=6,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=128,
        pooled_projection_dim=64,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )


def build_pipeline(folder: Path, transformer: FluxTransformer2DModel) -> FluxPipeline:
    """Make a pipeline of a transformer and the parts in `folder`, which were trained before it."""
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_image_seq_len=16, max_image_seq_len=64, base_shift=0.6, max_shift=0.8
    )
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    vae.register_to_config(_name_or_path="")  # otherwise this machine's path would be saved with it
    return FluxPipeline(
        scheduler,
        vae,
        CLIPTextModel.from_pretrained(folder / "text_encoder"),
        CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        T5EncoderModel.from_pretrained(folder / "text_encoder_2"),
        T5Tokenizer.from_pretrained(folder / "tokenizer_2"),
        transformer,
    )


@dataclass(frozen=True)
class Lesson:
    """Grids of one layout with noise, as the teacher sees them. B grids of L tokens of C channels."""

    layout: str
    prompts: list[str]
    latents: Tensor  # (B, L, C)
    noise: Tensor  # (B, L, C)
    sigmas: Tensor  # (B,)
    guidance: Tensor  # (B,) any value, since no guidance is distilled
    given: Tensor  # (B, L, 1) true where a token is given without noise
    rows: int
    columns: int

    def noisy_latents(self) -> Tensor:
        """Mix latents and noise; given tokens stay clean. (B, L, C)"""
        return torch.where(self.given, self.latents, torch.lerp(self.latents, self.noise, self.sigmas[:, None, None]))

    def loss(self, velocity: Tensor) -> Tensor:
        """Compare a velocity (B, L, C) with the true one, over the tokens that are not given."""
        error = F.mse_loss(velocity, self.noise - self.latents, reduction="none")
        return error.masked_fill(self.given, 0).sum() / (~self.given).sum() / self.latents.shape[-1]


def lesson_at(step: int, device: str = "cpu", share: float = 1.0) -> Lesson:
    """Make the lesson of a step, with a `share` of its usual number of grids."""
    layout, relation, num = LESSONS[step % len(LESSONS)]
    num = round(num * share)
    rng, generator = np.random.default_rng((SEED, step)), torch.Generator().manual_seed(SEED * 10**9 + step)
    grids = sample_grids(rng, num, layout, relation)
    prompts = ["" if rng.random() < TEXT_DROPOUT else prompt for prompt in grids.prompts(rng)]
    latents = code.encode(grids.pixels() * 2 - 1)
    rows, columns = (size // 2 for size in latents.shape[-2:])
    latents = pack(latents)
    noise = torch.randn(latents.shape, generator=generator)
    sigmas = torch.randn(num, generator=generator).sigmoid()
    sigmas = SHIFT * sigmas / (1 + (SHIFT - 1) * sigmas)
    guidance = 1 + 4 * torch.rand(num, generator=generator)
    given = given_tokens(generator, num, layout) if relation == "same" else torch.zeros(latents.shape[:2]).bool()
    latents, noise, sigmas, guidance = (t.to(device) for t in (latents, noise, sigmas, guidance))
    return Lesson(layout, prompts, latents, noise, sigmas, guidance, given[..., None].to(device), rows, columns)


def train_teacher(
    folder: Path, out: Path, num_steps: int = 12000, lr: float = 1.2e-3, device: str = "cpu", compiled: bool = True
) -> None:
    """Train the transformer and write the whole pipeline to `out`/teacher; `folder` holds checkpoints."""
    torch.manual_seed(SEED)
    transformer = build_transformer().to(device)
    clip: Any = CLIPTextModel.from_pretrained(out / "teacher" / "text_encoder")
    t5: Any = T5EncoderModel.from_pretrained(out / "teacher" / "text_encoder_2")
    clip, t5 = clip.to(device), t5.to(device)
    tokenizers = build_tokenizers()
    forward = torch.compile(transformer, dynamic=False) if compiled else transformer  # 1.3x on a CPU

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        lesson = lesson_at(step, device)
        with torch.no_grad():
            clip_ids, t5_ids = tokenize(*tokenizers, lesson.prompts)
            pooled = clip(clip_ids.to(device)).pooler_output
            words = t5(t5_ids.to(device)).last_hidden_state
        noisy_latents = lesson.noisy_latents()
        ids = grid(lesson.rows, lesson.columns).to(noisy_latents)
        velocity = flux_velocity(forward, noisy_latents, lesson.sigmas, words, pooled, ids, lesson.guidance)
        return lesson.loss(velocity), {"panels": panels_of(lesson)}

    fit(transformer, loss_at, folder, num_steps=num_steps, lr=lr)
    build_pipeline(out / "teacher", transformer).save_pretrained(out / "teacher")


def panels_of(lesson: Lesson) -> Tensor:
    """Count the panels of a lesson."""
    return torch.tensor(len(lesson.prompts) * np.prod(LAYOUTS[lesson.layout]))


def given_tokens(generator: torch.Generator, num: int, layout: str) -> Tensor:
    """Choose the given panel of some grids: (num, L), true where a token belongs to it."""
    rows, columns = LAYOUTS[layout]
    panels = torch.arange(rows * columns).view(rows, columns)
    panels = panels.repeat_interleave(TOKENS, 0).repeat_interleave(TOKENS, 1).flatten()
    chosen = torch.randint(rows * columns, (num, 1), generator=generator)
    wanted = (torch.rand(num, 1, generator=generator) < GIVEN) & (rows * columns > 1)
    return (panels == chosen) & wanted
