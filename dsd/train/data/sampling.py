"""What a sample of the stream is: which pair, which words, which noise. All of it follows from seed and position."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from dsd.flow import Sigmas, generator_at
from dsd.train.data.pairs import Pairs
from dsd.train.loss import Batch

EMPTY = ""  # the prompt of guidance's textless pass


@dataclass(frozen=True, eq=False)
class Sampling:
    """The stream of samples of some pairs. How it is divided over ranks changes nothing."""

    pairs: Pairs
    seed: int
    sigmas: Sigmas
    text_dropout: float  # share of samples that see the empty prompt
    condition_dropout: float  # share that sees the zero condition latent; drawn independently
    instruction_ratio: float  # share of captions that are instructions instead of descriptions
    batch_size: int  # of a whole step, whose samples share a bucket

    def row(self, position: int) -> int:
        """Which pair stands at a position: every epoch is a fresh shuffle."""
        epoch, place = divmod(position, self._epoch_length)
        return int(self._members[epoch_order(self._sizes, self.seed, self.batch_size, epoch)[place]])

    def batch(self, positions: Sequence[int]) -> Batch:
        """The samples at these positions of the stream."""
        rows, captions, keep = [self.row(position) for position in positions], [], []
        generators = [generator_at(self.seed, 1, position) for position in positions]
        for row, generator in zip(rows, generators, strict=True):
            no_text, no_condition, instruct = torch.rand(3, generator=generator).tolist()
            caption = self.pairs.captions[row][int(instruct < self.instruction_ratio)]
            captions.append(EMPTY if no_text < self.text_dropout else caption)
            keep.append(float(no_condition >= self.condition_dropout))
        latents = self.pairs.canvas(rows).float()
        cond_latents = self.pairs.condition(rows).float()
        rejected = self.pairs.rejected(rows)
        drawn = [
            (self.sigmas(1, generator, latents.shape[1]), torch.randn(latents.shape[1:], generator=generator))
            for generator in generators
        ]
        embeds, pooled = self.text(captions)
        return Batch(
            latents=latents,
            cond_latents=cond_latents * torch.tensor(keep, device=latents.device).view(-1, 1, 1),
            prompt_embeds=embeds,
            pooled_prompt_embeds=pooled,
            noise=torch.stack([noise for _, noise in drawn]).to(latents.device),
            sigmas=torch.cat([sigma for sigma, _ in drawn]).to(latents.device),
            rejected=None if rejected is None else rejected.float(),
            rows=tuple(rows),
        )

    def text(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Every distinct caption once."""
        words = list(dict.fromkeys(captions))
        place = [words.index(caption) for caption in captions]
        embeds, pooled = self.pairs.text(words)
        return embeds[place], pooled[place]

    @cached_property
    def _members(self) -> np.ndarray:
        """Rows sorted by bucket."""
        return np.argsort(np.asarray(self.pairs.bucket_of), kind="stable")

    @cached_property
    def _sizes(self) -> tuple[int, ...]:
        """Pairs of each bucket that has any."""
        return tuple(int(size) for size in np.bincount(self.pairs.bucket_of) if size)

    @cached_property
    def _epoch_length(self) -> int:
        return len(epoch_order(self._sizes, self.seed, self.batch_size, 0))


@lru_cache(maxsize=2)
def epoch_order(sizes: tuple[int, ...], seed: int, batch_size: int, epoch: int) -> np.ndarray:
    """Places among rows sorted by bucket. One bucket is shuffled, and epochs flow into each other. Several are shuffled
    each, cut into whole batches, the last filled up from the bucket's beginning, and the batches are shuffled."""
    generator, starts = generator_at(seed, 0, epoch), np.cumsum([0, *sizes])
    shuffled = [start + torch.randperm(size, generator=generator).numpy() for start, size in zip(starts, sizes)]
    if len(shuffled) == 1:
        return shuffled[0]
    batches = np.concatenate([np.resize(part, (-(-len(part) // batch_size), batch_size)) for part in shuffled])
    return batches[torch.randperm(len(batches), generator=generator).numpy()].reshape(-1)
