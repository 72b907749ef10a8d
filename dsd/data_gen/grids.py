"""Draws the grids of a range of positions."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from dsd.data_gen.prompts import NoPrompt, PromptSource
from dsd.data_gen.teachers import Teacher
from dsd.flow import seed_at
from dsd.records import Grid, Prompt
from dsd.shards import Failure, Shard

log = logging.getLogger(__name__)


def draw(
    shard: Shard, prompt_at: PromptSource, teacher: Teacher, seed: int, batch_size: int, config_hash: str, bar: tqdm
) -> Iterator[Grid | Failure]:
    """Yield the grids at shard.start..stop-1, in order. Prompts of one layout that stand together share a batch."""
    prompts = []
    for index, asked in enumerate(ask_all(prompt_at, range(shard.start, shard.stop)), shard.start):
        if isinstance(asked, Prompt):
            prompts.append(asked)
        else:
            yield Failure({"index": index}, f"no prompt: {asked}")
            bar.update(1)
    for batch in same_layout(prompts, batch_size):
        seeds = [seed_at(seed, prompt.index) for prompt in batch]
        try:
            images = teacher(batch, seeds)
        except Exception as error:  # one bad batch must not stop a long job; out of memory is for the user to mend
            if "out of memory" in str(error).lower():
                raise
            log.warning("grids %d-%d failed: %s", batch[0].index, batch[-1].index, error)
            yield from (Failure({"index": p.index, "prompt": p.prompt}, repr(error)) for p in batch)
            bar.update(len(batch))
            continue
        for prompt, image, grid_seed in zip(batch, images, seeds, strict=True):
            fields = {name: value for name, value in vars(prompt).items() if name != "source"}
            yield Grid(
                **fields, image=image, seed=grid_seed, height=image.height, width=image.width, config_hash=config_hash
            )
        bar.update(len(batch))


def ask_all(prompt_at: PromptSource, indices: range) -> Iterator[Prompt | NoPrompt]:
    """In order; side by side, since a language model may be asked."""

    def one(index: int) -> Prompt | NoPrompt:
        try:
            return prompt_at(index)
        except NoPrompt as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        yield from pool.map(one, indices)


def same_layout(prompts: Sequence[Prompt], batch_size: int) -> Iterator[list[Prompt]]:
    """Batches of at most `batch_size` consecutive prompts, each of one layout."""
    batch: list[Prompt] = []
    for prompt in prompts:
        if batch and (len(batch) == batch_size or prompt.layout != batch[0].layout):
            yield batch
            batch = []
        batch.append(prompt)
    if batch:
        yield batch
