"""`DSDPipeline`: diffusers' pipelines that take reference pictures.

Everything but the call is diffusers' own: loading, saving, pushing to the hub, LoRA, offloading. The call draws what
the student draws: a canvas of two panels, of which the right one is the output (paper, section 3.3; released code,
commit 1f95769), or the output alone beside reference tokens. Shapes: B images in all, N references of an image, L
tokens of what is drawn, C channels of a token.
"""

import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, FluxPipeline, ZImagePipeline
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from dsd.errors import UserError
from dsd.models import adapter as adapters
from dsd.models.adapter_file import adapter_at, read_adapter
from dsd.models.canvas import Canvas, to_pixels
from dsd.models.conditional import load_transformer
from dsd.models.families import Family, Text, class_in, family_by_class, family_of
from dsd.models.flux_dev import SCHEDULER
from dsd.models.kinds import student_from
from dsd.models.loading import class_of, load_pipeline, to_device, to_dtype
from dsd.models.student import Conditions, Student
from dsd.pipeline.guidance import Memories, Passes, Scales, guided
from dsd.pipeline.precompute import Precomputed
from dsd.pipeline.standalone import source_of

log = logging.getLogger(__name__)
CODE = "pipeline"  # name of the file with a saved pipeline's own code


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


class ReferencePipeline:
    """What the pipelines of all families share: the call. It is mixed into a pipeline of diffusers."""

    own_kind = "tokens"  # how a base without an adapter takes references
    # These belong to the pipeline of diffusers beside it:
    transformer: Any
    vae: Any
    text_encoder: Any
    scheduler: Any
    image_processor: Any
    config: Any
    vae_scale_factor: int
    register_to_config: Any
    progress_bar: Any
    maybe_free_model_hooks: Any
    _execution_device: Any

    panel_size = 512  # pixels; the default output's height and width
    guidance_batching = True
    precompute = False  # compute what no step changes once for a picture; the whole transformer must be on its device
    remember = False  # keep what the student remembers of the last references; the weights must stay as they are

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
        distilled: bool = False,
    ) -> Any:
        """Make a base pipeline conditional, by an adapter of dsd-train or by the released transformer and its LoRA.

        An adapter is a path or user/name on the hub. With neither, `base` must be conditional already: a folder that
        `save_pretrained` wrote. `style_loras` are files or hub ids with their weights. `fuse` merges every LoRA into
        the weights, which is exact to rounding and faster. A base that is `distilled` to few steps takes an adapter
        that was trained before its distillation; FLUX.2 says so itself. UserError says what does not fit.
        """
        if adapter is not None and transformer is not None:
            raise UserError("give either adapter= (a file that dsd-train wrote) or transformer= (a released folder)")
        where = to_device(device)
        if adapter is not None:
            adapter = adapter_at(adapter)
            _, metadata = read_adapter(adapter)  # refuse a bad one before the base is loaded
            pipeline = load_pipeline(base, dtype=dtype, cls=pipeline_class(base))
            twin = distilled or bool(pipeline.config.get("is_distilled"))
            adapters.load_adapter(pipeline.transformer, adapter, fuse, family_of(pipeline), twin)
            pipeline.about = metadata["student"]
            pipeline.panel_size = metadata.get("geometry", {}).get("panel_height", cls.panel_size)
        elif transformer is not None:
            loaded = load_transformer(str(transformer), to_dtype(dtype))
            if lora is not None:
                adapters.load_released_lora(loaded, Path(lora), fuse)
            pipeline = load_pipeline(base, dtype=dtype, cls=DSDPipeline, transformer=loaded)
            if not pipeline.scheduler.config.get("use_dynamic_shifting"):  # FLUX.1-schnell as the base
                pipeline.scheduler = FlowMatchEulerDiscreteScheduler(**SCHEDULER)
                log.info("%s has another model's schedule; FLUX.1-dev's is used, with which the student was made", base)
        else:
            pipeline = load_pipeline(base, dtype=dtype, cls=pipeline_class(base))
            if pipeline.about["kind"] == "none" or not pipeline.student.fits(pipeline.transformer):
                raise UserError(
                    f"no adapter: {base} takes no reference by itself; give adapter=path/to/the/train/folder "
                    "(or transformer= and lora_weights= as released)"
                )
            if pipeline.student.kind == "tokens":
                log.info("no adapter: %s follows references in its own way", base)
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
        """Draw `image`'s subject as `prompt` says. `height` and `width` are those of the output, in pixels.

        One image serves many prompts; otherwise lists have equal length. A student with reference tokens also takes a
        list of lists: several references for each prompt. `image=None` is the zero condition latent, which the model
        knows from dropout. `latents` is the noise of all that is drawn, in tokens (B, L, C). The first
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
            known = {"latents": latents, "prompt_embeds": prepared.full.text[0]}
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
        student, device, dtype = self.student, self._execution_device, self.transformer.dtype
        canvas = student.canvas(height, width)
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if prompts is None and prompt_embeds is None:
            raise UserError("give prompt=, or prompt_embeds= (and for FLUX.1 pooled_prompt_embeds=)")
        given = tuple(part for part in (prompt_embeds, pooled_prompt_embeds) if part is not None)
        text = given or self.encode_text(prompts or [], max_sequence_length)
        text = tuple(part.to(device, dtype).repeat_interleave(num_images_per_prompt, dim=0) for part in text)
        num = len(text[0])
        references = self.read_references(image, height, width, fit)
        if references is None:
            cond_latents = torch.zeros(1, canvas.num_tokens, self.family.channels(self.transformer))
        else:
            if len(references) not in (1, num // num_images_per_prompt):
                raise UserError(
                    f"{len(references)} images for {num // num_images_per_prompt} prompts: give one image, or as many "
                    "as prompts"
                )
            cond_latents = student.condition(self.vae, references.to(device))
        cond_latents = cond_latents.to(device, dtype)
        each = num if len(cond_latents) == 1 else num_images_per_prompt
        cond_latents = cond_latents.repeat_interleave(each, dim=0)
        no_text = None
        if scales.needs_no_text:
            negative = self.encode_negative(negative_prompt, text[0].shape[1])
            no_text = Conditions(cond_latents, tuple(p.to(dtype).expand(num, *p.shape[1:]) for p in negative))
        if latents is None:
            channels = self.family.channels(self.transformer)
            latents = self.family.noise(num, canvas.rows, canvas.columns, channels, generator, device)
        return Prepared(
            latents.to(device, dtype),
            Conditions(cond_latents, text),
            no_text,
            canvas,
            self.family.timesteps(self.scheduler, num_inference_steps, canvas.num_tokens, device),
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
        self.scheduler.set_begin_index(0)  # otherwise the scheduler looks the first timestep up, and waits for the GPU
        sigmas = timesteps / self.scheduler.config.num_train_timesteps
        first = min(max(num_plain, 0), len(timesteps))
        student = self.student
        precomputed = self.precomputed() if self.precompute and student.precomputable else None
        memories = self.memories if self.remember else Memories()
        passes = Passes(student, prepared.canvas, guidance_scale, sigmas, precomputed, memories)
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
        """Decode what was drawn (B, L, C) and cut it into the output and, where it is drawn, the reference."""
        if not latents.isfinite().all():
            raise UserError("the transformer returned NaN or infinity; its weights are damaged, or float16 overflows")
        if output_type == "latent":
            return DSDPipelineOutput(latents)
        output, redrawn = self.student.panels(self.family.decode(self.vae, latents, canvas.rows))
        images = self.image_processor.postprocess(output, output_type=output_type)
        if not return_reference:
            return DSDPipelineOutput(images)
        if redrawn is None:
            raise UserError("return_reference: a student with reference tokens draws the output alone")
        return DSDPipelineOutput(images, self.image_processor.postprocess(redrawn, output_type=output_type))

    def save_config(self, save_directory: str | os.PathLike[Any], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save also the pipeline's code, one file that does not need this package: `trust_remote_code=True` runs it."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{CODE}.py").write_text(source_of(type(self).__name__), encoding="utf-8")
        super().save_config(save_directory, push_to_hub, **kwargs)  # type: ignore[misc]

    def to_json_string(self) -> str:
        """Name the file of the class beside the class, as diffusers does for pipelines that are not its own."""
        config = json.loads(super().to_json_string())  # type: ignore[misc]
        return json.dumps({**config, "_class_name": [CODE, type(self).__name__]}, indent=2, sort_keys=True) + "\n"

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike[Any], **others: Any) -> dict[str, Any]:
        """Read the config of a pipeline; a class that is there already needs no code from a folder."""
        config: dict[str, Any] = super()._dict_from_json_file(json_file, **others)  # type: ignore[misc]
        return {**config, "_class_name": class_in(config)} if "_class_name" in config else config

    @property
    def family(self) -> Family:
        """What is particular to the base."""
        return family_of(self)

    @property
    def about(self) -> dict[str, Any]:
        """The kind of student, as an adapter's metadata says it; it is saved with the pipeline."""
        own = {
            "family": self.family.name,
            "kind": self.own_kind,
            "attention": None if self.own_kind == "canvas" else "full",
        }
        known: dict[str, Any] = self.config["student"] or own
        return known

    @about.setter
    def about(self, about: dict[str, Any]) -> None:
        self.register_to_config(student=dict(about))

    @property
    def student(self) -> Student:
        """The transformer as guidance and sampler know it."""
        dtype, factor = self.transformer.dtype, self.vae_scale_factor
        return student_from(self.about, transformer=self.transformer, dtype=dtype, vae_scale_factor=factor)

    @property
    def memories(self) -> Memories:
        """What the student remembers of the last references, where `remember` is set."""
        kept: Memories = self.__dict__.setdefault("_memories", Memories())
        return kept

    def refuse_impossible(self, guidance_scale: float, scales: Scales, num_inference_steps: int) -> None:
        """Raise UserError where the transformer takes no reference, or where a number cannot work."""
        if not self.student.fits(self.transformer):
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
        """Give the position ids of text and image tokens, (T + N, 3), for what is precomputed."""
        ids = self.student.ids(prepared.canvas, prepared.full.cond_latents.shape[1]).to(prepared.latents)
        return torch.cat([ids.new_zeros(prepared.full.text[0].shape[1], 3), ids])

    def encode_text(self, prompts: Sequence[str], max_sequence_length: int) -> Text:
        """Encode prompts as the family does; say which are longer than what the model reads."""
        self.announce_truncation(prompts, max_sequence_length)
        return self.family.encode_text(self, prompts, max_sequence_length)

    def encode_negative(self, negative_prompt: str, length: int) -> Text:
        """Embed the negative prompt, (1, ...) each, and keep it for the pictures to come."""
        kept, key = self.kept_negatives, (negative_prompt, length)
        adapted = hasattr(self.text_encoder, "peft_config")  # a LoRA may change what the encoder says
        if key not in kept or adapted:
            kept[key] = self.family.encode_text(self, [negative_prompt], length)
        return kept[key]

    @property
    def kept_negatives(self) -> dict[tuple[str, int], Text]:
        """Embeddings of negative prompts by prompt and length, for the pictures to come."""
        kept: dict[tuple[str, int], Text] = self.__dict__.setdefault("_negatives", {})
        return kept

    def announce_truncation(self, prompts: Sequence[str], max_sequence_length: int) -> None:
        """Warn of every prompt that is longer than what the model reads."""
        for prompt in prompts:
            num = self.family.count_tokens(self, prompt)
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

    def read_references(
        self, image: Image.Image | Sequence[Any] | Tensor | None, height: int, width: int, fit: str
    ) -> Tensor | None:
        """Fit references into panels: (B, N, 3, H, W). Tensors are fitted already, (B, 3, H, W) or (B, N, 3, H, W)."""
        if image is None:
            return None
        if isinstance(image, Tensor):
            return image[:, None] if image.ndim == 4 else image
        images = [image] if isinstance(image, Image.Image) else list(image)
        several = [list(one) if isinstance(one, list | tuple) else [one] for one in images]
        if len({len(one) for one in several}) != 1:
            raise UserError("the pictures of one call need equally many references each")
        return torch.stack([torch.stack([to_pixels(one, height, width, fit) for one in each]) for each in several])


class DSDPipeline(ReferencePipeline, FluxPipeline):
    """A FLUX.1 pipeline whose transformer is conditional (`in_channels` twice the latents'), or takes tokens."""

    own_kind = "canvas"

    def __init__(
        self, scheduler: Any, vae: Any, text_encoder: Any, tokenizer: Any, text_encoder_2: Any, tokenizer_2: Any,
        transformer: Any, image_encoder: Any = None, feature_extractor: Any = None,
        student: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            scheduler, vae, text_encoder, tokenizer, text_encoder_2, tokenizer_2, transformer, image_encoder,
            feature_extractor,
        )  # fmt: skip
        self.register_to_config(student=student)


class DSDFlux2Pipeline(ReferencePipeline, Flux2KleinPipeline):
    """A FLUX.2 pipeline whose references are tokens."""

    def __init__(
        self, scheduler: Any, vae: Any, text_encoder: Any, tokenizer: Any, transformer: Any,
        is_distilled: bool = False, student: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(scheduler, vae, text_encoder, tokenizer, transformer, is_distilled)
        self.register_to_config(student=student)


class DSDZImagePipeline(ReferencePipeline, ZImagePipeline):
    """A Z-Image pipeline whose references are tokens."""

    own_kind = "none"  # it was not taught to follow references

    def __init__(
        self, scheduler: Any, vae: Any, text_encoder: Any, tokenizer: Any, transformer: Any,
        student: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(scheduler, vae, text_encoder, tokenizer, transformer)
        self.register_to_config(student=student)


CLASSES: dict[str, Any] = {"flux1": DSDPipeline, "flux2": DSDFlux2Pipeline, "z_image": DSDZImagePipeline}


def pipeline_class(base: str) -> Any:
    """Choose the class for a base: a folder, a hub id or pkg://. UserError where no student can be made of it."""
    return CLASSES[family_by_class(class_of(base)).name]
