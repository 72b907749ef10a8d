"""Read and write safetensors files, the only files that weights are read from."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dsd.errors import UserError
from dsd.io.inputs import regular_file


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file's tensors and metadata. UserError where it is no whole safetensors file."""
    file = regular_file(path)
    if file.suffix != ".safetensors":
        raise UserError(f"{path}: weights are read from .safetensors files only; convert it first")
    try:
        with safe_open(file, "pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); download or copy it again") from error


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors with metadata. Equal content gives equal bytes: safetensors itself leaves the header unordered."""
    save_file(dict(tensors), path, metadata={"format": "pt", **(metadata or {})})
    with open(path, "r+b") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        ordered = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        if len(ordered) <= size:
            file.seek(8)
            file.write(ordered.ljust(size))


def refuse_not_finite(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError where a tensor holds NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise UserError(f"{path}: {name} holds NaN or infinity; the file is damaged, or its training diverged")
