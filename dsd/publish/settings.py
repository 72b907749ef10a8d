"""The settings of dsd-export and dsd-publish: configs/export.yaml and configs/publish.yaml."""

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from dsd.errors import UserError
from dsd.io.files import refuse_unwritable
from dsd.runs.settings import setting

CLOSING = "An existing folder is refused, never overwritten. --cfg job prints the whole config and writes nothing."

REPO = re.compile(r"(\w[\w.-]*/)?\w[\w.-]{0,95}")


class Format(Enum):
    """What an adapter is exported to, see `dsd.publish.formats`."""

    released = "released"
    diffusers = "diffusers"
    merged = "merged"
    comfyui = "comfyui"
    comfyui_lora = "comfyui_lora"


class Numbers(Enum):
    """How exported weights are stored."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp8 = "fp8"


@dataclass
class ExportSettings:
    """Export an adapter for other programs; the export is read back and compared before its folder appears."""

    examples: ClassVar[tuple[str, ...]] = (
        "dsd-export to=diffusers",
        "dsd-export to=comfyui dtype=fp8 output_dir=exported/comfyui",
        "dsd-export to=comfyui_lora dtype=bf16 output_dir=exported/lora",
        "dsd-export to=comfyui_lora dtype=bf16 transformer=dsd_model/transformer "
        "lora_weights=dsd_model/pytorch_lora_weights.safetensors",
        "dsd-export adapter=adapter.safetensors base=black-forest-labs/FLUX.1-dev to=released",
    )
    closing: ClassVar[str] = CLOSING

    adapter: str = setting("output_dir of dsd-train, or its adapter.safetensors")
    transformer: str | None = setting("folder of a released transformer, in place of adapter=; for to=comfyui_lora")
    lora_weights: str | None = setting("its pytorch_lora_weights.safetensors")
    to: Format = setting(
        "released (a transformer and a LoRA, as published), diffusers (a folder for DSDPipeline), merged (one "
        "FluxTransformer2DModel), comfyui (the same as one file for ComfyUI) or comfyui_lora (a LoRA for ComfyUI)"
    )
    dtype: Numbers = setting("of the weights: fp32, bf16, or fp8 for merged and comfyui")
    base: str | None = setting("folder or hub id of the base; null: the one that the adapter names")
    license: str | None = setting("licence that ComfyUI's files name; null: the base's, where configs/model knows it")
    output_dir: str = setting("a folder that does not exist yet")

    @staticmethod
    def check(cfg: Any) -> None:
        """Refuse what cannot work before anything is loaded."""
        if cfg.dtype is Numbers.fp8 and cfg.to not in (Format.merged, Format.comfyui):
            raise UserError(f"dtype=fp8 goes with to=merged and to=comfyui, not with to={cfg.to.name}")
        if (cfg.transformer is None) != (cfg.lora_weights is None):
            raise UserError("transformer= and lora_weights= go together: the two files of a released student")
        if cfg.transformer is not None:
            if cfg.to is not Format.comfyui_lora:
                raise UserError(f"transformer= goes with to=comfyui_lora, not with to={cfg.to.name}; give adapter=")
            for key in ("transformer", "lora_weights"):
                if not Path(cfg[key]).exists():
                    raise UserError(f"{key}={cfg[key]}: there is no such file or folder")
        elif not Path(cfg.adapter).exists():
            raise UserError(f"adapter={cfg.adapter}: no such adapter; train one with dsd-train")
        refuse_existing("output_dir", cfg.output_dir)


@dataclass
class PublishSettings:
    """Publish curated pairs as a data set with a card that says how they were made and what was rejected."""

    examples: ClassVar[tuple[str, ...]] = (
        "dsd-publish pairs=outputs/paper/pairs repo=user/name",
        "dsd-publish pairs=outputs/paper/pairs repo=user/name private=true license=apache-2.0",
        "dsd-publish pairs=outputs/demo/pairs local=folder",
    )
    closing: ClassVar[str] = CLOSING

    pairs: str = setting("output_dir of dsd-curate", reads="curation")
    repo: str | None = setting("user/name on the Hugging Face hub; the token is read from HF_TOKEN")
    local: str | None = setting("a folder to write instead, which does not exist yet")
    license: str | None = setting("licence of the pairs, in the hub's names; null: the teacher's, from the manifest")
    private: bool = setting("whether only you can see the data set on the hub")

    @staticmethod
    def check(cfg: Any) -> None:
        """Ask for one place, and refuse a folder that exists."""
        if (cfg.repo is None) == (cfg.local is None):
            raise UserError("give either repo=user/name, or local=folder")
        if cfg.local is not None:
            refuse_existing("local", cfg.local)
        elif not REPO.fullmatch(cfg.repo):
            raise UserError(f"repo={cfg.repo}: user/name is needed, of letters, digits and . _ -")


def refuse_existing(key: str, path: str) -> None:
    """Raise UserError where there is something at `path` already, or where nothing can be written there."""
    if not path.strip():
        raise UserError(f"{key} is empty; name a folder")
    if Path(path).exists():
        raise UserError(f"{key}={path} is there already; choose another folder, or delete it")
    refuse_unwritable(path)
