"""Store tensors of one shape by key, memory-mapped. What is written never changes.

A store is a folder of segments: `1f3a....npy` (rows, *shape) beside `1f3a....json` (their keys and checksums), which is
written last. Each writer adds segments of its own, so that several can write at once.
"""

import logging
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from dsd.errors import UserError
from dsd.io.files import atomic, write_json
from dsd.io.inputs import first_problem, read_text, regular_file

log = logging.getLogger(__name__)
AS_STORED = {torch.bfloat16: torch.int16}  # NumPy has no bfloat16; the bits are the same


class Segment(BaseModel):
    """What stands beside the rows of a segment."""

    keys: list[str]
    checksums: list[int]


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
        """Read the keys of segments that other writers have added; ignore a damaged segment, and say so."""
        for file in sorted(self.folder.glob("*.json")):
            if file.stem not in self.known:
                self._read(file)

    def _read(self, file: Path) -> None:
        """Read the keys of a segment."""
        self.known.add(file.stem)
        try:
            about = Segment.model_validate_json(read_text(file))
            rows = list(enumerate(zip(about.keys, about.checksums, strict=True)))
            self.segments[file.stem] = self._open(file.with_suffix(".npy"), len(rows))
        except (UserError, EOFError, OSError, ValueError) as error:  # also pydantic's
            reason = first_problem(error) if isinstance(error, ValidationError) else error
            log.warning("train: %s: damaged (%s); what it held is encoded again", file, reason)
            return
        for row, (key, checksum) in rows:
            self.place[key] = file.stem, row, checksum

    def _open(self, file: Path, num: int) -> np.ndarray:
        """Map the rows of a segment. ValueError where they are not as many as wanted, or of another dtype."""
        array: np.ndarray = np.load(regular_file(file), mmap_mode="r", allow_pickle=False)
        wanted = torch.empty(0, dtype=AS_STORED.get(self.dtype, self.dtype)).numpy().dtype
        if array.ndim < 1 or len(array) != num or array.dtype != wanted:
            raise ValueError(f"{array.dtype} {array.shape} instead of {num} rows of {wanted}")
        return array

    def __contains__(self, key: str) -> bool:
        return key in self.place

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Write tensors of one shape, by key, as a segment."""
        name = uuid4().hex
        stacked = torch.stack([tensor.cpu() for tensor in rows.values()]).to(self.dtype).contiguous()
        array = stacked.view(AS_STORED.get(self.dtype, self.dtype)).numpy()
        with atomic(self.folder / f"{name}.npy") as temporary:
            np.save(temporary, array)
        about = self.folder / f"{name}.json"
        write_json(about, {"keys": list(rows), "checksums": [zlib.crc32(row.tobytes()) for row in array]})
        self._read(about)  # this one alone: listing the folder for every segment takes quadratic time

    def rows(self, keys: Sequence[str]) -> Tensor:
        """Read tensors as (len(keys), *shape). Each is checked at its first reading; UserError where it is damaged."""
        return torch.stack([self._row(key) for key in keys])

    def _row(self, key: str) -> Tensor:
        if key not in self.place:
            raise UserError(f"{self.folder}: a segment is damaged; run the same command again to encode it again")
        segment, row, checksum = self.place[key]
        file = self.folder / f"{segment}.npy"
        array = np.array(self.segments[segment][row])
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
