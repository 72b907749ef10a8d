"""Structure to image: the reference shows the target's own structure, such as its line art or its depth."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dsd.runs.manifest import MANIFEST
from dsd.train.data.made import Made
from dsd.train.data.makers import Maker
from dsd.train.data.sources import PairSource, RawPair, Unread, columns, curated, digest


class Structure:
    """The targets of a source, each with the reference that a maker makes of it. Instructions are the captions."""

    def __init__(self, source: PairSource, maker: Maker) -> None:
        self.source, self.maker = source, maker
        self.fingerprint = digest("structure", source.fingerprint, maker.name)

    def __len__(self) -> int:
        return len(self.source)

    def block(self, positions: range) -> Iterator[RawPair | Unread]:
        for pair in self.source.block(positions):
            yield pair if isinstance(pair, Unread) else self._turned(pair)

    def _turned(self, pair: RawPair) -> RawPair:
        target = pair.target
        made = Made(target.data, target.box, make=self.maker, name=self.maker.name)
        return replace(pair, reference=made, instruction=pair.description, negative=None, others=())


def structure(
    path: str, maker: Maker, image: str = "image", caption: str = "caption", split: str = "train"
) -> Structure:  # fmt: skip
    """Take the pictures of a folder of dsd-curate, or of any set with a column of pictures and one of captions."""
    if (Path(path) / MANIFEST).is_file():
        return Structure(curated(path), maker)
    return Structure(columns(path, split, image=image, conditioning=image, caption=caption), maker)
