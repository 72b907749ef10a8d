"""Pairs as tensors, by row of the table: read from the cache, or encoded when wanted. Both give the same numbers."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from dsd.models.families import Text
from dsd.models.student import refuse_too_many
from dsd.train.data.cache import Cache, opened
from dsd.train.data.encoder import Encoder
from dsd.train.data.sources import PairSource, Picture, RawPair
from dsd.train.data.table import Size, Table, blocks, left_out, make_table, read_table, refuse_useless

log = logging.getLogger(__name__)


class Pairs(Protocol):
    """N pairs, each of one size. Shapes as in `Encoder`; the rows that are asked for together share a size."""

    @property
    def table(self) -> Table: ...

    @property
    def bucket_of(self) -> np.ndarray: ...

    @property
    def positions(self) -> np.ndarray: ...  # in the source; they name pairs in messages

    @property
    def captions(self) -> list[tuple[str, str]]: ...  # description, instruction

    def drawn(self, rows: Sequence[int]) -> Tensor:
        """Give the latents of what the student learns to draw, (B, L, C)."""
        ...

    def condition(self, rows: Sequence[int]) -> Tensor:
        """Give the latents of the references as a condition, (B, R, C)."""
        ...

    def negative(self, rows: Sequence[int]) -> Tensor | None:
        """Give the latents of a worse target, (B, L, C) like `drawn`; None where the pairs have none."""
        ...

    def text(self, captions: Sequence[str]) -> Text:
        """Give the text of captions, (B, ...) each."""
        ...


@dataclass(frozen=True)
class CachedPairs:
    """Pairs read from the cache."""

    table: Table
    cache: Cache

    @property
    def bucket_of(self) -> np.ndarray:
        return self.table.bucket_of

    @property
    def positions(self) -> np.ndarray:
        return self.table.positions

    @property
    def captions(self) -> list[tuple[str, str]]:
        return self.table.captions

    def drawn(self, rows: Sequence[int]) -> Tensor:
        keys = [self.cache.drawn_key(self.table, row) for row in rows]
        return self.cache.drawn[self.table.size_of(rows[0])].rows(keys)

    def condition(self, rows: Sequence[int]) -> Tensor:
        store = self.cache.conditions(self.table, rows[0])
        return store.rows([self.table.references[row] for row in rows])

    def negative(self, rows: Sequence[int]) -> Tensor | None:
        if not self.table.negatives[rows[0]]:
            return None
        keys = [self.cache.negative_key(self.table, row) for row in rows]
        return self.cache.drawn[self.table.size_of(rows[0])].rows(keys)

    def text(self, captions: Sequence[str]) -> Text:
        return self.cache.text(captions)


@dataclass(frozen=True)
class DirectPairs:
    """Pairs encoded when they are wanted. That needs no disk, but the encoders work on the device at every step."""

    table: Table
    source: PairSource
    encoder: Encoder
    sizes: Sequence[Size]

    @property
    def bucket_of(self) -> np.ndarray:
        return self.table.bucket_of

    @property
    def positions(self) -> np.ndarray:
        return self.table.positions

    @property
    def captions(self) -> list[tuple[str, str]]:
        return self.table.captions

    def drawn(self, rows: Sequence[int]) -> Tensor:
        pairs = self._read(rows)
        return self._drawn(rows, pairs, [pair.target for pair in pairs])

    def condition(self, rows: Sequence[int]) -> Tensor:
        return self.encoder.condition(opened(self._read(rows)), *self._size(rows))

    def negative(self, rows: Sequence[int]) -> Tensor | None:
        pairs = self._read(rows)
        negatives = [pair.negative for pair in pairs if pair.negative]
        return self._drawn(rows, pairs, negatives) if negatives else None

    def text(self, captions: Sequence[str]) -> Text:
        return self.encoder.text(captions)

    def _drawn(self, rows: Sequence[int], pairs: Sequence[RawPair], targets: Sequence[Picture]) -> Tensor:
        return self.encoder.drawn(opened(pairs), [picture.open() for picture in targets], *self._size(rows))

    def _size(self, rows: Sequence[int]) -> Size:
        return self.sizes[self.table.size_of(rows[0])]

    def _read(self, rows: Sequence[int]) -> list[RawPair]:
        places = [(row, int(self.table.positions[row])) for row in rows]
        return [self.table.unchanged(r, p) for r, at in places for p in self.source.block(range(at, at + 1))]


def prepare_pairs(
    source: PairSource, cache_dir: Path, encoder: Encoder, sizes: Sequence[Size], cache: Cache | None, worker: int,
    workers: int, shown: bool,
) -> None:  # fmt: skip
    """Do this worker's part of what pairs need: their table and, with a cache, their latents and embeddings.

    UserError where a pair has more references than the student takes.
    """
    part = blocks(source)[worker::workers]
    make_table(source, cache_dir, part, shown)
    table = read_table(source, cache_dir, sizes, part)
    refuse_too_many(table.most_references, encoder.student)
    if cache is not None:
        cache.fill(source, table, shown)


def open_pairs(
    source: PairSource, cache_dir: Path, encoder: Encoder, sizes: Sequence[Size], cache: Cache | None, shown: bool
) -> Pairs:
    """Open the pairs that all workers have prepared. UserError where not one of them can be read."""
    table = read_table(source, cache_dir, sizes, blocks(source))
    refuse_useless(table, str(cache_dir))
    if table.faults and shown:
        log.warning("train: %s", left_out(table.faults))
    if cache is None:
        return DirectPairs(table, source, encoder, sizes)
    cache.refresh()
    return CachedPairs(table, cache)
