"""Read public sets of pairs as their authors published them."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from dsd.errors import UserError
from dsd.io.inputs import first_problem, read_json, regular_file
from dsd.train.data.sources import (
    Caption,
    ImageCell,
    Picture,
    RawPair,
    Unread,
    all_read,
    content_of,
    content_of_rows,
    contents,
    digest,
    read_or_reason,
    rows_of,
    undecoded,
)


class DiptychRow(BaseModel, strict=True):
    """A row of Subjects200K."""

    image: ImageCell | None
    description: dict[str, Any]


class Descriptions(BaseModel, strict=True):
    """What Subjects200K says of both panels."""

    description_0: Caption | None
    description_1: Caption | None


class Subjects200K:
    """`Yuanshi/Subjects200K` (OminiControl): two panels side by side in one picture, with a border between and around.

    Rows of the collection with all quality scores at least `least_quality` are kept. Each panel is the target once.
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
        content, rows = content_of_rows(path, split, rows), undecoded(rows, "image", path)
        about = zip(rows["collection"], rows["quality_assessment"], strict=True)
        chosen = [i for i, (name, scores) in enumerate(about) if name == collection and good(scores, least_quality)]
        if not chosen:
            raise UserError(f"{path}: no row of collection {collection!r} with scores of at least {least_quality}")
        self.where, self.rows = path, rows.select(chosen)
        right = 2 * border + panel
        self.boxes = [(left, border, left + panel, border + panel) for left in (border, right)]
        self.fingerprint = digest(content, collection, least_quality, panel, border)

    def __len__(self) -> int:
        return 2 * len(self.rows)

    def block(self, positions: range) -> Iterator[RawPair | Unread]:
        rows = self.rows.select([position // 2 for position in positions])
        for position, row in zip(positions, all_read(rows, self.where), strict=True):
            yield read_or_reason(partial(self._pair, row, position % 2))

    def _pair(self, row: dict[str, Any], target: int) -> RawPair:
        found = DiptychRow.model_validate(row)
        texts = Descriptions.model_validate(found.description)
        pictures = [Picture(contents(found.image, "composite"), box) for box in self.boxes]
        caption = (texts.description_0, texts.description_1)[target] or ""
        return RawPair(pictures[1 - target], pictures[target], caption, caption)


class Captions(BaseModel, strict=True):
    """What UNO-1M says of both pictures."""

    img_path1: Caption
    img_path2: Caption


class Score(BaseModel):
    """How well the pictures of a pair agree."""

    score_final: float


class Label(BaseModel, strict=True):
    """A pair of UNO-1M."""

    img_path1: str = Field(min_length=1)
    img_path2: str = Field(min_length=1)
    caption: Captions
    vlm_filter_cot: Score


class Uno1M:
    """`bytedance-research/UNO-1M`, unpacked: labels/*.json and images/. Each picture is the target once.

    The set is known by its labels: a picture that is edited after the table was made is refused when it is read.
    """

    def __init__(self, path: str, least_score: float = 4.0) -> None:
        labels = sorted(Path(path).glob("labels/*.json"))
        if not labels:
            raise UserError(f"data.path={path}: no labels/*.json there; unpack UNO-1M first")
        self.images, self.rows = Path(path) / "images", list[Label | Unread]()
        for file in labels:
            every = read_json(file)
            if not isinstance(every, list):
                raise UserError(f"{file}: not a label file of UNO-1M (a list is wanted)")
            read = (label(value, file.name, number) for number, value in enumerate(every))
            self.rows += [row for row in read if kept(row, least_score)]
        if not any(isinstance(row, Label) for row in self.rows):
            reasons = [f"; {row.reason}" for row in self.rows if isinstance(row, Unread)]
            raise UserError(f"{path}: no pair with a score of at least {least_score}{''.join(reasons[:1])}")
        self.fingerprint = digest([(file.name, content_of(file)) for file in labels], least_score)

    def __len__(self) -> int:
        return 2 * len(self.rows)

    def block(self, positions: range) -> Iterator[RawPair | Unread]:
        for position in positions:
            row = self.rows[position // 2]
            if isinstance(row, Unread):
                yield row
            else:
                yield read_or_reason(partial(self._pair, row, 1 - position % 2))

    def _pair(self, row: Label, target: int) -> RawPair:
        files = [regular_file(self.images / name) for name in (row.img_path1, row.img_path2)]
        pictures = [Picture(file.read_bytes()) for file in files]
        caption = (row.caption.img_path1, row.caption.img_path2)[target]
        return RawPair(pictures[1 - target], pictures[target], caption, caption)


def label(value: object, file: str, number: int) -> Label | Unread:
    """Check a pair's label."""
    try:
        return Label.model_validate(value)
    except ValidationError as error:
        return Unread(f"{file}, pair {number}: {first_problem(error)}")


def kept(row: Label | Unread, least: float) -> bool:
    """Tell whether a pair's score is good enough. Some are above the scale's 4: its authors misread the answer."""
    return isinstance(row, Unread) or least <= row.vlm_filter_cot.score_final <= 4


def good(scores: object, least: int) -> bool:
    """Tell whether a row has scores and all are at least `least`."""
    if not isinstance(scores, dict) or not scores:
        return False
    return all(isinstance(score or 0, int | float) and (score or 0) >= least for score in scores.values())
