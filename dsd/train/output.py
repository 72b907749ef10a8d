"""Write the trained student: one adapter file, or the folder of a transformer that was trained as a whole."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from dsd.io.files import atomic
from dsd.models.adapter import adapter_state, stacked
from dsd.models.adapter_file import ADAPTER, read_adapter, save_adapter
from dsd.models.conditional import SHARD


def save_student(
    folder: Path,
    trained: Mapping[str, Tensor],
    student: Any,
    metadata: dict[str, Any],
    init: str | None = None,
) -> None:
    """Write tensors by their parameters' names; `metadata` is the adapter's, `init` the adapter that it began from."""
    if metadata["lora"]["rank"]:
        state, lora = adapter_state(trained), metadata["lora"]
        if init is not None:  # the file holds both stages
            before, told = read_adapter(init)
            state, lora = stacked(before, told["lora"], state, lora)
        save_adapter(folder / ADAPTER, state, {**metadata, "lora": lora})
        return
    path = folder / "transformer"
    with atomic(path) as temporary:
        temporary.mkdir()
        save_torch_state_dict(joined(dict(trained)), temporary, filename_pattern=SHARD)
        student.save_config(temporary)
        if path.exists():  # a surpassed best; if the process is killed here, it is written again on resume
            shutil.rmtree(path)


def joined(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join the two halves of a wide embedder to the one Linear that inference has."""
    if "x_embedder.c_embedder.weight" not in tensors:
        return tensors
    parts = {name: tensors.pop(f"x_embedder.{name}") for name in
             ("x_embedder.weight", "c_embedder.weight", "x_embedder.bias", "c_embedder.bias")}  # fmt: skip
    tensors["x_embedder.weight"] = torch.cat([parts["x_embedder.weight"], parts["c_embedder.weight"]], dim=1)
    tensors["x_embedder.bias"] = parts["x_embedder.bias"] + parts["c_embedder.bias"]
    return tensors
