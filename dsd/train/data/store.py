"""Store tensors of one shape by key, memory-mapped. What is written never changes.

A store is a folder of segments: `1f3a....npy` (rows, *shape) beside `1f3a....json` (their keys and checksums), which is
written last. Each writer adds segments of its own, so that several can write at once.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from dsd.errors import UserError
from dsd.io.files import atomic, write_json

AS_STORED = {torch.bfloat16: torch.int16}  # NumPy has no bfloat16; the bits are the same


class Store:
    """Rows of one shape and dtype by key."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.folder, self.dtype = folder, dtype
        self.place: dict[str, tuple[str, int, int]] = {}  # key -> segment, row, checksum
        self.segments: dict[str, np.ndarray] = {}
        self.known: set[str] = set()
        self.verified: set[str] = set()
        self.refresh()

    def refresh(self) -> None:
        """Read the keys of segments that other writers have added."""
        for file in sorted(self.folder.glob("*.json")):
            if file.stem in self.known:
                continue
            self.known.add(file.stem)
            about = json.loads(file.read_text(encoding="utf-8"))
            for row, (key, checksum) in enumerate(zip(about["keys"], about["checksums"], strict=True)):
                self.place[key] = file.stem, row, checksum

    def __contains__(self, key: str) -> bool:
        return key in self.place

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Write tensors of one shape, by key, as a segment."""
        name = uuid4().hex
        stacked = torch.stack([tensor.cpu() for tensor in rows.values()]).to(self.dtype).contiguous()
        array = stacked.view(AS_STORED.get(self.dtype, self.dtype)).numpy()
        with atomic(self.folder / f"{name}.npy") as temporary:
            np.save(temporary, array)
        write_json(
            self.folder / f"{name}.json",
            {"keys": list(rows), "checksums": [zlib.crc32(row.tobytes()) for row in array]},
        )
        self.refresh()

    def rows(self, keys: Sequence[str]) -> Tensor:
        """Read tensors as (len(keys), *shape). Each is checked at its first reading; UserError where it is damaged."""
        return torch.stack([self._row(key) for key in keys])

    def _row(self, key: str) -> Tensor:
        segment, row, checksum = self.place[key]
        file = self.folder / f"{segment}.npy"
        try:
            if segment not in self.segments:
                self.segments[segment] = np.load(file, mmap_mode="r")
            array = np.array(self.segments[segment][row])
        except (OSError, ValueError, IndexError) as error:
            raise UserError(f"{file}: damaged or missing; delete its .json and run the command again") from error
        if key not in self.verified:
            if zlib.crc32(array.tobytes()) != checksum:
                raise UserError(f"{file}: row {row} is damaged; delete it and its .json and run the command again")
            self.verified.add(key)
        return torch.from_numpy(array).view(self.dtype)


def folder_of(cache_dir: str | Path, kind: str, about: Mapping[str, Any], digest: str) -> Path:
    """Name the folder of a store; write into it what its tensors depend on: encoder, preprocessing, dtype."""
    folder = Path(cache_dir) / f"{kind}-{digest}"
    if not (folder / "about.yaml").exists():
        with atomic(folder / "about.yaml") as temporary:
            temporary.write_text("".join(f"{name}: {value}\n" for name, value in about.items()), encoding="utf-8")
    return folder
