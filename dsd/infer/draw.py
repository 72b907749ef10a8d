"""Draw the jobs of a shard."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from dsd.errors import UserError
from dsd.flow import seed_at
from dsd.infer.methods import Method
from dsd.io.records import NOT_ATTEMPTED, Result
from dsd.pipeline.jobs import Job, JobSource
from dsd.runs.shards import Failure, Shard

log = logging.getLogger(__name__)
Enhance = Callable[[Image.Image, str], str]  # reference, the user's prompt -> the prompt that is drawn
Ready = tuple[int, Job, list[Image.Image], int]  # position, job, its references, seed
Part = tuple[int, list[Result | Failure]]  # the position after its last job, and what became of its jobs


@dataclass(frozen=True)
class Drawer:
    """Draws jobs in batches; a job that fails is recorded with its reason."""

    jobs: JobSource
    enhance: Enhance
    method: Method
    name: str  # of the method
    seed: int
    batch_size: int
    config_hash: str

    def parts(self, shard: Shard, bar: Any, start: int) -> Iterator[Part]:
        """Yield the results of jobs start..shard.stop-1, in order, a batch at a time."""
        bar.update(start - shard.start)
        for first in range(start, shard.stop, self.batch_size):
            positions = range(first, min(first + self.batch_size, shard.stop))
            yield positions.stop, self.batch(positions)
            bar.update(len(positions))

    def batch(self, positions: range) -> list[Result | Failure]:
        """Draw the jobs at consecutive positions."""
        rows: dict[int, Result | Failure] = {}
        ready: list[Ready] = []
        for position in positions:
            try:
                job = self.jobs[position]
                pictures = job.pictures()
                refuse_attempt(len(pictures), self.method, self.name)
                job = replace(job, prompt=self.enhance(pictures[0], job.prompt))
                seed = seed_at(self.seed, position) if job.seed is None else job.seed
                ready.append((position, job, pictures, seed))
            except UserError as error:
                rows[position] = self.failure(self.jobs[position], error)
        if ready:
            rows |= self.drawn(ready)
        return [rows[position] for position in positions]

    def drawn(self, ready: list[Ready]) -> dict[int, Result | Failure]:
        """Draw jobs whose references could be read, by position."""
        try:
            pictures = self.method([r[2] for r in ready], [r[1].prompt for r in ready], [r[3] for r in ready])
        except UserError as error:
            if len(ready) > 1:  # one of them may be at fault: draw each alone
                return {position: row for one in ready for position, row in self.drawn([one]).items()}
            ((position, job, _, _),) = ready
            return {position: self.failure(job, error)}
        return {
            position: self.result(job, picture, references, seed)
            for (position, job, references, seed), picture in zip(ready, pictures, strict=True)
        }

    def result(self, job: Job, picture: Image.Image, references: list[Image.Image], seed: int) -> Result:
        """Record a picture with what it was drawn from."""
        return Result(
            job=job.name, image=picture, reference=references[0], others=references[1:], prompt=job.prompt, seed=seed,
            method=self.name, category=job.category, kind=job.kind, truth=job.truth, config_hash=self.config_hash,
        )  # fmt: skip

    @staticmethod
    def failure(job: Job, error: UserError) -> Failure:
        """Record a job that cannot be drawn."""
        log.warning("job %s%s: %s", job.name, "" if isinstance(error, NotAttempted) else " failed", error)
        return Failure({"job": job.name, "prompt": job.prompt}, str(error))


class NotAttempted(UserError):
    """A job that a method cannot even begin. It counts apart from failures, and never as a 0."""


def refuse_attempt(num_references: int, method: Method, name: str) -> None:
    """Raise NotAttempted where a job has more references than a method takes."""
    most = method.most_references
    if most is not None and num_references > most:
        raise NotAttempted(f"{NOT_ATTEMPTED}: {num_references} references, {name} takes at most {most}")
