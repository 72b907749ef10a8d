"""`DSDPipeline`: diffusers' FLUX pipeline that takes a reference picture.

Everything but the call is diffusers' own (loading, saving, LoRA, offloading). The call draws a canvas of two panels,
left the reference again, right the output, and returns the right one (paper, section 3.3; released code, commit
1f95769). Shapes: B images in all, L packed tokens of a canvas, C packed channels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps
from diffusers.utils import BaseOutput
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from dsd.errors import UserError
from dsd.infer.guidance import Conditions, Network, coefficients, guided
from dsd.models import adapter as adapters
from dsd.models.base import load_pipeline, resolve, to_device, to_dtype
from dsd.models.conditional import is_conditional, load_transformer
from dsd.models.latents import canvas_tokens, condition_canvas, img_ids, to_pixels


@dataclass
class DSDPipelineOutput(BaseOutput):
    """`images` are the outputs, `references` the left panels, drawn again by the model, where they were asked for."""

    images: list[Image.Image] | np.ndarray | Tensor
    references: list[Image.Image] | np.ndarray | Tensor | None = None


class DSDPipeline(FluxPipeline):
    """A FLUX pipeline whose transformer is conditional (`in_channels` twice the latents')."""

    @classmethod
    def from_base(
        cls,
        base: str,
        adapter: str | Path | None = None,
        transformer: str | Path | None = None,
        lora: str | Path | None = None,
        fuse: bool = True,
        dtype: str = "float32",
        device: str = "cpu",
    ) -> "DSDPipeline":
        """A base pipeline made conditional: by an adapter of dsd-train, or by the released transformer and its LoRA."""
        if (adapter is None) == (transformer is None):
            raise UserError("give either adapter= (a file that dsd-train wrote) or transformer= (a released folder)")
        if adapter is not None:
            adapters.read_adapter(resolve(str(adapter)))  # refuse a bad one before the base is loaded
            pipeline = load_pipeline(base, dtype=dtype, cls=cls)
            metadata = adapters.load_adapter(pipeline.transformer, resolve(str(adapter)), fuse)
            pipeline.adapter_metadata = metadata
        else:
            loaded = load_transformer(str(transformer), to_dtype(dtype))
            if lora is not None:
                load_released_lora(loaded, Path(lora), fuse)
            pipeline = load_pipeline(base, dtype=dtype, cls=cls, transformer=loaded)
        return pipeline.to(to_device(device))

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        image: Image.Image | Sequence[Image.Image] | Tensor | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 28,
        guidance_scale: float = 3.5,
        image_guidance_scale: float = 1.0,
        text_guidance_scale: float = 1.0,
        negative_prompt: str = "",
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        return_dict: bool = True,
        max_sequence_length: int = 512,
        no_cfg_until_timestep: int = 2,
        guidance_batching: bool = True,
        fit: str = "crop",
        return_reference: bool = False,
    ) -> DSDPipelineOutput | tuple:
        """Draw `image`'s subject as `prompt` says. `height` and `width` are those of the output panel, in pixels.

        One image serves many prompts; otherwise lists have equal length. `image=None` is the zero condition latent,
        which the model knows from dropout. `latents` is the packed noise of the whole canvas, (B, L, C). The first
        `no_cfg_until_timestep` steps take the plain conditional pass, as released. `output_type="latent"` returns the
        packed canvas.
        """
        height, width = height or self.default_sample_size * self.vae_scale_factor, width or height
        width = width or height
        rows, columns = canvas_tokens(self.vae_scale_factor, height, width)
        if not is_conditional(self.transformer):
            raise UserError("this pipeline's transformer takes no reference; load an adapter (DSDPipeline.from_base)")
        for name, value in (
            ("guidance_scale", guidance_scale),
            ("image_guidance_scale", image_guidance_scale),
            ("text_guidance_scale", text_guidance_scale),
        ):
            if not math.isfinite(value):
                raise UserError(f"{name}={value}: a finite number is needed")
        if num_inference_steps < 1:
            raise UserError(f"num_inference_steps={num_inference_steps}: at least 1 is needed")
        device, dtype = self._execution_device, self.transformer.dtype

        prompts = [prompt] if isinstance(prompt, str) else prompt
        given = prompts if prompts is not None else prompt_embeds
        if given is None:
            raise UserError("give prompt=, or prompt_embeds= with pooled_prompt_embeds=")
        num_prompts = len(given)
        prompt_embeds, pooled_prompt_embeds, txt_ids = self.encode_prompt(
            prompt=prompts,
            prompt_embeds=prompt_embeds,
            pooled_prompt_embeds=pooled_prompt_embeds,
            num_images_per_prompt=num_images_per_prompt,
            max_sequence_length=max_sequence_length,
            device=device,
        )
        num = num_prompts * num_images_per_prompt
        tokens = rows * columns
        channels = self.transformer.out_channels
        cond_latents = self.encode_references(image, num_prompts, height, width, fit)
        if cond_latents is None:
            cond_latents = torch.zeros(num_prompts, tokens, channels, device=device, dtype=dtype)
        cond_latents = cond_latents.to(device, dtype).repeat_interleave(num_images_per_prompt, dim=0)
        full = Conditions(cond_latents, prompt_embeds, pooled_prompt_embeds)

        no_text = None
        if coefficients(image_guidance_scale, text_guidance_scale)[1:] != (0, 0):
            embeds, pooled, _ = self.encode_prompt(
                prompt=[negative_prompt], prompt_2=None, max_sequence_length=prompt_embeds.shape[1], device=device
            )
            no_text = Conditions(cond_latents, embeds.expand(num, -1, -1), pooled.expand(num, -1))
        ids = img_ids(rows, columns, device, dtype)
        network = Network(self.transformer, ids, txt_ids, guidance_scale)
        plain = network.under(full)
        steered = guided(network, full, no_text, image_guidance_scale, text_guidance_scale, guidance_batching)

        if latents is None:
            pixels = (height, 2 * width)
            latents, _ = self.prepare_latents(num, channels // 4, *pixels, torch.float32, device, generator)
        latents = latents.to(device, dtype)
        config = self.scheduler.config
        keys = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        timesteps, _ = retrieve_timesteps(
            self.scheduler,
            device=device,
            sigmas=np.linspace(1.0, 1 / num_inference_steps, num_inference_steps),
            mu=calculate_shift(tokens, *(config[key] for key in keys)),
        )
        with self.progress_bar(total=len(timesteps)) as bar:
            for step, timestep in enumerate(timesteps):
                sigmas = (timestep / config.num_train_timesteps).expand(num).to(dtype)
                denoise = plain if step < no_cfg_until_timestep else steered
                velocity = denoise(latents, sigmas)
                latents = self.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
                if callback_on_step_end is not None:
                    known = {"latents": latents, "prompt_embeds": prompt_embeds}
                    known = {name: known[name] for name in callback_on_step_end_tensor_inputs}
                    latents = (callback_on_step_end(self, step, timestep, known) or {}).get("latents", latents)
                bar.update()

        if output_type == "latent":
            self.maybe_free_model_hooks()
            return DSDPipelineOutput(latents) if return_dict else (latents,)
        left, right = self.decode_canvas(latents, height, width).chunk(2, dim=-1)
        images = self.image_processor.postprocess(right, output_type=output_type)
        references = self.image_processor.postprocess(left, output_type=output_type) if return_reference else None
        self.maybe_free_model_hooks()
        return DSDPipelineOutput(images, references) if return_dict else (images, references)

    def encode_references(
        self, image: Image.Image | Sequence[Image.Image] | Tensor | None, num: int, height: int, width: int, fit: str
    ) -> Tensor | None:
        """References -> condition latents (num, L, C); one serves all. Tensors are (B, 3, H, W) in [-1, 1], fitted."""
        if image is None:
            return None
        if not isinstance(image, Tensor):
            images = [image] if isinstance(image, Image.Image) else list(image)
            image = torch.stack([to_pixels(picture, height, width, fit) for picture in images])
        if len(image) not in (1, num):
            raise UserError(f"{len(image)} images for {num} prompts: give one image, or as many as prompts")
        return condition_canvas(self.vae, image).expand(num, -1, -1)

    def decode_canvas(self, latents: Tensor, height: int, width: int) -> Tensor:
        """Packed (B, L, C) -> pixels (B, 3, height, 2 x width) in about [-1, 1]."""
        latents = self._unpack_latents(latents, height, 2 * width, self.vae_scale_factor)
        latents = latents / self.vae.config.scaling_factor + self.vae.config.shift_factor
        return self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0]


def load_released_lora(transformer: Any, file: Path, fuse: bool) -> None:
    """`pytorch_lora_weights.safetensors` over a released transformer."""
    if not file.is_file():
        raise UserError(f"{file}: no such LoRA file")
    state = load_file(file)
    transformer.load_lora_adapter(state, prefix="transformer", adapter_name="dsd")
    if fuse:
        transformer.fuse_lora(adapter_names=["dsd"])
        transformer.unload_lora()
