"""Make the two sides of a comparison over one set of frozen tensors: 30 GB of FLUX.1-dev's shape instead of 58."""

import copy
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel, FluxPipeline
from peft import LoraConfig

from dsd.io.files import resolve
from dsd.models.adapter import NAME
from dsd.models.adapter_file import target_pattern
from dsd.models.conditional import join, split
from dsd.models.families.flux1 import FAMILY as FLUX1
from dsd.models.flux_dev import random_flux_dev
from dsd.models.loading import load_pipeline
from dsd.models.random_weights import draw_weights, empty
from dsd.pipeline.pipeline import DSDPipeline

TOYBOX, TOYBOX_FLUX2 = "pkg://dsd.toybox/weights/teacher", "pkg://dsd.toybox/weights/flux2"
# black-forest-labs/FLUX.2-klein-4B's config.json
KLEIN = {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680,
         "guidance_embeds": False}  # fmt: skip


def twin(module: Any, own: Callable[[str], bool] = lambda name: False) -> Any:
    """Copy a tree of modules over the same parameters and buffers; those whose names are `own` are copied, too.

    What is put in place of a parameter of the copy (quantised, merged, fused) leaves the other tree as it is.
    """
    named = chain(module.named_parameters(), module.named_buffers())
    return copy.deepcopy(module, {id(tensor): tensor for name, tensor in named if not own(name)})


def base_pipeline(shape: str, device: torch.device, with_text: bool = True) -> FluxPipeline:
    """Load the toybox, or draw FLUX.1-dev's shape on the device; without text encoders where nobody asks them."""
    if shape == "toybox":
        return load_pipeline(TOYBOX, device=str(device), cls=FluxPipeline)
    return random_flux_dev(torch.bfloat16, device, tokenizers=resolve(TOYBOX) if with_text else None)


def klein_transformer(shape: str, device: torch.device) -> Flux2Transformer2DModel:
    """Load the toybox's small FLUX.2, or draw klein-4B's shape on the device."""
    if shape == "toybox":
        small = load_pipeline(TOYBOX_FLUX2, device=str(device), cls=Flux2KleinPipeline)
        loaded: Flux2Transformer2DModel = small.transformer
        return loaded
    with empty(torch.bfloat16):
        transformer: Any = Flux2Transformer2DModel(**KLEIN)
    draw_weights(transformer, device)
    drawn: Flux2Transformer2DModel = transformer.requires_grad_(False).eval()
    return drawn


def students(
    shape: str, device: torch.device, rank: int, with_text: bool = True
) -> tuple[DSDPipeline, DSDPipeline]:  # fmt: skip
    """Make the same random student twice: LoRA beside the weights, and merged. What is not merged is shared."""
    base = base_pipeline(shape, device, with_text)
    torch.manual_seed(0)
    split(base.transformer)
    for parameter in base.transformer.x_embedder.c_embedder.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    transformer = join(base.transformer)
    targets = target_pattern(FLUX1, "attention")
    with device:  # a LoRA is drawn where it is made
        transformer.add_adapter(
            LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, init_lora_weights=False), adapter_name=NAME
        )
    transformer.requires_grad_(False)
    port, ours = DSDPipeline(**base.components), DSDPipeline(**base.components)
    ours.transformer = twin(transformer, own=lambda name: name.endswith("base_layer.weight"))
    ours.transformer.fuse_lora(adapter_names=[NAME])
    ours.transformer.unload_lora()
    for pipeline in (port, ours):
        pipeline.set_progress_bar_config(disable=True)
    return port, ours
