"""Make a transformer a student: build one for training, load a trained one, stack LoRAs of others on it."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import set_peft_model_state_dict
from safetensors import SafetensorError
from torch import Tensor, nn

from dsd.errors import UserError
from dsd.models.adapter_file import lora_linears, lora_modules, read_adapter, refuse_misfit
from dsd.models.conditional import SplitEmbedder, set_joint_embedder
from dsd.models.families import Family
from dsd.models.families.flux1 import FAMILY as FLUX1
from dsd.models.kinds import student_from
from dsd.models.student import Student
from dsd.models.tensors import read_tensors, refuse_not_finite

log = logging.getLogger(__name__)
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl")  # a name with such an ending is a file, not a hub id
NAME = "dsd"  # the LoRA's name within peft, when it is not fused


def build_student(
    transformer: Any,
    student: Student,
    rank: int,
    alpha: float,
    targets: str = "attention",
    use_rslora: bool = False,
    use_dora: bool = False,
    seed: int = 0,
    init: str | Path | None = None,
) -> Any:
    """Make a base transformer trainable as a student, in place: base frozen, LoRA added, condition embedder trained.

    At step 0 it computes what the base computes: LoRA's B and the condition embedder begin at zero. Rank 0 means no
    LoRA: the whole transformer is trained. `init` is an adapter that is merged first; then the LoRA alone is trained.
    """
    transformer.requires_grad_(rank == 0)
    if init is not None:
        load_adapter(transformer, init, fuse=True, family=student.family)
        transformer.requires_grad_(rank == 0)
    else:
        student.prepare(transformer)
    if rank == 0:
        return transformer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        modules = sorted(lora_linears(transformer, student.family, targets))
        number = cast(int, alpha)  # peft multiplies by it, so that it need not be whole
        transformer.add_adapter(
            LoraConfig(r=rank, lora_alpha=number, target_modules=modules, use_rslora=use_rslora, use_dora=use_dora)
        )
    if isinstance(embedder := getattr(transformer, "x_embedder", None), SplitEmbedder):
        embedder.c_embedder.requires_grad_(True)
    return transformer


def refuse_other_kind(path: str | Path, student: Student) -> None:
    """Raise UserError where an adapter was made for another kind of student than the one that goes on from it."""
    there = read_adapter(path)[1]["student"]
    for name, value in student.about().items():
        if there.get(name) != value:
            raise UserError(
                f"init_adapter={path}: made with student.{name}={there.get(name)}, this student has {value}; they must "
                "be the same"
            )


def trainable_parameters(transformer: nn.Module) -> dict[str, nn.Parameter]:
    """List what is trained by name: LoRA and condition embedder, or everything."""
    return {name: p for name, p in transformer.named_parameters() if p.requires_grad}


def adapter_state(trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename whole trainable tensors from their parameters' names to those of the adapter file."""
    embedder = "x_embedder.c_embedder."
    return {
        name.removeprefix("x_embedder.")
        if name.startswith(embedder)
        else "transformer."
        + name.replace(".lora_magnitude_vector.default.weight", ".lora_magnitude_vector").replace(
            ".default.", "."
        ): tensor
        for name, tensor in trained.items()
    }


def stacked(
    first: Mapping[str, Tensor],
    first_lora: Mapping[str, Any],
    second: Mapping[str, Tensor],
    second_lora: Mapping[str, Any],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Join two LoRAs into one that does both, exactly: ranks add up, the Bs carry the scales. Also its settings."""
    scales = [scale_of(lora) for lora in (first_lora, second_lora)]
    found = {name: tensor for name, tensor in first.items() if "lora_" not in name}
    for name in sorted({n for state in (first, second) for n in state if "lora_" in n}):
        parts = [(state[name], scale) for state, scale in zip((first, second), scales, strict=True) if name in state]
        is_b = ".lora_B." in name
        tensors = [tensor.float() * (scale if is_b else 1.0) for tensor, scale in parts]
        found[name] = torch.cat(tensors, dim=1 if is_b else 0)
    rank = first_lora["rank"] + second_lora["rank"]
    settings = {"rank": rank, "alpha": rank, "targets": first_lora["targets"], "use_rslora": False, "use_dora": False}
    return found, settings


def scale_of(lora: Mapping[str, Any]) -> float:
    """Compute the factor by which peft multiplies BA."""
    if lora["use_dora"]:
        raise UserError("a DoRA cannot be stacked with another; use lora.use_dora=false in both stages")
    scale: float = lora["alpha"] / (lora["rank"] ** 0.5 if lora["use_rslora"] else lora["rank"])
    return scale


def load_adapter(
    transformer: Any, path: str | Path, fuse: bool = True, family: Family = FLUX1, twin: bool = False
) -> dict[str, Any]:
    """Make a base transformer of a family a student, in place; return the file's metadata.

    `fuse` merges W + BA once, which is exact to rounding and faster; otherwise the LoRA stays a peft adapter named
    "dsd". UserError where the adapter was made for another base. A `twin` is a distilled model of the base's shape.
    """
    state, metadata = read_adapter(path)
    about = metadata["student"]
    if about["family"] != family.name:
        raise UserError(
            f"{path}: it was made for the family {about['family']}, and this base is {family.name}; give another model="
        )
    here, there = fingerprint(transformer, family), metadata["base"]["fingerprint"]
    if here != there and twin:
        log.info(
            "%s was trained on %s; this base is distilled to few steps, which the adapter leaves as they are",
            path, metadata["base"]["path"],
        )  # fmt: skip
    elif here != there:
        raise UserError(
            f"{path}: made for another base (its {metadata['base']['path']} has fingerprint {there}, this one {here}); "
            "give the model= that it was trained on"
        )
    refuse_misfit(path, state, metadata, transformer)
    embedder = [state.pop(name) for name in ("c_embedder.weight", "c_embedder.bias") if name in state]
    if not embedder:
        student_from(about).prepare(transformer)
    config = LoraConfig(
        r=metadata["lora"]["rank"],
        lora_alpha=metadata["lora"]["alpha"],
        target_modules=sorted(lora_modules(state)),
        use_rslora=metadata["lora"]["use_rslora"],
        use_dora=metadata["lora"]["use_dora"],
    )
    transformer.add_adapter(config, adapter_name=NAME)
    if fuse:  # peft makes them in the base's dtype, which would round the file's numbers
        for layer in lora_layers(transformer):
            for name in layer.adapter_layer_names:
                getattr(layer, name).float()
    lora = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
    set_peft_model_state_dict(transformer, lora, adapter_name=NAME)
    if fuse:
        merge(transformer, [NAME])
        transformer.unload_lora()
    if embedder:
        set_joint_embedder(transformer, transformer.x_embedder, *embedder)
    return metadata


def load_released_lora(transformer: FluxTransformer2DModel, file: Path, fuse: bool = True) -> None:
    """Load `pytorch_lora_weights.safetensors` over a released transformer, in place."""
    state, _ = read_tensors(file)
    refuse_not_finite(file, state)
    try:
        transformer.load_lora_adapter(state, prefix="transformer", adapter_name=NAME)
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{file}: not a LoRA of this transformer: {_first_line(error)}") from error
    if NAME not in getattr(transformer, "peft_config", {}):
        raise UserError(f"{file}: no LoRA tensors of this transformer in it")
    if fuse:
        merge(transformer, [NAME])
        transformer.unload_lora()


def add_style_loras(pipeline: FluxPipeline, loras: Mapping[str, float], fuse: bool = True) -> None:
    """Stack LoRAs that others trained on the base (files, folders or hub ids, each with its weight) on the student."""
    names = {f"style_{number}": path for number, path in enumerate(loras)}
    for name, path in names.items():
        where = {"weight_name": Path(path).name} if style_tensors(path) is not None else {}
        try:
            pipeline.load_lora_weights(
                str(Path(path).parent) if where else path, adapter_name=name, use_safetensors=True, **where
            )
        except (RuntimeError, ValueError, KeyError, OSError, SafetensorError) as error:
            raise UserError(f"{path}: not a LoRA of this base: {_first_line(error)}") from error
        if name not in getattr(pipeline.transformer, "peft_config", {}):
            raise UserError(f"{path}: no LoRA tensors of this base's transformer in it")
    student = {NAME: 1.0} if NAME in pipeline.transformer.peft_config else {}
    weights = student | dict(zip(names, map(float, loras.values()), strict=True))
    pipeline.set_adapters(list(weights), list(weights.values()))
    if fuse:
        for part in filter(None, (getattr(pipeline, name, None) for name in pipeline._lora_loadable_modules)):
            merge(part, list(weights))
        pipeline.unload_lora_weights()


def lora_layers(module: nn.Module) -> list[Any]:
    """List the layers of a module that have a LoRA."""
    return [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]


def merge(module: nn.Module, names: Sequence[str]) -> None:
    """Merge LoRAs into the weights, matrix by matrix in fp32, and round once to the dtype that each weight had.

    Weights of few bits are merged by peft's own means.
    """
    for layer in lora_layers(module):
        base = layer.get_base_layer()
        plain, dtype = type(base.weight) is nn.Parameter and base.weight.is_floating_point(), base.weight.dtype
        if plain:
            layer.float()
        layer.merge(adapter_names=list(names))
        if plain:
            base.to(dtype)


def style_tensors(path: str) -> dict[str, Tensor] | None:
    """Read a style LoRA that is a file; None for a folder or a hub id. UserError unless it is whole safetensors."""
    if not path:
        raise UserError("style_loras: an empty name; give a file or a hub id")
    if Path(path).is_dir() or not (Path(path).suffix in WEIGHTS or Path(path).exists()):
        return None
    tensors, _ = read_tensors(path)
    refuse_not_finite(path, tensors)
    return tensors


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "size mismatch" in line), lines[0] if lines else repr(error))[:200]


def describe(transformer: Any, path: str, family: Family = FLUX1) -> dict[str, str]:
    """Describe the base for an adapter's metadata. Call it before the student is built."""
    return {"path": path, "fingerprint": fingerprint(transformer, family)}


def fingerprint(transformer: Any, family: Family = FLUX1) -> str:
    """Name a base by 12 hex digits of its input and output layers in bf16, whatever dtype it was loaded in."""
    raw = b"".join(
        w.detach().to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes()
        for w in family.edges(transformer)
    )
    return hashlib.sha256(raw).hexdigest()[:12]
