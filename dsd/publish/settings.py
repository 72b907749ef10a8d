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


class Benchmark(Enum):
    """In whose layout drawn pictures are written, see `dsd.benchmarks.layouts`."""

    dreambench_plus = "dreambench_plus"
    dreambench = "dreambench"
    omnicontext = "omnicontext"
    sconeeval = "sconeeval"


@dataclass
class PublishSettings:
    """Publish an adapter or curated pairs with a card, or write drawn pictures for a benchmark's own scripts."""

    examples: ClassVar[tuple[str, ...]] = (
        "dsd-publish adapter=outputs/paper/train pictures=outputs/paper/student repo=user/name",
        "dsd-publish pairs=outputs/paper/pairs repo=user/name private=true license=apache-2.0",
        "dsd-publish results=outputs/student layout=dreambench_plus local=samples/student",
    )
    closing: ClassVar[str] = CLOSING

    adapter: str | None = setting("output_dir of dsd-train, for a model", reads="train")
    pairs: str | None = setting("output_dir of dsd-curate, for a data set", reads="curation")
    results: str | None = setting("output_dir of dsd-infer, for a benchmark, with layout= and local=", reads="infer")
    layout: Benchmark | None = setting("of results=: dreambench_plus, dreambench, omnicontext or sconeeval")
    pictures: str | None = setting("of an adapter: output_dir of dsd-infer, for examples in the card", reads="infer")
    num_pictures: int = setting("examples in the card", least=1, most=64)
    numbers: str | None = setting("of an adapter: output_dir of dsd-evaluate, for the card", reads="evaluate")
    exports: list[str] = setting("of an adapter: exports beside it, each to:dtype as dsd-export has them")
    repo: str | None = setting("user/name on the Hugging Face hub; the token is read from HF_TOKEN")
    local: str | None = setting("a folder to write instead, which does not exist yet")
    license: str | None = setting(
        "in the hub's names; null: the teacher's or the base's, as the manifest or config says"
    )
    private: bool = setting("whether only you can see it on the hub")

    @staticmethod
    def check(cfg: Any) -> None:
        """Ask for one thing and one place, and refuse a folder that exists."""
        if sum(cfg[name] is not None for name in ("adapter", "pairs", "results")) != 1:
            raise UserError("give one of adapter=folder/of/dsd-train, pairs=folder/of/dsd-curate, results=of/dsd-infer")
        given = [name for name in ("pictures", "numbers", "exports") if cfg[name]]
        if cfg.adapter is None and given:
            raise UserError(f"{given[0]}= belongs to adapter=")
        if (cfg.results is None) != (cfg.layout is None) or (cfg.results is not None and cfg.local is None):
            raise UserError("results=, layout= and local= go together, such as layout=dreambench_plus local=samples/me")
        for one in cfg.exports:
            split_export(one)
        if (cfg.repo is None) == (cfg.local is None):
            raise UserError("give either repo=user/name, or local=folder")
        if cfg.local is not None:
            refuse_existing("local", cfg.local)
        elif not REPO.fullmatch(cfg.repo):
            raise UserError(f"repo={cfg.repo}: user/name is needed, of letters, digits and . _ -")


def split_export(text: str) -> tuple[str, str]:
    """Read "comfyui:fp8". UserError where dsd-export has no such format, and for whole pipelines."""
    to, _, dtype = text.partition(":")
    known = [name for name in Format.__members__ if name != "diffusers"]
    if to not in known or dtype not in Numbers.__members__:
        raise UserError(
            f"exports={text}: to:dtype is needed, of {', '.join(known)} and {', '.join(Numbers.__members__)}; a whole "
            "pipeline (to=diffusers) goes into a repository of its own, by its push_to_hub"
        )
    return to, dtype


def refuse_existing(key: str, path: str) -> None:
    """Raise UserError where there is something at `path` already, or where nothing can be written there."""
    if not path.strip():
        raise UserError(f"{key} is empty; name a folder")
    if Path(path).exists():
        raise UserError(f"{key}={path} is there already; choose another folder, or delete it")
    refuse_unwritable(path)
