"""Read pairs by position: from dsd-curate, from any data set with such columns, with negatives for preferences.

A picture stays the bytes of its file until it is opened. Their hash names what is encoded from them, so that an edited
picture is encoded again and nothing else is. A pair that cannot be read is an `Unread`, which the table counts.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Protocol

from datasets import Dataset, IterableDataset, List, load_dataset
from datasets import Image as ImageFeature
from PIL import ExifTags, Image
from pydantic import BaseModel, Field, ValidationError

from dsd.errors import UserError
from dsd.io.inputs import first_problem, regular_file
from dsd.io.pictures import FORMATS
from dsd.models.settings import MOST_REFERENCES
from dsd.runs.identity import fingerprint
from dsd.runs.manifest import read_manifest
from dsd.runs.shards import read_shards

Box = tuple[int, int, int, int]
TURNED = (5, 6, 7, 8)  # EXIF orientations in which width and height change places
Caption = Annotated[str, Field(max_length=100_000)]  # a text encoder reads some 2,000 characters of it


@dataclass(frozen=True)
class Picture:
    """The bytes of an image file, and the part of it that is meant."""

    data: bytes
    box: Box | None = None  # left, top, right, bottom

    @cached_property
    def key(self) -> str:
        """Name the picture by 20 hex digits of its content."""
        return hashlib.sha256(self.told()).hexdigest()[:20]

    def told(self) -> bytes:
        """Give all that the opened picture follows from."""
        return self.data + repr(self.box).encode()

    def open(self) -> Image.Image:
        """Decode the picture. UserError where it is none."""
        with self._read() as image:
            image.load()
            return image.crop(self.box) if self.box else image

    def size(self) -> tuple[int, int]:
        """Read width and height as a person sees them, without decoding. UserError where it is no picture."""
        if self.box:
            left, top, right, bottom = self.box
            return right - left, bottom - top
        with self._read() as image:
            turned = False
            with suppress(Exception):  # broken EXIF, for which Pillow has no common class, turns nothing
                turned = image.getexif().get(ExifTags.Base.Orientation, 1) in TURNED
            return (image.height, image.width) if turned else image.size

    @contextmanager
    def _read(self) -> Iterator[Image.Image]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # large pictures and odd metadata; an error says too large
                yield Image.open(BytesIO(self.data), formats=FORMATS)
        except Exception as error:  # Pillow has no common class for what is wrong with a file
            raise UserError(f"picture cannot be read: {reason_of(error)}") from error


@dataclass(frozen=True)
class RawPair:
    """A pair as its source stores it."""

    reference: Picture
    target: Picture
    description: str  # of the target
    instruction: str  # what to do with the reference; the description where a set has none
    negative: Picture | None = None  # a worse target, for training on preferences
    others: tuple[Picture, ...] = ()  # more references of the same target

    @property
    def references(self) -> list[Picture]:
        """All references."""
        return [self.reference, *self.others]

    @property
    def reference_key(self) -> str:
        """Name the references by their content."""
        return "+".join(picture.key for picture in self.references)


@dataclass(frozen=True)
class Unread:
    """A pair that cannot be read."""

    reason: str


class PairSource(Protocol):
    """Pairs by position. `fingerprint` names their content; it is known without decoding pictures."""

    fingerprint: str

    def __len__(self) -> int: ...

    def block(self, positions: range) -> Iterator[RawPair | Unread]:
        """Read the pairs at consecutive positions."""
        ...


class ImageCell(BaseModel, strict=True):
    """A value of an image column that is not decoded: the bytes of a file, or its path."""

    data: bytes | None = Field(None, alias="bytes")
    path: str | None = None


class PairRow(BaseModel, strict=True):
    """A row of a data set of pairs."""

    target: ImageCell | None
    reference: ImageCell | None
    caption: Caption | None
    instruction: Caption | None


class Columns:
    """A data set with a column for each part of a pair; the defaults suit primecai/dsd_data and dsd-curate.

    `content` names what the rows hold; by default the files that `datasets` keeps them in do.
    """

    def __init__(
        self,
        rows: Dataset | IterableDataset,
        where: str,
        content: str = "",
        image: str = "image",
        conditioning: str = "conditioning",
        caption: str = "caption",
        instruction: str | None = "instruction",
    ) -> None:
        known, wanted = rows.column_names or list(next(iter(rows), {})), [image, conditioning, caption]
        if missing := [name for name in wanted if name not in known]:
            raise UserError(f"{where}: no column {missing[0]!r}; its columns: {', '.join(known)}; map them")
        if isinstance(rows, Dataset) and not len(rows):
            raise UserError(f"{where}: no rows in it")
        second = instruction if instruction is not None and instruction in known else caption
        self.where, self.names = where, (*wanted, second)
        for name in dict.fromkeys((image, conditioning)):
            rows = undecoded(rows, name, where)
        self.rows = rows.select_columns(list(dict.fromkeys(self.names)))
        beside = sizes_beside(self.rows, (image, conditioning)) if isinstance(rows, Dataset) else []
        self.fingerprint = digest(self.names, content or files_of(rows), beside)

    def __len__(self) -> int:
        return len(self.rows)

    def block(self, positions: range) -> Iterator[RawPair | Unread]:
        for row in all_read(self._rows(positions), self.where):
            yield read_or_reason(partial(self._pair, row))

    def _pair(self, row: dict[str, Any]) -> RawPair:
        parts = zip(("target", "reference", "caption", "instruction"), self.names, strict=True)
        found = PairRow.model_validate({part: row[name] for part, name in parts})
        pictures = Picture(contents(found.reference, "reference")), Picture(contents(found.target, "target"))
        return RawPair(*pictures, found.caption or "", found.instruction or found.caption or "")

    def _rows(self, positions: range) -> Iterator[dict[str, Any]]:
        return iter(self.rows.select(positions))


class Streamed(Columns):
    """The same, read as a stream: for sets that are too large to download. What is encoded is kept in the cache."""

    def __init__(self, path: str, split: str, num: int | None, **names: str) -> None:
        rows = loaded(path, path, split=split, streaming=True)
        about = rows.info.splits
        known = about[split].num_examples if about and split in about else None
        self.num = min(num or known or 0, known or num or 0)
        if not self.num:
            raise UserError(f"data.path={path}: the set does not say how many rows it has; give data.num=")
        content = content_of(Path(path)) if Path(path).exists() else path
        super().__init__(rows, path, digest(content, split, self.num), **names)

    def __len__(self) -> int:
        return self.num

    def _rows(self, positions: range) -> Iterator[dict[str, Any]]:
        return iter(self.rows.skip(positions.start).take(len(positions)))


def curated(path: str) -> Columns:
    """Read the pairs of dsd-curate. UserError where the folder is missing, unfinished or holds no pair."""
    source = read_manifest(path, "curation")
    if not source["counts"].get("pairs"):
        raise UserError(f"pairs={path}: it holds no pair; loosen the selection of dsd-curate")
    return Columns(read_shards(path, "pairs"), path, content_of(Path(path) / "pairs"))


class SetRow(BaseModel, strict=True):
    """A row of `sets/` of dsd-curate: a target with several references."""

    image: ImageCell | None
    references: Annotated[list[ImageCell], Field(min_length=1, max_length=MOST_REFERENCES)]
    caption: Caption | None


class ReferenceSets:
    """The pairs of dsd-curate and, after them, its targets with several references (max_references above 1)."""

    def __init__(self, path: str) -> None:
        self.pairs, folder = curated(path), Path(path) / "sets"
        if not folder.is_dir():
            raise UserError(f"pairs={path}: no sets of references in it; run dsd-curate max_references=4 first")
        sets = read_shards(path, "sets").select_columns(["image", "references", "caption"])
        self.sets = sets.cast_column("image", ImageFeature(decode=False))
        self.sets = self.sets.cast_column("references", List(ImageFeature(decode=False)))
        self.fingerprint = digest(self.pairs.fingerprint, content_of(folder))

    def __len__(self) -> int:
        return len(self.pairs) + len(self.sets)

    def block(self, positions: range) -> Iterator[RawPair | Unread]:
        border = len(self.pairs)
        if positions.start < border:
            yield from self.pairs.block(range(positions.start, min(positions.stop, border)))
        for position in range(max(positions.start, border), positions.stop):
            yield read_or_reason(partial(self._set, self.sets[position - border]))

    @staticmethod
    def _set(row: dict[str, Any]) -> RawPair:
        found = SetRow.model_validate(row)
        first, *others = (Picture(contents(cell, "reference")) for cell in found.references)
        target, caption = Picture(contents(found.image, "target")), found.caption or ""
        return RawPair(first, target, caption, caption, others=tuple(others))


class Preferences:
    """Pairs of dsd-curate with the negative that `dsd-infer jobs=negatives` drew of each; others are left out."""

    def __init__(self, path: str, negatives: str) -> None:
        self.pairs, self.where = curated(path), negatives
        refuse_strangers(path, negatives)
        drawn = read_shards(negatives, "results")
        self.negatives = undecoded(drawn, "image", negatives).select_columns(["job", "image"])
        places = {job: place for place, job in enumerate(drawn["job"])}
        self.known = [(n, places[f"pair-{n:08d}"]) for n in range(len(self.pairs)) if f"pair-{n:08d}" in places]
        if not self.known:
            raise UserError(f"data.negatives={negatives}: no negatives of pairs={path}; run dsd-infer jobs=negatives")
        self.fingerprint = digest(self.pairs.fingerprint, content_of(Path(negatives) / "results"))

    def __len__(self) -> int:
        return len(self.known)

    def block(self, positions: range) -> Iterator[RawPair | Unread]:
        for position in positions:
            number, place = self.known[position]
            (pair,) = self.pairs.block(range(number, number + 1))
            yield pair if isinstance(pair, Unread) else read_or_reason(partial(self._with, pair, place))

    def _with(self, pair: RawPair, place: int) -> RawPair:
        cell = self.negatives[place]["image"]
        found = None if cell is None else ImageCell.model_validate(cell)
        return replace(pair, negative=Picture(contents(found, "negative")))


def refuse_strangers(pairs: str, negatives: str) -> None:
    """Raise UserError where negatives were drawn of other pairs: they are matched by position."""
    drawn_of = read_manifest(negatives, "infer").get("inputs", {}).get("jobs")
    if drawn_of not in (None, fingerprint(pairs)):
        raise UserError(
            f"data.negatives={negatives}: drawn of other pairs than pairs={pairs}, or before these were made again; "
            "run dsd-infer jobs=negatives for them"
        )


def columns(
    path: str, split: str = "train", num: int | None = None, streaming: bool = False, **names: str
) -> PairSource:
    """Read a data set of the hub, a folder of Parquet files, or one file; `num` takes its first rows."""
    if streaming:
        return Streamed(path, split, num, **names)
    rows = rows_of(path, split, num)
    return Columns(rows, path, content_of_rows(path, split, rows), **names)


def rows_of(path: str, split: str, num: int | None = None) -> Dataset:
    """Read any set that `datasets` knows. UserError says why it cannot be read."""
    place = Path(path)
    if place.suffix in (".parquet", ".json", ".jsonl"):
        kind = "parquet" if place.suffix == ".parquet" else "json"
        rows = loaded(path, kind, data_files=str(regular_file(path, "data.path")), split="train")
    else:
        rows = loaded(path, path, split=split)
    return rows.select(range(min(num, len(rows)))) if num else rows


def loaded(where: str, *what: str, **how: Any) -> Any:
    """Call `load_dataset`. UserError where it fails."""
    try:
        return load_dataset(*what, **how)
    except Exception as error:  # builders and parsers of many formats have no common class
        raise UserError(f"data.path={where}: cannot be read: {reason_of(error.__cause__ or error)}") from error


def all_read(rows: Iterable[dict[str, Any]], where: str) -> Iterator[dict[str, Any]]:
    """Iterate over rows. UserError where they cannot be read on: a damaged file, a stream that breaks off."""
    try:
        yield from rows
    except Exception as error:  # as in `loaded`
        raise UserError(f"data.path={where}: cannot be read: {reason_of(error)}; run the same command again") from error


def undecoded(rows: Any, name: str, where: str) -> Any:
    """Have an image column read as bytes or paths. UserError where it holds neither."""
    kind = (rows.features or {}).get(name)
    try:
        return rows.cast_column(name, ImageFeature(decode=False))
    except Exception as error:  # Arrow's and datasets' own errors have no common class
        shown = getattr(kind, "dtype", None) or type(kind).__name__
        raise UserError(f"{where}: column {name!r} holds no pictures but {shown}; map another column") from error


def read_or_reason(make: Callable[[], RawPair]) -> RawPair | Unread:
    """Read a pair, or say why it cannot be read."""
    try:
        return make()
    except ValidationError as error:
        return Unread(first_problem(error))
    except (UserError, OSError) as error:
        return Unread(reason_of(error))


def contents(cell: ImageCell | None, name: str) -> bytes:
    """Read the bytes of a picture from its cell. UserError where there is none."""
    if cell is None or (cell.data is None and not cell.path):
        raise UserError(f"no {name} picture")
    return cell.data if cell.data is not None else regular_file(str(cell.path)).read_bytes()


def content_of(path: Path) -> str:
    """Name the content of a file or of all files of a folder but hidden ones, wherever it lies."""
    if path.is_file():
        return fingerprint(path)
    files = [f for f in sorted(path.rglob("*")) if f.is_file()]
    names = [(f.relative_to(path), f) for f in files]
    return digest([[n.as_posix(), fingerprint(f)] for n, f in names if not any(p.startswith(".") for p in n.parts)])


def content_of_rows(path: str, split: str, rows: Dataset) -> str:
    """Name the rows of a data set: by the content of a local one, otherwise as `datasets` keeps it."""
    return digest(content_of(Path(path)) if Path(path).exists() else files_of(rows), split, len(rows))


def sizes_beside(rows: Dataset, names: Sequence[str]) -> list[tuple[str, int]]:
    """List the files that rows name instead of holding their bytes, with their sizes; -1 where a file is missing."""
    found: dict[str, int] = {}
    for name in dict.fromkeys(names):
        for batch in rows.select_columns([name]).with_format("arrow").iter(1000):
            cells = batch[name].combine_chunks()
            if not cells.field("bytes").null_count:
                continue
            paths = cells.filter(cells.field("bytes").is_null()).field("path")
            found |= {path: size_of(Path(path)) for path in paths.to_pylist() if path}
    return sorted(found.items())


def size_of(path: Path) -> int:
    """Size of a file in bytes, -1 where there is none."""
    try:
        return path.stat().st_size if path.is_file() else -1
    except (OSError, ValueError):
        return -1


def files_of(rows: Any) -> list[str]:
    """Name the content of a data set by its files in the cache of `datasets`, whose folders hold a hash of it."""
    return ["/".join(Path(file["filename"]).parts[-5:]) for file in rows.cache_files] + [str(len(rows))]


def digest(*told: Any) -> str:
    """Name JSON values by a hash."""
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def reason_of(error: BaseException) -> str:
    """Take the first line of an error, its kind where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
