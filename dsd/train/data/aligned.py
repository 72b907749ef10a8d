"""Read aligned pairs: one subject in one layout under one camera; only light, time, weather or style differ."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from dsd.errors import UserError
from dsd.train.data.folders import TABLES, listed, side_by_side
from dsd.train.data.made import shown
from dsd.train.data.scenes import Scenes, holds_scenes
from dsd.train.data.sources import PairSource, RawPair, Unread, columns, digest, read_or_reason


class Aligned:
    """The pairs of a source whose pictures have one size; others are left out, since they cannot correspond."""

    def __init__(self, source: PairSource) -> None:
        self.source = source
        self.fingerprint = digest("aligned", source.fingerprint)

    def __len__(self) -> int:
        return len(self.source)

    def block(self, positions: range) -> Iterator[RawPair | Unread]:
        for pair in self.source.block(positions):
            yield pair if isinstance(pair, Unread) else read_or_reason(partial(of_one_size, pair))


def of_one_size(pair: RawPair) -> RawPair:
    """Return the pair. UserError where its pictures differ in size."""
    source, target = pair.reference.size(), pair.target.size()
    if source != target:
        raise UserError(f"source {shown(source)}, target {shown(target)} pixels: aligned pairs need equal sizes")
    return pair


def aligned(
    path: str,
    source: str = "source",
    target: str = "target",
    caption: str = "caption",
    instruction: str | None = "instruction",
    split: str = "train",
    scenes: Callable[[str], PairSource] = Scenes,
) -> Aligned:
    """Read aligned pairs as they are, whatever of these `path` is. UserError where it is none of them.

    - A table of picture files (JSON lines or CSV), or a folder with one of `TABLES`: file names count from its folder.
    - A folder of JSON files, one for each pair, beside the pictures: an unpacked shard of ImagePulseV2
      (huggingface.co/datasets/DiffSynth-Studio/ImagePulseV2-Edit-Light and its like: data/<shard>.tar.gz,
      metadata/<shard>.jsonl, metadata_all.jsonl). Its expression set names the columns image, image_edited and
      generated_edit_prompt (script/ops/import_imagepulsev2_expression_local.py,
      wochenlong/lora-scripts-next@a606b70). Those of the light set were not found published: map them.
    - A folder with `source/` and `target/`, see `side_by_side`, or with scenes under several lights, see `Scenes`.
    - Parquet, one file or a folder, or a set of the hub.
    """
    place, names = Path(path), {"source": source, "target": target, "caption": caption, "instruction": instruction}
    if place.suffix in (".jsonl", ".csv") and not place.is_dir():
        return Aligned(listed([place], place.parent, names))
    if not place.is_dir() or any(place.rglob("*.parquet")):
        mapped = {"image": target, "conditioning": source, "caption": caption, "instruction": instruction or caption}
        return Aligned(columns(path, split, None, False, **mapped))
    if tables := tables_of(place):
        return Aligned(listed(tables, place, names))
    if (place / "source").is_dir() and (place / "target").is_dir():
        return Aligned(side_by_side(place))
    if holds_scenes(place):
        return Aligned(scenes(path))
    raise UserError(
        f"data.path={path}: no aligned pairs in it; a folder holds {TABLES[0]}, or source/ and target/, or scenes with "
        "dir_<number>_mip2.jpg, or Parquet files"
    )


def tables_of(folder: Path) -> list[Path]:
    """Find the table of a folder, or its JSON files of a pair each."""
    for name in TABLES:
        if (folder / name).is_file():
            return [folder / name]
    return sorted(file for file in folder.glob("*.json") if not file.name.startswith("."))
