"""Load pipelines from a folder, the hub, or this package."""

import os
import re
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from torch import nn
from transformers.utils import logging as transformers_logging

from dsd.errors import UserError
from dsd.io.files import PACKAGE, resolve
from dsd.io.hub import refusal
from dsd.models.families import class_in

Loaded = TypeVar("Loaded", bound=DiffusionPipeline)
Module = TypeVar("Module", bound=nn.Module)

SINCE = {  # the first version of diffusers that has a pipeline
    "QwenImagePipeline": "0.35",
    "Flux2Pipeline": "0.36",
    "ZImagePipeline": "0.36",
    "Flux2KleinPipeline": "0.37",
    "Flux2KleinKVPipeline": "0.38",
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def to_dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise UserError(f"dtype={name!r} is unknown; choose one of {', '.join(DTYPES)}")
    return DTYPES[name]


def to_device(name: str) -> torch.device:
    """Read the name of a device; "auto" is this rank's GPU or, without one, the CPU. UserError if it is absent."""
    if name == "auto":
        rank = int(os.environ.get("LOCAL_RANK", 0))
        return torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device={name!r} is no device; choose auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={name}: this machine shows {torch.cuda.device_count()} CUDA devices; use device=cpu")
    return device


def moved(module: Module, device: torch.device | str) -> Module:
    """Move a module. The `to` of diffusers' and transformers' models does the same, but hides its types."""
    return module.to(device)


@overload
def load_pipeline(path: str, dtype: str = ..., device: str = ..., *, cls: type[Loaded], **parts: Any) -> Loaded: ...


@overload
def load_pipeline(path: str, dtype: str = ..., device: str = ..., **parts: Any) -> DiffusionPipeline: ...


def load_pipeline(
    path: str,
    dtype: str = "float32",
    device: str = "cpu",
    cls: type[DiffusionPipeline] = DiffusionPipeline,
    **parts: Any,
) -> DiffusionPipeline:
    """Load a pipeline from safetensors onto a device; `parts` replace components (None leaves one out)."""
    where, target = place_of(path), to_device(device)
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        pipeline = cls.from_pretrained(where, dtype=to_dtype(dtype), use_safetensors=True, **parts)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"model.path={path}: {reason(path, error)}") from error
    except AttributeError as error:  # a class of the pipeline that the installed library lacks
        missing = re.fullmatch(r"module '?(diffusers|transformers)'? has no attribute '?(\w+)'?", str(error))
        if missing is None:
            raise
        raise UserError(f"model.path={path}: {too_old(*missing.groups())}") from error
    return pipeline.to(target)


def place_of(path: str) -> str:
    """Find a pipeline: its folder, or its hub id as it is. UserError where a folder holds none."""
    where = resolve(path)
    folder = Path(where)
    if (where.startswith((".", "/", "~")) or path.startswith(PACKAGE) or folder.exists()) and not (
        folder.expanduser() / "model_index.json"
    ).is_file():
        raise UserError(f"model.path={path}: no pipeline folder (model_index.json) there")
    return where


def class_of(path: str) -> str:
    """Read the name of a pipeline's class. UserError where it cannot be read."""
    try:
        index: Any = DiffusionPipeline.load_config(place_of(path))
        name = class_in(index)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"model.path={path}: {reason(path, error)}") from error
    return name


def reason(path: str, error: Exception) -> str:
    """Say in one line why a pipeline cannot be loaded: what the hub refuses, or else what the libraries say."""
    first_line = (str(error).strip() or repr(error)).splitlines()[0]
    return refusal(path, error) or f"cannot be loaded: {first_line}"


def too_old(library: str, name: str) -> str:
    """Say which version of a library has a class, and how to get it."""
    wanted = f">={SINCE[name]}" if name in SINCE else ""
    since = f"it came with {SINCE[name]}" if wanted else "a newer one may have it"
    upgrade = f"pip install --upgrade '{library}{wanted}'"
    return f"{library} {metadata.version(library)} has no {name}; {since}: {upgrade}"


def load_without_encoders(path: str, dtype: str = "float32") -> Any:
    """Load a pipeline without VAE and text encoders, on the CPU."""
    known: Any = DiffusionPipeline.load_config(place_of(path))
    encoders: Any = {name: None for name in known if name == "vae" or name.startswith("text_encoder")}
    return load_pipeline(path, dtype, **encoders)
