"""Pairs as tensors: read from a cache that is filled once, or encoded when wanted. Both give the same numbers."""

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dsd.errors import UserError
from dsd.train.data.encoder import Encoder
from dsd.train.data.sources import PairSource, RawPair
from dsd.train.data.store import Store, folder_of
from dsd.train.data.table import Size, Table, any_missing, blocks, in_blocks, make_table, read_table, refuse_useless

log = logging.getLogger(__name__)
Item = TypeVar("Item")
AT_ONCE = 16  # encoded together
A_SEGMENT = 256  # rows of a file: what a kill costs


class Pairs(Protocol):
    """N pairs in buckets of one size each. Shapes as in `Encoder`; the rows asked for share a bucket."""

    @property
    def bucket_of(self) -> np.ndarray: ...

    @property
    def captions(self) -> list[tuple[str, str]]: ...  # description, instruction

    def canvas(self, rows: Sequence[int]) -> Tensor: ...

    def condition(self, rows: Sequence[int]) -> Tensor: ...

    def rejected(self, rows: Sequence[int]) -> Tensor | None:
        """Canvases with a worse target; None where the pairs have none."""
        ...

    def text(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class DirectPairs:
    """Encoded when they are wanted: no disk, but the encoders stay on the device and work at every step."""

    table: Table
    source: PairSource
    encoder: Encoder
    sizes: Sequence[Size]

    @property
    def bucket_of(self) -> np.ndarray:
        return self.table.bucket_of

    @property
    def captions(self) -> list[tuple[str, str]]:
        return self.table.captions

    def canvas(self, rows: Sequence[int]) -> Tensor:
        pairs = self._pictures(rows)
        return self.encoder.canvas(
            [p.reference.open() for p in pairs], [p.target.open() for p in pairs], *self._size(rows)
        )

    def rejected(self, rows: Sequence[int]) -> Tensor | None:
        pairs = self._pictures(rows)
        worse = [pair.rejected.open() for pair in pairs if pair.rejected]
        return self.encoder.canvas([p.reference.open() for p in pairs], worse, *self._size(rows)) if worse else None

    def condition(self, rows: Sequence[int]) -> Tensor:
        return self.encoder.condition([pair.reference.open() for pair in self._pictures(rows)], *self._size(rows))

    def text(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        return self.encoder.text(captions)

    def _size(self, rows: Sequence[int]) -> Size:
        return self.sizes[self.table.bucket_of[rows[0]]]

    def _pictures(self, rows: Sequence[int]) -> list[RawPair]:
        places = [int(self.table.positions[row]) for row in rows]
        return [pair for place in places for pair in self.source.block(range(place, place + 1))]


class CachedPairs:
    """Read from stores; where only latents are kept (`cache=latents`), captions are encoded when they are wanted."""

    def __init__(self, table: Table, encoder: Encoder, cache_dir: Path, sizes: Sequence[Size], keep_text: bool) -> None:
        self.table, self.encoder, self.keep_text = table, encoder, keep_text
        self.stores = [
            {
                kind: open_store(cache_dir, kind, encoder.about_latents(*size), encoder.pipeline.vae.dtype)
                for kind in KINDS
            }
            for size in sizes
        ]
        text_dtype = encoder.pipeline.text_encoder_2.dtype
        about = encoder.about_text()
        self.text_stores = [open_store(cache_dir, kind, about, text_dtype) for kind in ("text", "pooled")]
        self.sizes = sizes

    @property
    def bucket_of(self) -> np.ndarray:
        return self.table.bucket_of

    @property
    def captions(self) -> list[tuple[str, str]]:
        return self.table.captions

    def canvas(self, rows: Sequence[int]) -> Tensor:
        return self._store(rows, "canvas").rows([canvas_key(self.table, row) for row in rows])

    def rejected(self, rows: Sequence[int]) -> Tensor | None:
        if not self.table.rejected[rows[0]]:
            return None
        return self._store(rows, "canvas").rows([rejected_key(self.table, row) for row in rows])

    def condition(self, rows: Sequence[int]) -> Tensor:
        return self._store(rows, "condition").rows([self.table.references[row] for row in rows])

    def text(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        if not self.keep_text:
            return self.encoder.text(captions)
        keys = [caption_key(text) for text in captions]
        embeds, pooled = (store.rows(keys) for store in self.text_stores)
        return embeds, pooled

    def fill(self, source: PairSource, table: Table, show: bool) -> None:
        """Encode what is missing for these pairs and nothing else; say how much that is before it starts."""
        missing = self._missing(table)
        words = dict.fromkeys(["", *(text for both in table.captions for text in both)]) if self.keep_text else {}
        texts = [text for text in words if caption_key(text) not in self.text_stores[0]]
        if not missing and not texts:
            return
        self._announce(missing, texts, table, len(words))
        self._fill_latents(source, table, missing, show)
        for part in tqdm(list(chunks(texts, A_SEGMENT)), desc="captions", unit="file", disable=not show or not texts):
            rows = [self.encoder.text(some) for some in chunks(part, AT_ONCE)]
            for store, tensors in zip(self.text_stores, zip(*rows, strict=True), strict=True):
                store.add(dict(zip(map(caption_key, part), torch.cat(tensors).unbind(), strict=True)))

    def _store(self, rows: Sequence[int], kind: str) -> Store:
        return self.stores[self.bucket_of[rows[0]]][kind]

    def _missing(self, table: Table) -> list[int]:
        """Rows of the table with a latent to be encoded."""
        stores = [self.stores[bucket] for bucket in table.bucket_of]
        return [
            row for row, store in enumerate(stores)
            if canvas_key(table, row) not in store["canvas"] or table.references[row] not in store["condition"]
            or (table.rejected[row] and rejected_key(table, row) not in store["canvas"])
        ]  # fmt: skip

    def _announce(self, missing: Sequence[int], texts: Sequence[str], table: Table, num_words: int) -> None:
        """Size on disk and hit rate; UserError where there is no room."""
        pipeline = self.encoder.pipeline
        channels = 4 * pipeline.vae.config.latent_channels  # packed
        unit = 2 * pipeline.vae_scale_factor
        tokens = [2 * (height // unit) * (width // unit) for height, width in self.sizes]
        itemsize = pipeline.vae.dtype.itemsize
        latents = sum(2 * tokens[table.bucket_of[row]] * channels * itemsize for row in missing)
        width = self.encoder.max_sequence_length * pipeline.text_encoder_2.config.d_model
        wanted = latents + len(texts) * width * pipeline.text_encoder_2.dtype.itemsize
        folder = self.text_stores[0].folder.parent
        free = shutil.disk_usage(folder).free
        log.info(
            "train: encoding %d of %d pairs and %d of %d captions (the others are cached): %.3g GB in %s",
            len(missing), len(table), len(texts), num_words, wanted / 1e9, folder,
        )  # fmt: skip
        if wanted > free:
            raise UserError(
                f"cache_dir={folder}: the cache needs {wanted / 1e9:.3g} GB and {free / 1e9:.3g} GB are free; use "
                "another cache_dir, cache=latents (captions encoded at every step) or cache=off"
            )

    def _fill_latents(self, source: PairSource, table: Table, missing: Sequence[int], show: bool) -> None:
        row_at = {int(table.positions[row]): row for row in missing}
        with tqdm(
            total=len(missing), desc="latents", unit="pair", mininterval=1, disable=not (show and missing)
        ) as bar:
            for bucket, stores in enumerate(self.stores):
                places = sorted(place for place, row in row_at.items() if table.bucket_of[row] == bucket)
                for part in chunks(places, A_SEGMENT):
                    found: dict[str, dict[str, Tensor]] = {kind: {} for kind in KINDS}
                    for some in chunks(list(in_blocks(source, part)), AT_ONCE):
                        rows = [row_at[place] for place, _ in some]
                        references = [pair.reference.open() for _, pair in some]
                        targets = [pair.target.open() for _, pair in some]
                        canvases = self.encoder.canvas(references, targets, *self.sizes[bucket])
                        conditions = self.encoder.condition(references, *self.sizes[bucket])
                        if table.rejected[rows[0]]:
                            worse = [pair.rejected.open() for _, pair in some if pair.rejected]
                            worse_canvases = self.encoder.canvas(references, worse, *self.sizes[bucket]).cpu()
                            found["canvas"] |= zip((rejected_key(table, r) for r in rows), worse_canvases, strict=True)
                        found["canvas"] |= zip((canvas_key(table, row) for row in rows), canvases.cpu(), strict=True)
                        found["condition"] |= zip((table.references[r] for r in rows), conditions.cpu(), strict=True)
                        bar.update(len(some))
                    for kind, tensors in found.items():
                        if fresh := {key: tensor for key, tensor in tensors.items() if key not in stores[kind]}:
                            stores[kind].add(fresh)


KINDS = ("canvas", "condition")
CACHES = ("all", "latents", "off")


def open_pairs(
    source: PairSource,
    encoder: Encoder,
    sizes: Sequence[Size],
    cache: str,
    cache_dir: Path,
    worker: int,
    workers: int,
    wait: Callable[[], None],
    show: bool,
) -> Pairs:
    """The source's pairs, encoded. Each of `workers` fills its part; `wait` returns when all of this job have."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    make_table(source, cache_dir, worker, workers, show)
    mine = read_table(source, cache_dir, sizes, blocks(source)[worker::workers])
    pairs = CachedPairs(mine, encoder, cache_dir, sizes, cache == "all") if cache != "off" else None
    if pairs is not None:
        pairs.fill(source, mine, show)
    wait()
    if any_missing(source, cache_dir):
        return pairs or DirectPairs(mine, source, encoder, sizes)  # of another shard of mode=encode
    table = read_table(source, cache_dir, sizes)
    refuse_useless(table, str(cache_dir))
    if table.faults and show:
        position, reason = table.faults[0]
        log.warning("train: %d pairs are left out, such as number %d: %s", len(table.faults), position, reason)
    if cache == "off":
        return DirectPairs(table, source, encoder, sizes)
    return CachedPairs(table, encoder, cache_dir, sizes, cache == "all")


def open_store(cache_dir: Path, kind: str, about: dict[str, str | int], dtype: torch.dtype) -> Store:
    digest = hashlib.sha256(repr(sorted(about.items())).encode()).hexdigest()[:12]
    return Store(folder_of(cache_dir, kind, about, digest), dtype)


def canvas_key(table: Table, row: int) -> str:
    return f"{table.references[row]}{table.targets[row]}"


def rejected_key(table: Table, row: int) -> str:
    return f"{table.references[row]}{table.rejected[row]}"


def caption_key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))
