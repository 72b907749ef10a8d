"""Write the verdicts and pairs of a shard, and leave a shard with an unanswered pair for the next run."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from dsd.curation.judge import UNANSWERED
from dsd.curation.judging import Unanswered
from dsd.curation.pairs import PairWriter, beside
from dsd.errors import UserError
from dsd.io.records import Verdict, features
from dsd.runs.shards import Failure, Shard, write_shard


class NotAnswered(Exception):
    """Some pairs of a shard have no answer for now, so the shard is not written."""


@dataclass
class Judging:
    """Writes shards of verdicts, unless they are there, and of pairs.

    A shard with an unanswered pair is left for the next run, unless `skip` records such pairs as failures. What was
    answered is in the cache of the judge's service.
    """

    judge: Callable[..., Any] | None  # None: every verdict is there
    pairs: PairWriter
    skip: bool
    last: Shard  # of this run
    unanswered: list[str] = field(default_factory=list)  # reasons, of all shards

    def write(self, shard: Shard, bar: Any) -> None:
        """Write one shard. UserError after the last one if any pair is unanswered."""
        verdicts = beside(shard, "verdicts", self.pairs.verdicts_dir)
        if self.judge is None or verdicts.path.exists():
            bar.update(shard.stop - shard.start)
        else:
            with suppress(NotAnswered):
                write_shard(verdicts, self._answered(self.judge(verdicts, bar=bar)), features(Verdict))
        if verdicts.path.exists():
            self.pairs.write(shard)
        if shard == self.last and self.unanswered:
            raise UserError(
                f"{self.pairs.verdicts_dir}: {len(self.unanswered)} pairs have no answer, the first because: "
                f"{self.unanswered[0]}; what was answered is kept, run the same command again to ask for them, or "
                "finish without them by skip_unanswered=true"
            )

    def _answered(self, rows: Iterable[Verdict | Failure]) -> Iterator[Verdict | Failure]:
        """Hand rows on. NotAnswered after the last one if any is unanswered."""
        before = len(self.unanswered)
        for row in rows:
            if isinstance(row, Unanswered) and not self.skip:
                self.unanswered.append(row.reason.removeprefix(f"{UNANSWERED}: "))
            yield row
        if len(self.unanswered) > before:
            raise NotAnswered
