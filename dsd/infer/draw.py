"""Draw the jobs of a shard."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from dsd.errors import UserError
from dsd.flow import seed_at
from dsd.infer.methods import Method
from dsd.pipeline.jobs import Job
from dsd.records import Result
from dsd.runs.shards import Failure, Shard

log = logging.getLogger(__name__)
Enhance = Callable[[Image.Image, str], str]  # reference, the user's prompt -> the prompt that is drawn


def draw_shard(
    shard: Shard, jobs: Sequence[Job], enhance: Enhance, method: Method, name: str, seed: int, batch_size: int,
    config_hash: str, bar: Any,
) -> Iterator[Result | Failure]:  # fmt: skip
    """Yield the results of jobs shard.start..stop-1, in order."""
    for start in range(shard.start, shard.stop, batch_size):
        positions = range(start, min(start + batch_size, shard.stop))
        batch: list[tuple[Job, Image.Image, int]] = []
        for position in positions:
            job = jobs[position]
            try:
                picture = job.picture()
                job = replace(job, prompt=enhance(picture, job.prompt))
                batch.append((job, picture, seed_at(seed, position) if job.seed is None else job.seed))
            except UserError as error:
                log.warning("job %s failed: %s", job.name, error)
                yield Failure({"job": job.name, "prompt": job.prompt}, str(error))
        if batch:
            pictures = method([p for _, p, _ in batch], [j.prompt for j, _, _ in batch], [s for _, _, s in batch])
            for (job, reference, job_seed), picture in zip(batch, pictures, strict=True):
                shown = reference.convert("RGB")
                yield Result(job.name, picture, shown, job.prompt, job_seed, name, job.truth, config_hash)
        bar.update(len(positions))
