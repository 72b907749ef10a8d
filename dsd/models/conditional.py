"""The conditional transformer: diffusers' FLUX with a widened input.

The released code computes `x_embedder(x) + c_embedder(c)`. That is one Linear on `cat([x, c])`, so the conditional
model *is* `FluxTransformer2DModel(in_channels=2C, out_channels=C)`, the layout of diffusers' Flux control pipelines:
hooks, attention backends, compilation, quantisers and loaders work on it with no transformer class of ours.

In training the two halves are separate Linear layers (`SplitEmbedder`): the base half stays frozen, the condition half
trains in full. Two ordinary Linear layers work with every sharding strategy; masks on gradients do not.

Shapes: B batch, L packed image tokens, C packed channels, D inner dimension.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from dsd.errors import UserError
from dsd.models.tensors import read_tensors

SHARD = "diffusion_pytorch_model{suffix}.safetensors"  # diffusers' name of a transformer's weights
RELEASED_CLASS = "FluxTransformer2DConditionalModel"


class SplitEmbedder(nn.Module):
    """`x_embedder(x) + c_embedder(c)` of `cat([x, c])`: (B, L, 2C) -> (B, L, D)."""

    def __init__(self, x_embedder: nn.Linear, c_embedder: nn.Linear) -> None:
        super().__init__()
        self.x_embedder, self.c_embedder = x_embedder, c_embedder

    def forward(self, tokens: Tensor) -> Tensor:
        x, c = tokens.chunk(2, dim=-1)
        embedded: Tensor = self.x_embedder(x) + self.c_embedder(c)
        return embedded


def is_conditional(transformer: FluxTransformer2DModel) -> bool:
    """Tell whether the input holds condition latents beside the noisy ones."""
    return bool(transformer.config["in_channels"] == 2 * transformer.out_channels)


def split(transformer: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """Widen a base transformer in place, for training: add a zero-initialised condition embedder, keep the rest."""
    x_embedder = transformer.x_embedder
    c_embedder = nn.Linear(x_embedder.in_features, x_embedder.out_features).to(x_embedder.weight)
    nn.init.zeros_(c_embedder.weight)
    nn.init.zeros_(c_embedder.bias)
    _set_embedder(transformer, SplitEmbedder(x_embedder, c_embedder), x_embedder.in_features)
    return transformer


def join(transformer: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """Undo `split`: merge both embedders into one Linear, which inference runs and saves."""
    embedder = transformer.x_embedder
    if isinstance(embedder, SplitEmbedder):
        set_joint_embedder(transformer, embedder.x_embedder, embedder.c_embedder.weight, embedder.c_embedder.bias)
    return transformer


def set_joint_embedder(
    transformer: FluxTransformer2DModel, x_embedder: nn.Linear, c_weight: Tensor, c_bias: Tensor
) -> None:
    """Give the transformer one Linear for `cat([x, c])`: weights (D, C) side by side, biases (D,) added."""
    joint = nn.Linear(2 * x_embedder.in_features, x_embedder.out_features, device="meta")
    weight = torch.cat([x_embedder.weight.data, c_weight.to(x_embedder.weight)], dim=1)
    bias = x_embedder.bias.data + c_bias.to(x_embedder.bias)
    joint.weight, joint.bias = nn.Parameter(weight), nn.Parameter(bias)
    _set_embedder(transformer, joint.requires_grad_(x_embedder.weight.requires_grad), x_embedder.in_features)


def set_plain_embedder(transformer: FluxTransformer2DModel, embedders: Mapping[str, Tensor]) -> FluxTransformer2DModel:
    """Take the condition out of the input again, in place: the base that a released transformer holds."""
    weight, bias = embedders["x_embedder.weight"], embedders["x_embedder.bias"]
    plain = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    plain.weight, plain.bias = (nn.Parameter(t.to(transformer.dtype), requires_grad=False) for t in (weight, bias))
    _set_embedder(transformer, plain, plain.in_features)
    transformer.register_to_config(in_channels=plain.in_features)
    return transformer


def released_embedders(folder: str | Path) -> dict[str, Tensor]:
    """Read `x_embedder` and `c_embedder` of a released transformer, (D, C) and (D,). UserError where one is missing."""
    names = [f"{module}.{kind}" for module in ("x_embedder", "c_embedder") for kind in ("weight", "bias")]
    found = {name: tensor for name, tensor in _tensors(Path(folder)) if name in names}
    if missing := [name for name in names if name not in found]:
        raise UserError(f"{folder}: {missing[0]} is missing; a released transformer has a c_embedder")
    return found


def load_transformer(folder: str | Path, dtype: torch.dtype = torch.float32) -> FluxTransformer2DModel:
    """Load a conditional (or plain) transformer from a folder in diffusers' or in the released layout.

    The released file also holds its LoRA's tensors, which are expected there and ignored;
    `pytorch_lora_weights.safetensors` has them properly. UserError names the folder and what is missing, unknown, or
    not readable.
    """
    folder = Path(folder)
    config = _read_config(folder)
    released = config.pop("_class_name", None) == RELEASED_CLASS
    tensors = dict(_tensors(folder))
    if released:
        tensors = {key: value for key, value in tensors.items() if ".lora_" not in key and "lora_A" not in key}
        try:
            c_weight, c_bias = tensors.pop("c_embedder.weight"), tensors.pop("c_embedder.bias")
        except KeyError as error:
            raise UserError(f"{folder}: {error.args[0]} is missing; a released transformer has a c_embedder") from error
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    with torch.device("meta"):
        # keys of other versions are ignored
        transformer: FluxTransformer2DModel = FluxTransformer2DModel.from_config(config)
    expected = set(transformer.state_dict())
    if missing := sorted(expected - set(tensors)):
        raise UserError(f"{folder}: {len(missing)} tensors are missing, such as {', '.join(missing[:3])}")
    if unknown := sorted(set(tensors) - expected):
        raise UserError(f"{folder}: {len(unknown)} unknown tensors, such as {', '.join(unknown[:3])}")
    try:
        transformer.load_state_dict({key: value.to(dtype) for key, value in tensors.items()}, assign=True)
    except RuntimeError as error:
        raise UserError(f"{folder}: weights do not fit config.json: {str(error).splitlines()[-1].strip()}") from error
    if released:
        set_joint_embedder(transformer, transformer.x_embedder, c_weight, c_bias)
    return transformer.eval()


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'config.json'}: not a readable transformer config ({error})") from error
    return config


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder}: no .safetensors file here; weights are read from safetensors only")
    for file in files:
        yield from read_tensors(file)[0].items()


def _set_embedder(transformer: FluxTransformer2DModel, embedder: nn.Module, channels: int) -> None:
    module: nn.Module = transformer  # whose own type knows a Linear there
    module.x_embedder = embedder
    transformer.register_to_config(in_channels=2 * channels, out_channels=channels)
    transformer.out_channels = channels
