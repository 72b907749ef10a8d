"""Reversed pairs: an edited picture is the reference, the untouched one the target, so that targets stay clean."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Image as ImageFeature
from datasets import List
from pydantic import BaseModel

from dsd.errors import UserError
from dsd.io.inputs import read_jsonl
from dsd.runs.manifest import read_manifest
from dsd.runs.shards import read_shards
from dsd.train.data.made import shown
from dsd.train.data.sources import (
    Caption,
    ImageCell,
    Picture,
    RawPair,
    Unread,
    content_of,
    contents,
    digest,
    read_or_reason,
    undecoded,
)

CROP = "crop"


class ResultRow(BaseModel, strict=True):
    """A row of `results/` of dsd-infer."""

    job: str
    image: ImageCell | None
    reference: ImageCell | None
    others: list[ImageCell]


class JobCaption(BaseModel, strict=True):
    """A line of a file of captions."""

    job: str
    caption: Caption
    instruction: Caption = ""


class ReversedPairs:
    """Results of dsd-infer, turned round: what was drawn is the reference, its reference the target.

    The target's caption is a fixed text (`caption`), the line of its job in a file of JSON lines (`captions`: job,
    caption and, if wanted, instruction), or a column of the results (`column`): one of the three. With `fit=crop` the
    untouched picture is cropped at its centre to the proportions of the edited one, as dsd-infer fits references into
    a panel; otherwise pairs of unequal proportions are left out. UserError where the folder holds no results.
    """

    def __init__(
        self,
        path: str,
        caption: str | None = None,
        captions: str | None = None,
        column: str | None = None,
        fit: str | None = CROP,
    ) -> None:
        if sum(given is not None for given in (caption, captions, column)) != 1:
            raise UserError(
                "data=reversed: give one of data.caption='...', data.captions=file.jsonl, data.column=prompt"
            )
        if fit not in (CROP, None):
            raise UserError(f"data.fit={fit}: crop or null is needed")
        read_manifest(path, "infer")
        rows = read_shards(path, "results")
        if not len(rows):
            raise UserError(f"data.path={path}: no results in it; run dsd-infer first")
        self.texts = self._texts(rows, path, caption, captions, column)
        self.fit, self.captions = fit, captions
        self.jobs: list[str] = list(rows["job"])
        rows = undecoded(undecoded(rows.select_columns(list(ResultRow.model_fields)), "image", path), "reference", path)
        self.rows = rows.cast_column("others", List(ImageFeature(decode=False)))
        told = [[text.caption, text.instruction] if text else None for text in map(self.texts.get, self.jobs)]
        self.fingerprint = digest("reversed", content_of(Path(path) / "results"), told, fit)

    @staticmethod
    def _texts(
        rows: Any, path: str, caption: str | None, captions: str | None, column: str | None
    ) -> dict[str, JobCaption]:
        """Find the caption of each job."""
        if captions is not None:
            example = '{"job": "fox-001", "caption": "a fox, soft daylight"}'
            return {row.job: row for _, row in read_jsonl(captions, JobCaption, "data.captions", example)}
        if column is None:
            return {job: JobCaption(job=job, caption=caption or "") for job in rows["job"]}
        texts = [name for name, kind in rows.features.items() if getattr(kind, "dtype", "") == "string"]
        if column not in texts:
            raise UserError(f"data.column={column}: no column of texts in {path}; there are {', '.join(texts)}")
        found = zip(rows["job"], rows[column], strict=True)
        return {job: JobCaption(job=job, caption=text) for job, text in found}

    def __len__(self) -> int:
        return len(self.rows)

    def block(self, positions: range) -> Iterator[RawPair | Unread]:
        for position in positions:
            yield read_or_reason(partial(self._pair, position))

    def _pair(self, position: int) -> RawPair:
        found = ResultRow.model_validate(self.rows[position])
        text = self.texts.get(found.job)
        if text is None:
            raise UserError(f"job {found.job}: no line for it in {self.captions}")
        if found.others:
            raise UserError(f"job {found.job}: drawn of several references, so it is no edit of one picture")
        edited, untouched = Picture(contents(found.image, "edited")), Picture(contents(found.reference, "untouched"))
        return RawPair(edited, self._fitted(untouched, edited), text.caption, text.instruction or text.caption)

    def _fitted(self, untouched: Picture, edited: Picture) -> Picture:
        """Crop the untouched picture to the proportions of the edited one. UserError where that is not wanted."""
        size, wanted = untouched.size(), edited.size()
        scale = min(size[0] / wanted[0], size[1] / wanted[1])
        width, height = (max(1, round(side * scale)) for side in wanted)
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        if max(size[0] - width, size[1] - height) <= 1:  # rounding alone
            return untouched
        if self.fit is None:
            raise UserError(
                f"untouched {shown(size)}, edited {shown(wanted)} pixels: aligned pairs need equal proportions"
            )
        return Picture(untouched.data, (left, top, left + width, top + height))
