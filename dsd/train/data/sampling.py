"""Draw the samples of a step: which pair, which caption, which noise. All follows from the seed and the position."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch

from dsd.flow import Sigmas, generator_at
from dsd.models.canvas import Canvas
from dsd.models.families import Text
from dsd.models.student import Conditions
from dsd.train.data.batch import Batch
from dsd.train.data.pairs import Pairs

EMPTY = ""  # the prompt of guidance's pass without text


@dataclass(frozen=True, eq=False)
class Sampling:
    """An endless stream of samples. How it is divided over processes changes no sample."""

    pairs: Pairs
    canvases: Sequence[Canvas]  # of each size
    seed: int
    sigmas: Sigmas
    text_dropout: float  # share of samples with the empty prompt
    condition_dropout: float  # share of samples with zero condition latents; drawn independently
    instruction_ratio: float  # share of captions that are instructions instead of descriptions
    batch_size: int  # of a whole step; its samples have one size

    def row(self, position: int) -> int:
        """Find the pair at a position of the stream. Every epoch is a fresh shuffle."""
        epoch, place = divmod(position, self._epoch_length)
        return int(self._members[epoch_order(self._counts, self.seed, self.batch_size, epoch)[place]])

    def batch(self, positions: Sequence[int]) -> Batch:
        """Draw the samples at these positions of the stream."""
        rows = [self.row(position) for position in positions]
        generators = [generator_at(self.seed, 1, position) for position in positions]
        captions, keep = self._choose(rows, generators)
        latents = self.pairs.drawn(rows).float()
        cond_latents = self.pairs.condition(rows).float() * torch.tensor(keep, device=latents.device).view(-1, 1, 1)
        negative = self.pairs.negative(rows)
        drawn = [
            (self.sigmas(1, generator, latents.shape[1]), torch.randn(latents.shape[1:], generator=generator))
            for generator in generators
        ]
        return Batch(
            canvas=self.canvases[self.pairs.bucket_of[rows[0]] % len(self.canvases)],
            latents=latents,
            conditions=Conditions(cond_latents, self._text(captions)),
            noise=torch.stack([noise for _, noise in drawn]).to(latents.device),
            sigmas=torch.cat([sigma for sigma, _ in drawn]).to(latents.device),
            negative=None if negative is None else negative.float(),
            positions=tuple(int(self.pairs.positions[row]) for row in rows),
        )

    def _choose(
        self, rows: Sequence[int], generators: Sequence[torch.Generator]
    ) -> tuple[list[str], list[float]]:  # fmt: skip
        """Choose the caption of each sample, and whether its condition is kept (1) or dropped (0)."""
        captions, keep = [], []
        for row, generator in zip(rows, generators, strict=True):
            no_text, no_condition, instruct = torch.rand(3, generator=generator).tolist()
            caption = self.pairs.captions[row][int(instruct < self.instruction_ratio)]
            captions.append(EMPTY if no_text < self.text_dropout else caption)
            keep.append(float(no_condition >= self.condition_dropout))
        return captions, keep

    def _text(self, captions: Sequence[str]) -> Text:
        """Read the text of captions, (B, ...) each; each distinct caption once."""
        distinct = list(dict.fromkeys(captions))
        place = [distinct.index(caption) for caption in captions]
        return tuple(part[place] for part in self.pairs.text(distinct))

    @cached_property
    def _members(self) -> np.ndarray:
        """Sort rows by size."""
        return np.argsort(np.asarray(self.pairs.bucket_of), kind="stable")

    @cached_property
    def _counts(self) -> tuple[int, ...]:
        """Count the pairs of each size that has any."""
        return tuple(int(count) for count in np.bincount(self.pairs.bucket_of) if count)

    @cached_property
    def _epoch_length(self) -> int:
        return len(epoch_order(self._counts, self.seed, self.batch_size, 0))


@lru_cache(maxsize=2)
def epoch_order(counts: tuple[int, ...], seed: int, batch_size: int, epoch: int) -> np.ndarray:
    """Order an epoch: places among rows sorted by size.

    Pairs of one size are shuffled, and epochs flow into each other. Of several sizes, each is shuffled and cut into
    whole batches, the last one filled up from the size's beginning; then the batches are shuffled.
    """
    generator, starts = generator_at(seed, 0, epoch), np.cumsum([0, *counts])
    shuffled: list[np.ndarray] = [
        start + torch.randperm(count, generator=generator).numpy() for start, count in zip(starts, counts)
    ]
    if len(shuffled) == 1:
        return shuffled[0]
    batches = np.concatenate([np.resize(part, (-(-len(part) // batch_size), batch_size)) for part in shuffled])
    order: np.ndarray = batches[torch.randperm(len(batches), generator=generator).numpy()].reshape(-1)
    return order
