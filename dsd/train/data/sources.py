"""Where pairs come from: our own curation, a data set of such columns, and the public sets as they are.

A source gives pairs by position. Pictures stay the bytes that they are stored as until somebody looks at them: their
hash names what is encoded from them, so that an edited picture is encoded again and nothing else is.
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
    """An image file's bytes, and which part of it is meant."""

    data: bytes
    box: Box | None = None  # left, top, right, bottom

    @cached_property
    def key(self) -> str:
        """20 hex digits of what the file holds."""
        return hashlib.sha256(self.data + repr(self.box).encode()).hexdigest()[:20]

    def open(self) -> Image.Image:
        image = Image.open(BytesIO(self.data))
        image.load()
        return image.crop(self.box) if self.box else image


@dataclass(frozen=True)
class RawPair:
    """A pair as a source has it."""

    reference: Picture
    target: Picture
    description: str  # of the target
    instruction: str  # what to do with the reference; the description where a set has none
    rejected: Picture | None = None  # a worse target, for training on preferences


class PairSource(Protocol):
    """Pairs by position. `fingerprint` changes when they do, and costs no reading of pictures."""

    fingerprint: str

    def __len__(self) -> int: ...

    def block(self, positions: range) -> Iterator[RawPair]:
        """The pairs at consecutive positions."""


class Columns:
    """A data set with a column for each part of a pair, by default those of `primecai/dsd_data` and of dsd-curate."""

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
        self.fingerprint = getattr(rows, "_fingerprint", "")

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
    """The same, read as it comes: for sets that are too large to be downloaded. What is encoded of it is kept."""

    def __init__(self, path: str, split: str, num: int | None, **names: str) -> None:
        rows = load_dataset(path, split=split, streaming=True)
        about = rows.info.splits
        known = about[split].num_examples if about and split in about else None
        self.num = min(num or known or 0, known or num or 0)
        if not self.num:
            raise UserError(f"data.path={path}: how many rows it has is not known; say data.num=")
        super().__init__(rows, path, **names)
        self.fingerprint = hashlib.sha256(json.dumps([path, split, self.num, self.names]).encode()).hexdigest()

    def __len__(self) -> int:
        return self.num

    def _rows(self, positions: range) -> Iterator[dict[str, Any]]:
        return iter(self.rows.skip(positions.start).take(len(positions)))


def curated(path: str) -> PairSource:
    """The output of dsd-curate. UserError where it is missing, unfinished or holds no pair."""
    source = read_manifest(path, "curation")
    if not source["counts"]["pairs"]:
        raise UserError(f"pairs={path}: it holds no pair; loosen the selection of dsd-curate")
    pairs = Columns(read_shards(path, "pairs"), path)
    pairs.fingerprint = hashlib.sha256(json.dumps(source["files"], sort_keys=True).encode()).hexdigest()
    return pairs


class Preferences:
    """Pairs of dsd-curate, each with the negative that `dsd-infer jobs=negatives` drew of it. Others are left out."""

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
            yield replace(pair, rejected=Picture(contents(self.negatives[place]["image"])))


def columns(
    path: str, split: str = "train", num: int | None = None, streaming: bool = False, **names: str
) -> PairSource:
    """A data set of the hub, a folder of Parquet files, or one file. `num` takes the first of its rows."""
    return Streamed(path, split, num, **names) if streaming else Columns(rows_of(path, split, num), path, **names)


def rows_of(path: str, split: str, num: int | None = None) -> Dataset:
    """Any set that `datasets` reads. UserError says what is wrong with it."""
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


class Subjects200K:
    """`Yuanshi/Subjects200K` (OminiControl): two panels side by side in one picture, with a border between and around.

    Kept: the collection, where all of its quality scores are at least `least_quality`. Either panel is the target once.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        collection: str = "collection_2",
        least_quality: int = 5,
        panel: int = 512,
        border: int = 8,
    ) -> None:
        rows = rows_of(path, split)
        if missing := {"image", "collection", "quality_assessment", "description"} - set(rows.column_names):
            raise UserError(f"{path}: no column {min(missing)!r}; this is not Subjects200K's layout")
        rows = rows.cast_column("image", ImageFeature(decode=False))
        about = zip(rows["collection"], rows["quality_assessment"], strict=True)
        chosen = [i for i, (name, scores) in enumerate(about) if name == collection and good(scores, least_quality)]
        if not chosen:
            raise UserError(f"{path}: no row of collection {collection!r} with scores of at least {least_quality}")
        self.rows = rows.select(chosen)
        right = 2 * border + panel
        self.boxes = [(left, border, left + panel, border + panel) for left in (border, right)]
        self.fingerprint = self.rows._fingerprint

    def __len__(self) -> int:
        return 2 * len(self.rows)

    def block(self, positions: range) -> Iterator[RawPair]:
        for position in positions:
            row, target = self.rows[position // 2], position % 2
            data = contents(row["image"])
            pictures = [Picture(data, box) for box in self.boxes]
            description = row["description"][f"description_{target}"]
            yield RawPair(pictures[1 - target], pictures[target], description, description)


class Uno1M:
    """`bytedance-research/UNO-1M`, unpacked: labels/*.json and images/. Either picture is the target once."""

    def __init__(self, path: str, least_score: float = 4.0) -> None:
        labels = sorted(Path(path).glob("labels/*.json"))
        if not labels:
            raise UserError(f"data.path={path}: no labels/*.json there; unpack UNO-1M first")
        self.images, self.rows = Path(path) / "images", []
        try:
            for file in labels:
                every = json.loads(file.read_text(encoding="utf-8"))
                # a few scores of the set are parsing accidents above the scale's 4
                self.rows += [row for row in every if least_score <= row["vlm_filter_cot"]["score_final"] <= 4]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}: not a label file of UNO-1M ({error!r})") from error
        if not self.rows:
            raise UserError(f"{path}: no pair with a score of at least {least_score}")
        known = [(file.name, file.stat().st_size) for file in labels]
        self.fingerprint = hashlib.sha256(json.dumps([known, least_score]).encode()).hexdigest()

    def __len__(self) -> int:
        return 2 * len(self.rows)

    def block(self, positions: range) -> Iterator[RawPair]:
        for position in positions:
            row = self.rows[position // 2]
            reference, target = ("img_path1", "img_path2")[:: 1 if position % 2 == 0 else -1]
            pictures = [Picture((self.images / row[name]).read_bytes()) for name in (reference, target)]
            yield RawPair(pictures[0], pictures[1], row["caption"][target], row["caption"][target])


def good(scores: dict[str, int | None] | None, least: int) -> bool:
    return bool(scores) and all((score or 0) >= least for score in (scores or {}).values())


def contents(value: dict[str, Any]) -> bytes:
    """Of an image column that is not decoded."""
    return value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
