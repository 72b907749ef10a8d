"""Tiny pipelines of every family, of the genuine classes with random weights."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import Qwen2Tokenizer, Qwen3Model

from dsd.io.files import resolve
from dsd.toybox.flux2 import FOLDER, build_pipeline, build_transformer

WEIGHTS = Path(resolve("pkg://dsd.toybox/weights"))


def random_base(family: str) -> Any:
    """Make a base of a family: small, random, the same every time."""
    torch.manual_seed(5)
    return {"flux1": flux1, "flux2": flux2, "z_image": z_image}[family]()


def flux1() -> FluxPipeline:
    """The toybox's encoders and VAE, and a random transformer of one double and one single block."""
    config = {**FluxTransformer2DModel.load_config(WEIGHTS / "teacher" / "transformer"), "num_layers": 1}
    transformer = FluxTransformer2DModel.from_config({**config, "num_single_layers": 1})
    return FluxPipeline.from_pretrained(WEIGHTS / "teacher", transformer=lively(transformer))


def flux2() -> Any:
    """The toybox's encoder and VAE in FLUX.2's classes, and a random transformer."""
    return build_pipeline(WEIGHTS, lively(build_transformer()))


def z_image() -> ZImagePipeline:
    """A random Z-Image of two layers; its text encoder is the toybox's Qwen3."""
    transformer = ZImageTransformer2DModel(
        in_channels=16, dim=64, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=96,
        axes_dims=[8, 12, 12], axes_lens=[256, 32, 32],
    )  # fmt: skip
    return ZImagePipeline(
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        AutoencoderKL.from_pretrained(WEIGHTS / "teacher" / "vae"),
        Qwen3Model.from_pretrained(WEIGHTS / FOLDER / "text_encoder"),
        Qwen2Tokenizer.from_pretrained(WEIGHTS / FOLDER / "tokenizer"),
        lively(transformer),
    )


def kontext(base: FluxPipeline) -> FluxKontextPipeline:
    """Diffusers' own pipeline of FLUX.1 with reference tokens, over the parts of a base."""
    return FluxKontextPipeline(**{name: part for name, part in base.components.items() if part is not None})


def lively(transformer: Any) -> Any:
    """Make random weights large enough that every input matters."""
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if name.endswith("pad_token"):  # the oldest diffusers leaves it as the memory was, which may be NaN
                parameter.normal_(std=0.1)
            elif parameter.ndim == 2:
                parameter.mul_(1.5)
    return transformer.eval().requires_grad_(False)
