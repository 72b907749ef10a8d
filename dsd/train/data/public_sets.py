"""Read public sets of pairs as their authors published them."""

import json
from collections.abc import Iterator
from pathlib import Path

from datasets import Image as ImageFeature

from dsd.errors import UserError
from dsd.train.data.sources import Picture, RawPair, contents, digest, files_of, rows_of


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
        rows = rows.cast_column("image", ImageFeature(decode=False))
        about = zip(rows["collection"], rows["quality_assessment"], strict=True)
        chosen = [i for i, (name, scores) in enumerate(about) if name == collection and good(scores, least_quality)]
        if not chosen:
            raise UserError(f"{path}: no row of collection {collection!r} with scores of at least {least_quality}")
        self.rows = rows.select(chosen)
        right = 2 * border + panel
        self.boxes = [(left, border, left + panel, border + panel) for left in (border, right)]
        self.fingerprint = digest(files_of(rows), collection, least_quality, panel, border)

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
    """`bytedance-research/UNO-1M`, unpacked: labels/*.json and images/. Each picture is the target once."""

    def __init__(self, path: str, least_score: float = 4.0) -> None:
        labels = sorted(Path(path).glob("labels/*.json"))
        if not labels:
            raise UserError(f"data.path={path}: no labels/*.json there; unpack UNO-1M first")
        self.images, self.rows = Path(path) / "images", []
        try:
            for file in labels:
                every = json.loads(file.read_text(encoding="utf-8"))
                # some scores are above the scale's 4: its authors misread the answer
                self.rows += [row for row in every if least_score <= row["vlm_filter_cot"]["score_final"] <= 4]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}: not a label file of UNO-1M ({error!r})") from error
        if not self.rows:
            raise UserError(f"{path}: no pair with a score of at least {least_score}")
        known = [(file.name, file.stat().st_size) for file in labels]
        self.fingerprint = digest(known, least_score)

    def __len__(self) -> int:
        return 2 * len(self.rows)

    def block(self, positions: range) -> Iterator[RawPair]:
        for position in positions:
            row = self.rows[position // 2]
            reference, target = ("img_path1", "img_path2")[:: 1 if position % 2 == 0 else -1]
            pictures = [Picture((self.images / row[name]).read_bytes()) for name in (reference, target)]
            yield RawPair(pictures[0], pictures[1], row["caption"][target], row["caption"][target])


def good(scores: dict[str, int | None] | None, least: int) -> bool:
    """Tell whether a row has scores and all are at least `least`."""
    return bool(scores) and all((score or 0) >= least for score in (scores or {}).values())
