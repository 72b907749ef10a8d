"""The adapter over a model: a wide Linear for the input, and the LoRA of the blocks.

ComfyUI's LoRA loader also widens the input, but only where the weights are loaded whole: of a model that is "loaded
partially" it patches some while they are used, and then no condition arrives. A Linear of our own has no such patch.
"""

import comfy.lora
import comfy.ops
import comfy.sd
import torch
from torch import Tensor

PREFIX = "diffusion_model.img_in"
WIDE = (torch.float16, torch.bfloat16, torch.float32)  # not fp8: the input is too sensitive
WEIGHT, BIAS = f"{PREFIX}.weight", f"{PREFIX}.bias"


def with_adapter(model, state: dict[str, Tensor], strength: float):
    """Clone a model patcher and put an adapter on it; `state` is a file of `dsd-export to=comfyui_lora`."""
    if f"{PREFIX}.reshape_weight" not in state:
        raise ValueError(
            "DSD Adapter: the file has no condition embedder; make it by dsd-export to=comfyui_lora. A student with "
            "reference tokens is an ordinary LoRA: use LoraLoaderModelOnly"
        )
    inputs = {name: tensor for name, tensor in state.items() if name.startswith(f"{PREFIX}.")}
    others = {name: tensor for name, tensor in state.items() if name not in inputs}
    patched, _ = comfy.sd.load_lora_for_models(model, None, others, strength, 0)
    patched.add_object_patch(PREFIX, wide_linear(patched, inputs, strength))
    for name in (WEIGHT, BIAS):
        patched.patches.pop(name, None)  # they are in the wide Linear already
    return patched


def wide_linear(model, inputs: dict[str, Tensor], strength: float):
    """Make the input layer: the base's own weights, with the LoRAs loaded so far, beside the condition embedder's."""
    weight, bias = (plain(model, name) for name in (WEIGHT, BIAS))
    up, down = (inputs[f"{PREFIX}.lora_{part}.weight"].float() for part in ("up", "down"))
    if up.shape[0] != weight.shape[0] or down.shape[1] != 2 * weight.shape[1]:
        raise ValueError(
            f"DSD Adapter: the adapter widens an input of {up.shape[0]} x {down.shape[1] // 2}, the model's is "
            f"{weight.shape[0]} x {weight.shape[1]}; load a FLUX.1-dev checkpoint that is not widened yet"
        )
    wide = torch.nn.functional.pad(weight, (0, weight.shape[1])) + strength * (up @ down)
    kept = model.model_dtype() if model.model_dtype() in WIDE else torch.bfloat16
    made = comfy.ops.manual_cast.Linear(wide.shape[1], wide.shape[0], dtype=kept, device=model.offload_device)
    made.weight = torch.nn.Parameter(wide.to(kept), requires_grad=False)
    made.bias = torch.nn.Parameter((bias + strength * inputs[f"{PREFIX}.diff_b"].float()).to(kept), requires_grad=False)
    return made


def plain(model, name: str) -> Tensor:
    """Give a weight of the model's own input in fp32 on the CPU, with the patches on it, loaded or not."""
    kind = name.rsplit(".", 1)[1]
    if PREFIX in model.object_patches_backup:  # a wide Linear stands in the model now; the original is kept there
        weight = getattr(model.object_patches_backup[PREFIX], kind)
    elif name in model.backup:  # the model is loaded, and a LoRA is on it
        weight = model.backup[name].weight
    else:
        weight = getattr(model.get_model_object(PREFIX), kind)
    if type(weight).__name__ == "QuantizedTensor":
        weight = weight.dequantize()
    weight = weight.detach().to("cpu", torch.float32, copy=True)
    return comfy.lora.calculate_weight(model.patches[name], weight, name) if name in model.patches else weight
