"""The cache of a training: latents and text embeddings, encoded once and stored under names of their content."""

import hashlib
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from dsd.errors import UserError
from dsd.models.families import Text
from dsd.runs.progress import progress
from dsd.train.data.encoder import Encoder
from dsd.train.data.sources import PairSource, RawPair
from dsd.train.data.store import Store, folder_of
from dsd.train.data.table import Size, Table, in_blocks

log = logging.getLogger(__name__)
Item = TypeVar("Item")
AT_ONCE = 16  # encoded together
A_SEGMENT = 256  # rows of a file: what a kill costs


class Cache:
    """Stores of what is drawn and of conditions, one of each size, and of captions. Nothing is encoded twice."""

    def __init__(self, encoder: Encoder, folder: Path, sizes: Sequence[Size], keep_text: bool) -> None:
        self.encoder, self.folder, self.sizes, self.keep_text = encoder, folder, sizes, keep_text
        latents, dtype = [encoder.about_latents(*size) for size in sizes], encoder.pipeline.vae.dtype
        drawn, condition = encoder.student.encodings
        self.drawn = [open_store(folder, drawn, about, dtype) for about in latents]
        # by size and number of references
        self.kept_conditions = {
            (size, 1): open_store(folder, condition, latents[size], dtype) for size in range(len(sizes))
        }
        self.texts: list[Store] = []  # one for each tensor of a caption's text
        if keep_text:
            about_text, dtype = encoder.about_text(), encoder.text_dtype
            self.texts = [open_store(folder, k, about_text, dtype) for k in ("text", "pooled")[: len(encoder.encoders)]]

    def refresh(self) -> None:
        """See what other workers have added."""
        for store in (*self.drawn, *self.kept_conditions.values(), *self.texts):
            store.refresh()

    def text(self, captions: Sequence[str]) -> Text:
        """Read the text of captions, (B, ...) each; encode it where it is not kept."""
        if not self.keep_text:
            return self.encoder.text(captions)
        return tuple(store.rows([caption_key(text) for text in captions]) for store in self.texts)

    def conditions(self, table: Table, row: int) -> Store:
        """Find the store of a pair's condition: that of its size and its number of references."""
        size, num = table.size_of(row), table.number_of(row)
        if (size, num) not in self.kept_conditions:
            about, kind = self.encoder.about_latents(*self.sizes[size]), f"{self.encoder.student.encodings[1]}-{num}"
            self.kept_conditions[size, num] = open_store(self.folder, kind, about, self.encoder.pipeline.vae.dtype)
        return self.kept_conditions[size, num]

    def drawn_key(self, table: Table, row: int) -> str:
        """Name what is drawn of a pair."""
        return self.encoder.student.drawn_key(table.references[row], table.targets[row])

    def negative_key(self, table: Table, row: int) -> str:
        """Name what is drawn of a pair's worse target."""
        return self.encoder.student.drawn_key(table.references[row], table.negatives[row])

    def fill(self, source: PairSource, table: Table, shown: bool) -> None:
        """Encode what is missing for these pairs and nothing else; say how much that is before it starts."""
        rows = [row for row in range(len(table)) if self._misses(table, row)]
        every = dict.fromkeys(["", *(text for both in table.captions for text in both)]) if self.keep_text else {}
        texts = [text for text in every if caption_key(text) not in self.texts[0]]
        if not rows and not texts:
            return
        self._announce(table, rows, texts, len(every))
        self._fill_latents(source, table, rows, shown)
        self._fill_texts(texts, shown)

    def _misses(self, table: Table, row: int) -> bool:
        """Tell whether a latent of this pair has to be encoded."""
        drawn, conditions = self.drawn[table.size_of(row)], self.conditions(table, row)
        return (
            self.drawn_key(table, row) not in drawn
            or table.references[row] not in conditions
            or (bool(table.negatives[row]) and self.negative_key(table, row) not in drawn)
        )

    def _announce(self, table: Table, rows: Sequence[int], texts: Sequence[str], num_texts: int) -> None:
        """Say what is to be encoded and its size on disk. UserError where there is no room."""
        pipeline = self.encoder.pipeline
        channels = 4 * pipeline.vae.config.latent_channels  # packed
        tokens = [self.encoder.student.canvas(*size).num_tokens for size in self.sizes]
        latents = sum(
            (1 + table.number_of(row)) * tokens[table.size_of(row)] * channels * pipeline.vae.dtype.itemsize
            for row in rows
        )
        numbers = self.encoder.max_sequence_length * self.encoder.student.family.text_width(pipeline)
        wanted = latents + len(texts) * numbers * self.encoder.text_dtype.itemsize
        free = shutil.disk_usage(self.folder).free
        log.info(
            "train: encoding %d of %d pairs and %d of %d captions (the others are cached): %.3g GB in %s",
            len(rows), len(table), len(texts), num_texts, wanted / 1e9, self.folder,
        )  # fmt: skip
        if wanted > free:
            raise UserError(
                f"cache_dir={self.folder}: the cache needs {wanted / 1e9:.3g} GB and {free / 1e9:.3g} GB are free; use "
                "another cache_dir, cache=latents (captions encoded at every step) or cache=off"
            )

    def _fill_latents(self, source: PairSource, table: Table, rows: Sequence[int], shown: bool) -> None:
        """Encode the latents of these rows, size by size, in the order of the source."""
        row_at = {int(table.positions[row]): row for row in rows}
        with progress(len(rows), "latents", "pair", shown=shown and bool(rows)) as bar:
            for bucket in sorted(set(table.bucket_of.tolist())):
                places = sorted(place for place, row in row_at.items() if table.bucket_of[row] == bucket)
                for part in chunks(places, A_SEGMENT):
                    drawn: dict[str, Tensor] = {}
                    conditions: dict[str, Tensor] = {}
                    for some in chunks(list(in_blocks(source, part)), AT_ONCE):
                        pairs = [(row_at[place], table.unchanged(row_at[place], pair)) for place, pair in some]
                        found = self._encode(table, pairs, self.sizes[table.size_of(pairs[0][0])])
                        drawn |= found[0]
                        conditions |= found[1]
                        bar.update(len(some))
                    row = row_at[part[0]]
                    add_missing(self.drawn[table.size_of(row)], drawn)
                    add_missing(self.conditions(table, row), conditions)

    def _encode(
        self, table: Table, pairs: Sequence[tuple[int, RawPair]], size: Size
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Encode pairs of one size, given with their rows: what is drawn by key, conditions by key."""
        rows, references = [row for row, _ in pairs], opened([pair for _, pair in pairs])
        drawn = self.encoder.drawn(references, [pair.target.open() for _, pair in pairs], *size).cpu()
        conditions = self.encoder.condition(references, *size).cpu()
        found: dict[str, Tensor] = {}
        if negatives := [pair.negative.open() for _, pair in pairs if pair.negative]:
            worse = self.encoder.drawn(references, negatives, *size).cpu()
            found |= zip((self.negative_key(table, row) for row in rows), worse, strict=True)
        found |= zip((self.drawn_key(table, row) for row in rows), drawn, strict=True)
        return found, dict(zip((table.references[row] for row in rows), conditions, strict=True))

    def _fill_texts(self, texts: Sequence[str], shown: bool) -> None:
        """Encode captions."""
        with progress(len(texts), "captions", "caption", shown=shown and bool(texts)) as bar:
            for part in chunks(texts, A_SEGMENT):
                encoded = [self.encoder.text(some) for some in chunks(part, AT_ONCE)]
                for store, tensors in zip(self.texts, zip(*encoded, strict=True), strict=True):
                    store.add(dict(zip(map(caption_key, part), torch.cat(tensors).unbind(), strict=True)))
                bar.update(len(part))


def opened(pairs: Sequence[RawPair]) -> list[list[Image.Image]]:
    """Decode the references of pairs."""
    return [[picture.open() for picture in pair.references] for pair in pairs]


def open_store(folder: Path, kind: str, about: Mapping[str, Any], dtype: torch.dtype) -> Store:
    """Open the store whose name tells its kind and all that its tensors depend on."""
    digest = hashlib.sha256(repr(sorted(about.items())).encode()).hexdigest()[:12]
    return Store(folder_of(folder, kind, about, digest), dtype)


def add_missing(store: Store, tensors: Mapping[str, Tensor]) -> None:
    """Write those tensors that the store does not hold, as one segment."""
    if fresh := {key: tensor for key, tensor in tensors.items() if key not in store}:
        store.add(fresh)


def caption_key(text: str) -> str:
    """Name a caption by its content."""
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Cut a sequence into pieces of `size`; the last may be shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))
