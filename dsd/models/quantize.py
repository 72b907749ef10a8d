"""Store weights in fewer bits, by torchao, bitsandbytes or gguf.

Call it after every LoRA is fused. Only the matrices of repeated blocks change: embedders and the last layer are small
and sensitive. fp8 also leaves the modulations of the norms (AdaLN) as they are: they see one vector a sample, so that
fp8 gains no time there. They are a quarter of FLUX.1's weights; the other kinds store them in few bits, too.
"""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import BitsAndBytesConfig, DiffusionPipeline, GGUFQuantizationConfig
from torch import nn

from dsd.errors import UserError
from dsd.models.settings import GGUF_KINDS

BLOCKS = r"(^|[._])(transformer_blocks|block|layers|refiner)\.\d"  # FLUX, T5, Z-Image and Qwen3, Z-Image's refiners
MODULATIONS = r"\.(norm\w*\.linear|adaLN_modulation\.\d+|(img|txt)_mod\.\d+)$"  # FLUX.1 and SD3, Z-Image, Qwen-Image
FP8_CAPABILITY = (8, 9)  # of the first NVIDIA GPUs with fp8 matmuls


def quantize(
    pipeline: Any, device: torch.device, kind: str, parts: Sequence[str] = ("transformer",), gguf_kind: str = "Q8_0"
) -> None:
    """Quantise a pipeline in place; `kind` is a member of `dsd.models.settings.Quantization`."""
    if kind == "nf4":
        nf4(pipeline, device)
    elif kind == "gguf":
        gguf(pipeline, device, gguf_kind)
    elif kind != "none":
        {"int8": int8, "fp8": fp8, "fp8_weights": fp8_weights}[kind](pipeline, device, parts)


def int8(pipeline: DiffusionPipeline, device: torch.device, parts: Sequence[str] = ("transformer",)) -> None:
    """Store weights as 8-bit integers with a scale a row (torchao); matmuls keep the module's dtype."""
    _torchao(pipeline, device, parts, "Int8WeightOnlyConfig")


def fp8(pipeline: DiffusionPipeline, device: torch.device, parts: Sequence[str] = ("transformer",)) -> None:
    """Use row-wise fp8 weights and activations where the GPU multiplies fp8, elsewhere fp8 weights alone (torchao)."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= FP8_CAPABILITY:
        _torchao(pipeline, device, parts, "Float8DynamicActivationFloat8WeightConfig", granularity="PerRow")
    else:
        fp8_weights(pipeline, device, parts)


def fp8_weights(pipeline: DiffusionPipeline, device: torch.device, parts: Sequence[str] = ("transformer",)) -> None:
    """Store weights in fp8 (torchao); matmuls keep the module's dtype, and gradients pass through."""
    _torchao(pipeline, device, parts, "Float8WeightOnlyConfig")


def nf4(pipeline: DiffusionPipeline, device: torch.device) -> None:
    """Store the transformer in 4-bit normal floats (bitsandbytes, as in QLoRA).

    It goes through a temporary folder of the transformer's size (FLUX.1 in bf16: 24 GB), because diffusers quantises by
    bitsandbytes only while it loads, and what is quantised here has its LoRAs merged already.
    """
    transformer = pipeline.transformer
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=transformer.dtype,
        llm_int8_skip_modules=outside_blocks(transformer),
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="dsd-merged-") as folder:
        transformer.save_pretrained(folder)
        pipeline.transformer = type(transformer).from_pretrained(
            folder, quantization_config=config, torch_dtype=transformer.dtype
        )


def gguf(pipeline: DiffusionPipeline, device: torch.device, kind: str = "Q8_0") -> None:
    """Store the transformer in llama.cpp's blocks of 32 weights with a scale each; `kind` is one of `GGUF_KINDS`."""
    transformer = pipeline.transformer
    with tempfile.TemporaryDirectory(prefix="dsd-merged-") as folder:
        file = Path(folder) / "transformer.gguf"
        write_gguf(transformer, file, kind)
        transformer.save_config(folder)
        pipeline.transformer = type(transformer).from_single_file(
            str(file),
            config=folder,
            quantization_config=GGUFQuantizationConfig(compute_dtype=transformer.dtype),
            torch_dtype=transformer.dtype,
        )


def write_gguf(module: nn.Module, file: Path, kind: str = "Q8_0") -> None:
    """Write a module's weights as a GGUF file with diffusers' names."""
    try:
        from gguf import GGMLQuantizationType, GGUFWriter, quants
    except ImportError as error:
        raise UserError("quantization=gguf needs the package gguf: pip install gguf") from error
    if kind not in GGUF_KINDS:
        raise UserError(f"gguf_kind={kind!r} cannot be written; choose one of {', '.join(GGUF_KINDS)}")
    coarse, exact = GGMLQuantizationType[kind], GGMLQuantizationType.F32
    writer = GGUFWriter(file, "flux")
    blocks = {f"{name}.weight" for name, child in module.named_modules() if in_blocks(child, name)}
    for name, tensor in module.state_dict().items():
        array = tensor.detach().float().cpu().numpy()
        chosen = coarse if name in blocks and array.shape[1] % 32 == 0 else exact
        writer.add_tensor(name, quants.quantize(array, chosen), raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def in_blocks(module: nn.Module, name: str) -> bool:
    """Tell whether a module is a matrix of the repeated blocks of a transformer or of a text encoder."""
    return isinstance(module, nn.Linear) and re.search(BLOCKS, name) is not None


def in_blocks_unmodulated(module: nn.Module, name: str) -> bool:
    """Tell whether a module is such a matrix and not a norm's modulation."""
    return in_blocks(module, name) and re.search(MODULATIONS, name) is None


def outside_blocks(module: nn.Module) -> list[str]:
    """List the Linear layers that stay as they are: embedders and the last layer."""
    return [name for name, part in module.named_modules() if isinstance(part, nn.Linear) and not in_blocks(part, name)]


def _torchao(
    pipeline: DiffusionPipeline, device: torch.device, parts: Sequence[str], config: str, **options: str
) -> None:
    """Quantise in place, matrix by matrix, so that the device never holds a whole part in full precision."""
    try:
        from torchao import quantization
    except ImportError as error:
        raise UserError("quantization=int8 and fp8 need the package torchao: pip install torchao") from error
    settings = getattr(quantization, config)(**{name: getattr(quantization, kind)() for name, kind in options.items()})
    chosen = in_blocks_unmodulated if config.startswith("Float8") else in_blocks
    for part in parts:
        if not isinstance(module := pipeline.components.get(part), nn.Module):
            raise UserError(f"quantized_parts: {part} is no part of the pipeline; its parts: {_modules(pipeline)}")
        quantization.quantize_(module, settings, filter_fn=chosen, device=device)


def _modules(pipeline: DiffusionPipeline) -> str:
    return ", ".join(name for name, part in pipeline.components.items() if isinstance(part, nn.Module))
