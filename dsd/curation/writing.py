"""Write the verdicts and pairs of a shard, and leave a shard with an unanswered pair for the next run."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from typing import Any

from dsd.curation.judge import UNANSWERED
from dsd.curation.judging import Unanswered
from dsd.curation.pairs import PairWriter, beside
from dsd.errors import UserError
from dsd.io.records import Verdict, features
from dsd.runs.shards import Failure, Shard, write_shard

WRITERS = max(1, min(4, (os.cpu_count() or 1) - 1))  # threads that encode pairs
Stream = Generator[
    tuple[int, list[Verdict | Failure]], None, None
]  # the position after some grids, and the verdicts on them


class NotAnswered(Exception):
    """Some pairs of a shard have no answer for now, so the shard is not written."""


class Judging:
    """Writes shards of verdicts, unless they are there, and of pairs.

    Verdicts of all shards come from one stream, so that the judge has questions across the end of a shard; threads
    encode and write the pairs of shards that are judged meanwhile. A shard with an unanswered pair is left for the next
    run, unless `skip` records such pairs as failures. What was answered is in the cache of the judge's service.
    """

    def __init__(
        self, judge: Callable[[Sequence[Shard]], Stream] | None, pairs: PairWriter, skip: bool, todo: Sequence[Shard]
    ) -> None:
        self.judge, self.pairs, self.skip, self.last = judge, pairs, skip, todo[-1]  # without judge, nothing is asked
        every = [beside(shard, "verdicts", pairs.verdicts_dir) for shard in todo]
        self.unjudged = [shard for shard in every if not shard.path.exists()]
        self.unanswered: list[str] = []  # reasons, of all shards
        self.pool, self.writing = ThreadPoolExecutor(WRITERS), list[Future[None]]()

    @cached_property
    def stream(self) -> Stream:
        """The verdicts of all shards that have none yet."""
        assert self.judge is not None
        return self.judge(self.unjudged)

    def write(self, shard: Shard, bar: Any) -> None:
        """Judge one shard and have its pairs written. After the last shard, UserError if any pair is unanswered."""
        try:
            self._write(shard, bar)
        except BaseException:
            if self.judge is not None:
                self.stream.close()  # otherwise Python would ask the open questions before it ends
            self.pool.shutdown(cancel_futures=True)
            raise

    def _write(self, shard: Shard, bar: Any) -> None:
        verdicts = beside(shard, "verdicts", self.pairs.verdicts_dir)
        if verdicts in self.unjudged:
            with suppress(NotAnswered):
                write_shard(verdicts, self._answered(self._rows(verdicts, bar)), features(Verdict))
        else:
            bar.update(shard.stop - shard.start)
        if verdicts.path.exists():
            self.writing.append(self.pool.submit(self.pairs.write, shard))
        for future in self.writing:
            if shard == self.last or future.done():
                future.result()
        if shard == self.last:
            self.pool.shutdown()
        if shard == self.last and self.unanswered:
            raise UserError(
                f"{self.pairs.verdicts_dir}: {len(self.unanswered)} pairs have no answer, the first because: "
                f"{self.unanswered[0]}; what was answered is kept, run the same command again to ask for them, or "
                "finish without them by skip_unanswered=true"
            )

    def _rows(self, shard: Shard, bar: Any) -> Iterator[Verdict | Failure]:
        """Take the verdicts of one shard from the stream."""
        position = shard.start
        while position < shard.stop:
            stop, rows = next(self.stream)
            yield from rows
            bar.update(stop - position)
            position = stop

    def _answered(self, rows: Iterable[Verdict | Failure]) -> Iterator[Verdict | Failure]:
        """Hand rows on. NotAnswered after the last one if any is unanswered."""
        before = len(self.unanswered)
        for row in rows:
            if isinstance(row, Unanswered) and not self.skip:
                self.unanswered.append(row.reason.removeprefix(f"{UNANSWERED}: "))
            yield row
        if len(self.unanswered) > before:
            raise NotAnswered
