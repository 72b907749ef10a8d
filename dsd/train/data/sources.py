"""Read pairs by position: from dsd-curate, from any data set with such columns, with negatives for preferences.

A picture stays the bytes of its file until it is opened. Their hash names what is encoded from them, so that an edited
picture is encoded again and nothing else is.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from datasets import Dataset, IterableDataset, load_dataset
from datasets import Image as ImageFeature
from datasets.exceptions import DatasetGenerationError
from PIL import Image

from dsd.errors import UserError
from dsd.runs.manifest import read_manifest
from dsd.runs.shards import read_shards

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Picture:
    """The bytes of an image file, and the part of it that is meant."""

    data: bytes
    box: Box | None = None  # left, top, right, bottom

    @cached_property
    def key(self) -> str:
        """Name the picture by 20 hex digits of its content."""
        return hashlib.sha256(self.data + repr(self.box).encode()).hexdigest()[:20]

    def open(self) -> Image.Image:
        """Decode the picture."""
        image = Image.open(BytesIO(self.data))
        image.load()
        return image.crop(self.box) if self.box else image


@dataclass(frozen=True)
class RawPair:
    """A pair as its source stores it."""

    reference: Picture
    target: Picture
    description: str  # of the target
    instruction: str  # what to do with the reference; the description where a set has none
    negative: Picture | None = None  # a worse target, for training on preferences


class PairSource(Protocol):
    """Pairs by position. `fingerprint` changes when the pairs do; it is known without reading pictures."""

    fingerprint: str

    def __len__(self) -> int: ...

    def block(self, positions: range) -> Iterator[RawPair]:
        """Read the pairs at consecutive positions."""
        ...


class Columns:
    """A data set with a column for each part of a pair; the defaults suit primecai/dsd_data and dsd-curate."""

    def __init__(
        self,
        rows: Dataset | IterableDataset,
        where: str,
        image: str = "image",
        conditioning: str = "conditioning",
        caption: str = "caption",
        instruction: str | None = "instruction",
    ) -> None:
        wanted = [image, conditioning, caption]
        if missing := [name for name in wanted if name not in rows.column_names]:
            raise UserError(f"{where}: no column {missing[0]!r}; its columns: {', '.join(rows.column_names)}; map them")
        if isinstance(rows, Dataset) and not len(rows):
            raise UserError(f"{where}: no rows in it")
        second = instruction if instruction is not None and instruction in rows.column_names else caption
        self.names = (*wanted, second)
        for name in (image, conditioning):
            rows = rows.cast_column(name, ImageFeature(decode=False))
        self.rows = rows.select_columns(list(dict.fromkeys(self.names)))
        self.fingerprint = digest(self.names, files_of(rows) if isinstance(rows, Dataset) else [])

    def __len__(self) -> int:
        return len(self.rows)

    def block(self, positions: range) -> Iterator[RawPair]:
        for row in self._rows(positions):
            target, reference, description, instruction = (row[name] for name in self.names)
            pictures = Picture(contents(reference)), Picture(contents(target))
            yield RawPair(*pictures, description, instruction or description)

    def _rows(self, positions: range) -> Iterator[dict[str, Any]]:
        return iter(self.rows.select(positions))


class Streamed(Columns):
    """The same, read as a stream: for sets that are too large to download. What is encoded is kept in the cache."""

    def __init__(self, path: str, split: str, num: int | None, **names: str) -> None:
        rows = load_dataset(path, split=split, streaming=True)
        about = rows.info.splits
        known = about[split].num_examples if about and split in about else None
        self.num = min(num or known or 0, known or num or 0)
        if not self.num:
            raise UserError(f"data.path={path}: the set does not say how many rows it has; give data.num=")
        super().__init__(rows, path, **names)
        self.fingerprint = digest(path, split, self.num, self.names)

    def __len__(self) -> int:
        return self.num

    def _rows(self, positions: range) -> Iterator[dict[str, Any]]:
        return iter(self.rows.skip(positions.start).take(len(positions)))


def curated(path: str) -> PairSource:
    """Read the pairs of dsd-curate. UserError where the folder is missing, unfinished or holds no pair."""
    source = read_manifest(path, "curation")
    if not source["counts"]["pairs"]:
        raise UserError(f"pairs={path}: it holds no pair; loosen the selection of dsd-curate")
    pairs = Columns(read_shards(path, "pairs"), path)
    pairs.fingerprint = hashlib.sha256(json.dumps(source["files"], sort_keys=True).encode()).hexdigest()
    return pairs


class Preferences:
    """Pairs of dsd-curate with the negative that `dsd-infer jobs=negatives` drew of each; others are left out."""

    def __init__(self, path: str, negatives: str) -> None:
        self.pairs = curated(path)
        source, drawn = read_manifest(negatives, "infer"), read_shards(negatives, "results")
        self.negatives = drawn.cast_column("image", ImageFeature(decode=False)).select_columns(["job", "image"])
        places = {job: place for place, job in enumerate(drawn["job"])}
        self.known = [(n, places[f"pair-{n:08d}"]) for n in range(len(self.pairs)) if f"pair-{n:08d}" in places]
        if not self.known:
            raise UserError(f"data.negatives={negatives}: no negatives of pairs={path}; run dsd-infer jobs=negatives")
        told = json.dumps([self.pairs.fingerprint, source["files"]], sort_keys=True)
        self.fingerprint = hashlib.sha256(told.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.known)

    def block(self, positions: range) -> Iterator[RawPair]:
        for position in positions:
            number, place = self.known[position]
            (pair,) = self.pairs.block(range(number, number + 1))
            yield replace(pair, negative=Picture(contents(self.negatives[place]["image"])))


def columns(
    path: str, split: str = "train", num: int | None = None, streaming: bool = False, **names: str
) -> PairSource:
    """Read a data set of the hub, a folder of Parquet files, or one file; `num` takes its first rows."""
    return Streamed(path, split, num, **names) if streaming else Columns(rows_of(path, split, num), path, **names)


def rows_of(path: str, split: str, num: int | None = None) -> Dataset:
    """Read any set that `datasets` knows. UserError says why it cannot be read."""
    try:
        place = Path(path)
        if place.suffix in (".parquet", ".json", ".jsonl"):
            kind = "parquet" if place.suffix == ".parquet" else "json"
            rows = load_dataset(kind, data_files=path, split="train")
        else:
            rows = load_dataset(path, split=split)
    except (OSError, ValueError, DatasetGenerationError) as error:
        lines = str(error.__cause__ or error).strip().splitlines()
        raise UserError(f"data.path={path}: cannot be read: {lines[0] if lines else repr(error)}") from error
    return rows.select(range(min(num, len(rows)))) if num else rows


def contents(value: dict[str, Any]) -> bytes:
    """Read the bytes of a picture from an image column that is not decoded."""
    return value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()


def files_of(rows: Dataset) -> list[str]:
    """Name the content of a data set by its files in the cache of `datasets`, whose folders hold a hash of it."""
    return ["/".join(Path(file["filename"]).parts[-5:]) for file in rows.cache_files] + [str(len(rows))]


def digest(*told: Any) -> str:
    """Name JSON values by a hash."""
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
