"""`DSDPipeline`: diffusers' FLUX pipeline that takes a reference picture.

Everything but the call is diffusers' own: loading, saving, pushing to the hub, LoRA, offloading. The call draws a
canvas of two panels, left the reference again, right the output, and returns the right one (paper, section 3.3;
released code, commit 1f95769). Shapes: B images in all, L packed tokens of a canvas, C packed channels.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from dsd.errors import UserError
from dsd.io.files import resolve
from dsd.models import adapter as adapters
from dsd.models.adapter_file import read_adapter
from dsd.models.canvas import Canvas, condition_canvas, decode, to_pixels
from dsd.models.conditional import is_conditional, load_transformer
from dsd.models.flux_dev import SCHEDULER
from dsd.models.loading import load_pipeline, to_device, to_dtype
from dsd.models.student import CanvasStudent, Conditions
from dsd.pipeline.guidance import Passes, Scales, guided
from dsd.pipeline.precompute import Precomputed

log = logging.getLogger(__name__)


@dataclass
class DSDPipelineOutput(BaseOutput):
    """`images` are the outputs; `references` are the redrawn left panels, where they were asked for."""

    images: list[Image.Image] | np.ndarray | Tensor
    references: list[Image.Image] | np.ndarray | Tensor | None = None


@dataclass(frozen=True)
class Prepared:
    """What the sampling loop begins with."""

    latents: Tensor  # (B, L, C) noise
    full: Conditions  # reference and text
    no_text: Conditions | None  # reference and negative prompt, where guidance needs it
    canvas: Canvas
    timesteps: Tensor  # (S,)


class DSDPipeline(FluxPipeline):
    """A FLUX pipeline whose transformer is conditional (`in_channels` twice the latents')."""

    panel_size = 512  # pixels; the default output's height and width
    guidance_batching = True
    positions = "column"  # of the canvas's panels, see `Canvas.ids`; an adapter's metadata sets it
    precompute = False  # compute what no step changes once for a picture; the whole transformer must be on its device

    @classmethod
    def from_base(
        cls,
        base: str,
        adapter: str | Path | None = None,
        transformer: str | Path | None = None,
        lora: str | Path | None = None,
        style_loras: Mapping[str, float] | None = None,
        fuse: bool = True,
        dtype: str = "float32",
        device: str = "cpu",
    ) -> "DSDPipeline":
        """Make a base pipeline conditional, by an adapter of dsd-train or by the released transformer and its LoRA.

        With neither, `base` must be conditional already: a folder that `save_pretrained` wrote. `style_loras` are files
        or hub ids with their weights. `fuse` merges every LoRA into the weights, which is exact to rounding and
        faster. UserError says what does not fit.
        """
        if adapter is not None and transformer is not None:
            raise UserError("give either adapter= (a file that dsd-train wrote) or transformer= (a released folder)")
        where = to_device(device)
        if adapter is not None:
            read_adapter(resolve(str(adapter)))  # refuse a bad one before the base is loaded
            pipeline = load_pipeline(base, dtype=dtype, cls=cls)
            metadata = adapters.load_adapter(pipeline.transformer, resolve(str(adapter)), fuse)
            pipeline.positions = metadata.get("positions", cls.positions)
            pipeline.panel_size = metadata.get("geometry", {}).get("panel_height", cls.panel_size)
        elif transformer is not None:
            loaded = load_transformer(str(transformer), to_dtype(dtype))
            if lora is not None:
                adapters.load_released_lora(loaded, Path(lora), fuse)
            pipeline = load_pipeline(base, dtype=dtype, cls=cls, transformer=loaded)
            if not pipeline.scheduler.config.get("use_dynamic_shifting"):  # FLUX.1-schnell as the base
                pipeline.scheduler = FlowMatchEulerDiscreteScheduler(**SCHEDULER)
                log.info("%s has another model's schedule; FLUX.1-dev's is used, with which the student was made", base)
        else:
            pipeline = load_pipeline(base, dtype=dtype, cls=cls)
            if not is_conditional(pipeline.transformer):
                raise UserError(
                    f"no adapter: {base} takes no reference by itself; give adapter=path/to/the/train/folder "
                    "(or transformer= and lora_weights= as released)"
                )
        if style_loras:
            adapters.add_style_loras(pipeline, style_loras, fuse)
        return pipeline.to(where)

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
        norm_balanced: bool = False,
        guidance_batching: bool | None = None,
        fit: str = "crop",
        return_reference: bool = False,
    ) -> DSDPipelineOutput | tuple[Any, ...]:
        """Draw `image`'s subject as `prompt` says. `height` and `width` are those of the output panel, in pixels.

        One image serves many prompts; otherwise lists have equal length. `image=None` is the zero condition latent,
        which the model knows from dropout. `latents` is the packed noise of the whole canvas, (B, L, C). The first
        `no_cfg_until_timestep` steps take the plain conditional pass, as released. `output_type="latent"` returns the
        packed canvas.
        """
        height, width = height or self.panel_size, width or height or self.panel_size
        scales = Scales(image_guidance_scale, text_guidance_scale, norm_balanced)
        self.refuse_impossible(guidance_scale, scales, num_inference_steps)
        prepared = self.prepare(
            prompt, image, height, width, num_inference_steps, scales, negative_prompt, num_images_per_prompt,
            generator, latents, prompt_embeds, pooled_prompt_embeds, max_sequence_length, fit,
        )  # fmt: skip
        batched = self.guidance_batching if guidance_batching is None else guidance_batching

        def after_step(step: int, timestep: Tensor, latents: Tensor) -> Tensor:
            if callback_on_step_end is None:
                return latents
            known = {"latents": latents, "prompt_embeds": prepared.full.prompt_embeds}
            known = {name: known[name] for name in callback_on_step_end_tensor_inputs}
            return (callback_on_step_end(self, step, timestep, known) or {}).get("latents", latents)

        canvas = self.denoise(prepared, guidance_scale, scales, no_cfg_until_timestep, batched, after_step)
        drawn = self.decode(canvas, prepared.canvas, output_type, return_reference)
        self.maybe_free_model_hooks()
        if return_dict:
            return drawn
        return (drawn.images,) if output_type == "latent" else (drawn.images, drawn.references)

    def prepare(
        self,
        prompt: str | list[str] | None,
        image: Image.Image | Sequence[Image.Image] | Tensor | None,
        height: int,
        width: int,
        num_inference_steps: int,
        scales: Scales,
        negative_prompt: str,
        num_images_per_prompt: int,
        generator: torch.Generator | list[torch.Generator] | None,
        latents: Tensor | None,
        prompt_embeds: Tensor | None,
        pooled_prompt_embeds: Tensor | None,
        max_sequence_length: int,
        fit: str,
    ) -> Prepared:
        """Encode texts and references, draw the noise and set the schedule."""
        device, dtype, canvas = self._execution_device, self.transformer.dtype, self.student.canvas(height, width)
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if prompts is None and prompt_embeds is None:
            raise UserError("give prompt=, or prompt_embeds= with pooled_prompt_embeds=")
        self.announce_truncation(prompts or [], max_sequence_length)
        # diffusers' types for these three allow no None and no tensor but a FloatTensor
        text: dict[str, Any] = {"prompt": prompts, "prompt_embeds": prompt_embeds}
        text["pooled_prompt_embeds"] = pooled_prompt_embeds
        prompt_embeds, pooled_prompt_embeds, _ = self.encode_prompt(
            **text,
            prompt_2=None,
            num_images_per_prompt=num_images_per_prompt,
            max_sequence_length=max_sequence_length,
            device=device,
        )
        num, channels = len(prompt_embeds), self.transformer.config.out_channels
        cond_latents = self.encode_references(image, num // num_images_per_prompt, height, width, fit)
        if cond_latents is None:
            cond_latents = torch.zeros(num // num_images_per_prompt, canvas.num_tokens, channels)
        cond_latents = cond_latents.to(device, dtype).repeat_interleave(num_images_per_prompt, dim=0)
        no_text = None
        if scales.needs_no_text:
            embeds, pooled = self.encode_negative(negative_prompt, prompt_embeds.shape[1])
            no_text = Conditions(cond_latents, embeds.to(dtype).expand(num, -1, -1), pooled.to(dtype).expand(num, -1))
        if latents is None:
            latents, _ = self.prepare_latents(num, channels // 4, height, 2 * width, torch.float32, device, generator)
        return Prepared(
            latents.to(device, dtype),
            Conditions(cond_latents, prompt_embeds.to(dtype), pooled_prompt_embeds.to(dtype)),
            no_text,
            canvas,
            self.schedule(num_inference_steps, canvas.num_tokens),
        )

    def denoise(
        self,
        prepared: Prepared,
        guidance_scale: float,
        scales: Scales,
        num_plain: int,
        batched: bool,
        after_step: Callable[[int, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Follow the velocity from noise to a clean canvas (B, L, C); the first `num_plain` steps are not guided."""
        timesteps, latents = prepared.timesteps, prepared.latents
        sigmas = timesteps / self.scheduler.config.num_train_timesteps
        first = min(max(num_plain, 0), len(timesteps))
        precomputed = self.precomputed() if self.precompute else None
        passes = Passes(self.student, prepared.canvas, guidance_scale, sigmas, precomputed)
        with (
            precomputed.at(self.all_ids(prepared)) if precomputed else nullcontext(),
            self.progress_bar(total=len(timesteps)) as bar,
        ):
            plain = guided(passes, prepared.full, None, Scales(), steps=range(first))
            steered = guided(passes, prepared.full, prepared.no_text, scales, batched, range(first, len(timesteps)))
            for step, timestep in enumerate(timesteps):
                velocity = (plain if step < first else steered)(latents, step)
                latents = self.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
                latents = after_step(step, timestep, latents)
                bar.update()
        return latents

    def decode(self, latents: Tensor, canvas: Canvas, output_type: str, return_reference: bool) -> DSDPipelineOutput:
        """Decode a canvas (B, L, C) and cut it: the output is the right panel, the redrawn reference the left one."""
        if not latents.isfinite().all():
            raise UserError("the transformer returned NaN or infinity; its weights are damaged, or float16 overflows")
        if output_type == "latent":
            return DSDPipelineOutput(latents)
        left, right = decode(self.vae, latents, canvas.rows).chunk(2, dim=-1)
        images = self.image_processor.postprocess(right, output_type=output_type)
        references = self.image_processor.postprocess(left, output_type=output_type) if return_reference else None
        return DSDPipelineOutput(images, references)

    @property
    def student(self) -> CanvasStudent:
        """The transformer as guidance and sampler know it."""
        return CanvasStudent(self.transformer, self.transformer.dtype, self.positions, self.vae_scale_factor)

    def refuse_impossible(self, guidance_scale: float, scales: Scales, num_inference_steps: int) -> None:
        """Raise UserError where the transformer takes no reference, or where a number cannot work."""
        if not is_conditional(self.transformer):
            raise UserError("this pipeline's transformer takes no reference; load an adapter (DSDPipeline.from_base)")
        for name, value in (
            ("guidance_scale", guidance_scale),
            ("image_guidance_scale", scales.image),
            ("text_guidance_scale", scales.text),
        ):
            if not math.isfinite(value):
                raise UserError(f"{name}={value}: a finite number is needed")
        if num_inference_steps < 1:
            raise UserError(f"num_inference_steps={num_inference_steps}: at least 1 is needed")

    def all_ids(self, prepared: Prepared) -> Tensor:
        """Give the position ids of text and canvas, (T + L, 3)."""
        ids = prepared.canvas.ids(self.positions, prepared.latents.device, prepared.latents.dtype)
        return torch.cat([ids.new_zeros(prepared.full.prompt_embeds.shape[1], 3), ids])

    def schedule(self, num_inference_steps: int, tokens: int) -> Tensor:
        """Set the scheduler's timesteps (S,), shifted by the canvas's number of tokens where it shifts dynamically."""
        config = self.scheduler.config
        keys = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        timesteps: Tensor
        timesteps, _ = retrieve_timesteps(
            self.scheduler,
            device=self._execution_device,
            sigmas=np.linspace(1.0, 1 / num_inference_steps, num_inference_steps).tolist(),
            mu=calculate_shift(tokens, *(config[key] for key in keys)),
        )
        return timesteps

    def encode_negative(self, negative_prompt: str, length: int) -> tuple[Tensor, Tensor]:
        """Embed the negative prompt, (1, length, D) and (1, P), and keep it for the pictures to come."""
        kept, key = self.kept_negatives, (negative_prompt, length)
        adapted = hasattr(self.text_encoder, "peft_config")  # a LoRA may change what the encoder says
        if key not in kept or adapted:
            embeds, pooled, _ = self.encode_prompt(
                prompt=[negative_prompt], prompt_2=None, max_sequence_length=length, device=self._execution_device
            )
            kept[key] = embeds, pooled
        return kept[key]

    @property
    def kept_negatives(self) -> dict[tuple[str, int], tuple[Tensor, Tensor]]:
        """Embeddings of negative prompts by prompt and length, for the pictures to come."""
        kept: dict[tuple[str, int], tuple[Tensor, Tensor]] = self.__dict__.setdefault("_negatives", {})
        return kept

    def announce_truncation(self, prompts: Sequence[str], max_sequence_length: int) -> None:
        """Warn of every prompt that is longer than what the model reads."""
        if self.tokenizer_2 is None:
            return
        for prompt in prompts:
            num = len(self.tokenizer_2(prompt, truncation=False, verbose=False).input_ids)
            if num > max_sequence_length:
                log.warning(
                    'the prompt "%s..." has %d tokens; the model reads the first %d (max_sequence_length)',
                    prompt[:40], num, max_sequence_length,
                )  # fmt: skip

    def precomputed(self) -> Precomputed:
        """Give the stand-ins for what no step changes, the same objects as long as the transformer stays."""
        kept = self.__dict__.get("_kept_precomputed")
        if kept is None or kept.transformer is not self.transformer:
            kept = self.__dict__["_kept_precomputed"] = Precomputed(self.transformer)
        return kept

    def encode_references(
        self, image: Image.Image | Sequence[Image.Image] | Tensor | None, num: int, height: int, width: int, fit: str
    ) -> Tensor | None:
        """Encode references to condition latents (num, L, C); one serves all. Tensors are fitted, (B, 3, H, W)."""
        if image is None:
            return None
        if not isinstance(image, Tensor):
            images = [image] if isinstance(image, Image.Image) else list(image)
            image = torch.stack([to_pixels(picture, height, width, fit) for picture in images])
        if len(image) not in (1, num):
            raise UserError(f"{len(image)} images for {num} prompts: give one image, or as many as prompts")
        return condition_canvas(self.vae, image.to(self._execution_device)).expand(num, -1, -1)
