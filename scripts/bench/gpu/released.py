"""A plain port of the released code's sampling (commit 1f95769): the formula's passes one after another, eager."""

import torch
from PIL import Image
from torch import Tensor

from dsd.models.student import Conditions
from dsd.pipeline.guidance import Scales
from dsd.pipeline.pipeline import DSDPipeline, Prepared

FREE_STEPS = 2  # no_cfg_until_timestep
GUIDANCE = 3.5  # distilled


@torch.no_grad()
def prepare(
    pipeline: DSDPipeline, prompt: str, image: Image.Image, size: int, steps: int, seed: int, length: int
) -> Prepared:
    """Encode as the released code does: the prompt, and the empty one for every picture."""
    device, dtype, student = pipeline.transformer.device, pipeline.transformer.dtype, pipeline.student
    embeds, pooled, _ = pipeline.encode_prompt(prompt, prompt_2=None, max_sequence_length=length, device=device)
    empty, empty_pooled, _ = pipeline.encode_prompt("", prompt_2=None, max_sequence_length=length, device=device)
    references = pipeline.read_references(image, size, size, "crop")
    assert references is not None
    condition = student.condition(pipeline.vae, references.to(device)).to(dtype)
    canvas, channels = student.canvas(size, size), pipeline.transformer.config.out_channels
    generator = torch.Generator("cpu").manual_seed(seed)
    latents, _ = pipeline.prepare_latents(1, channels // 4, size, 2 * size, torch.float32, device, generator)
    timesteps = pipeline.family.timesteps(pipeline.scheduler, steps, canvas.num_tokens, device)
    full, no_text = (Conditions(condition, text) for text in ((embeds, pooled), (empty, empty_pooled)))
    return Prepared(latents.to(dtype), full, no_text, canvas, timesteps)


@torch.no_grad()
def denoise(pipeline: DSDPipeline, prepared: Prepared, scales: Scales) -> Tensor:
    """Follow the velocity as the released loop does; return the final packed latents."""
    student, latents, full, no_text = pipeline.student, prepared.latents, prepared.full, prepared.no_text
    assert no_text is not None
    nothing = Conditions(torch.zeros_like(full.cond_latents), no_text.text)

    def velocity(timestep: Tensor, conditions: Conditions) -> Tensor:
        sigmas = timestep.expand(1).to(latents.dtype) / 1000
        return student.velocity(latents, sigmas, conditions, prepared.canvas, GUIDANCE)

    for step, timestep in enumerate(prepared.timesteps):
        both = velocity(timestep, full)
        if step >= FREE_STEPS and not scales.plain:
            image_only, empty = velocity(timestep, no_text), velocity(timestep, nothing)
            both = empty + scales.image * (image_only - empty) + scales.text * (both - image_only)
        latents = pipeline.scheduler.step(both, timestep, latents, return_dict=False)[0]
    return latents
