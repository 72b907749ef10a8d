"""The teacher: a small FLUX trained to draw single panels, diptychs and 2x2 sheets from their prompts.

Nobody tells it what the unnamed attributes of a "same" sheet are; like FLUX.1-dev, it keeps a subject across panels only
as well as attention between them taught it. That is the in-context consistency that the method distils.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn

from dsd.toybox import code
from dsd.toybox.fit import fit
from dsd.toybox.sheets import LAYOUTS, sample_sheets
from dsd.toybox.text import MAX_SEQUENCE_LENGTH, build_text_encoders, build_tokenizers

SEED = 3
TEXT_DROPOUT = 0.1
# In this share of "same" sheets one panel is given, clean, and the others are to be drawn beside it. FLUX.1-dev can do so
# without having been taught (Diptych Prompting, arXiv 2411.15466); a model this small learns from it where to look.
GIVEN = 0.5
SHIFT = 2.0  # more time at high noise, where a sheet's panels settle what they share
# What a step draws, in turn: (layout, relation, batch). Diptychs are the student's canvas, 2x2 sheets the data engine's.
SAME_PAIR, SAME_FOUR = ("1x2", "same", 32), ("2x2", "same", 16)
LESSONS = (
    *(SAME_PAIR, SAME_FOUR, SAME_PAIR, SAME_FOUR, ("1x2", "different", 24)),
    *(SAME_PAIR, SAME_FOUR, SAME_PAIR, SAME_PAIR, ("1x1", "same", 32)),
    *(SAME_PAIR, SAME_FOUR, SAME_PAIR, SAME_FOUR, ("2x2", "different", 16)),
    *(SAME_PAIR, SAME_FOUR, SAME_PAIR, SAME_PAIR, ("1x2", "relight", 24)),
)


def build_transformer() -> FluxTransformer2DModel:
    """FLUX.1's architecture: 3 double and 6 single blocks, 4 heads of 32, guidance embedding."""
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


def build_pipeline(vae: AutoencoderKL) -> FluxPipeline:
    clip, t5 = build_tokenizers()
    clip_encoder, t5_encoder = build_text_encoders(clip, t5)
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_image_seq_len=16, max_image_seq_len=64, base_shift=0.6, max_shift=0.8
    )
    return FluxPipeline(scheduler, vae, clip_encoder, clip, t5_encoder, t5, build_transformer())


class Teacher(nn.Module):
    """What trains: transformer and text encoders. The VAE is done and stays out of the state."""

    def __init__(self, pipeline: FluxPipeline) -> None:
        super().__init__()
        self.transformer = pipeline.transformer
        self.clip, self.t5 = pipeline.text_encoder, pipeline.text_encoder_2

    def forward(
        self, noisy_latents: Tensor, sigmas: Tensor, guidance: Tensor, clip_ids: Tensor, t5_ids: Tensor, img_ids: Tensor
    ) -> Tensor:
        """(B, L, C) packed -> velocity (B, L, C)."""
        return self.transformer(
            hidden_states=noisy_latents,
            timestep=sigmas,
            guidance=guidance,
            pooled_projections=self.clip(clip_ids).pooler_output,
            encoder_hidden_states=self.t5(t5_ids).last_hidden_state,
            txt_ids=noisy_latents.new_zeros(t5_ids.shape[1], 3),
            img_ids=img_ids,
            return_dict=False,
        )[0]


def train_teacher(
    folder: Path, out: Path, num_steps: int = 11000, lr: float = 1.2e-3, device: str = "cpu", compiled: bool = True
) -> None:
    torch.manual_seed(SEED)
    pipeline = build_pipeline(AutoencoderKL.from_pretrained(out / "teacher" / "vae"))
    teacher = Teacher(pipeline).to(device)
    forward = torch.compile(teacher, dynamic=False) if compiled else teacher  # 1.3x on a CPU, after a minute or two

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        layout, relation, num = LESSONS[step % len(LESSONS)]
        rng, generator = np.random.default_rng((SEED, step)), torch.Generator().manual_seed(SEED * 10**9 + step)
        sheets = sample_sheets(rng, num, layout, relation)
        prompts = ["" if rng.random() < TEXT_DROPOUT else prompt for prompt in sheets.prompts(rng)]
        latents = code.encode(sheets.pixels() * 2 - 1).to(device)
        b, c, h, w = latents.shape
        latents = FluxPipeline._pack_latents(latents, b, c, h, w)
        img_ids = FluxPipeline._prepare_latent_image_ids(b, h // 2, w // 2, latents.device, latents.dtype)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        sigmas = torch.randn(b, generator=generator).sigmoid()
        sigmas = (SHIFT * sigmas / (1 + (SHIFT - 1) * sigmas)).to(device)
        guidance = 1 + 4 * torch.rand(b, generator=generator).to(device)  # any: nothing was distilled into it
        noisy_latents = torch.lerp(latents, noise, sigmas[:, None, None])
        given = torch.zeros(b, h // 2, w // 2, dtype=torch.bool)
        if relation == "same" and layout != "1x1":
            rows, columns = LAYOUTS[layout]
            for row in torch.nonzero(torch.rand(b, generator=generator) < GIVEN).flatten():
                panel = int(torch.randint(rows * columns, (1,), generator=generator))
                given[row].unflatten(0, (rows, -1)).unflatten(2, (columns, -1))[
                    panel // columns, :, panel % columns
                ] = True
        given = given.flatten(1).to(device)[..., None]
        noisy_latents = torch.where(given, latents, noisy_latents)
        clip_ids = pipeline.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
        )
        t5_ids = pipeline.tokenizer_2(
            prompts, padding="max_length", truncation=True, max_length=MAX_SEQUENCE_LENGTH, return_tensors="pt"
        )
        velocity = forward(
            noisy_latents, sigmas, guidance, clip_ids.input_ids.to(device), t5_ids.input_ids.to(device), img_ids
        )
        error = F.mse_loss(velocity, noise - latents, reduction="none")
        loss = error.masked_fill(given, 0).sum() / (~given).sum() / c / 4
        return loss, {"panels": torch.tensor(num * np.prod(LAYOUTS[layout]))}

    fit(teacher, loss_at, folder, num_steps=num_steps, lr=lr)
    pipeline.save_pretrained(out / "teacher")
