"""Several sets of pairs in one training, told apart by a task word or by the captions alone."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from dsd.errors import UserError
from dsd.train.data.sources import PairSource, RawPair, Unread, curated, digest

MOST_REPEATS = 1000  # of a pair in an epoch


class Mixed:
    """One set after the other. Positions of a set are repeated in order, so that each has its share of an epoch.

    No pair is left out: the set that is largest for its share is seen once an epoch. Without shares every pair is
    seen once, so a set counts by its size. A task word stands before the captions and instructions of its set.
    `instructed` says of each set whether its captions are left out, so that its pairs come with instructions alone.
    """

    def __init__(
        self,
        sources: Sequence[PairSource],
        task_words: Sequence[str] | None = None,
        shares: Sequence[float] | None = None,
        instructed: Sequence[bool] | None = None,
    ) -> None:
        self.sources = list(sources)
        if not self.sources:
            raise UserError("data.paths: no set in it; give the folders of dsd-curate: data.paths=[a,b]")
        self.words = [""] * len(self.sources) if task_words is None else [word or "" for word in task_words]
        refuse_unlike("task_words", self.words, len(self.sources))
        self.instructed = [False] * len(self.sources) if instructed is None else list(instructed)
        refuse_unlike("instructed", self.instructed, len(self.sources))
        self.counts = counts_of([len(source) for source in self.sources], shares)
        told = (self.words, self.counts, self.instructed)
        self.fingerprint = digest([source.fingerprint for source in self.sources], *told)

    def __len__(self) -> int:
        return sum(self.counts)

    def block(self, positions: range) -> Iterator[RawPair | Unread]:
        start = 0
        told = zip(self.words, self.instructed, strict=True)
        for source, (word, instructed), count in zip(self.sources, told, self.counts, strict=True):
            wanted = range(max(positions.start, start) - start, min(positions.stop, start + count) - start)
            for run in runs(wanted, len(source)):
                for pair in source.block(run):
                    yield pair if isinstance(pair, Unread) else worded(pair, word, instructed)
            start += count


def counts_of(sizes: Sequence[int], shares: Sequence[float] | None) -> list[int]:
    """Count the positions of each set in an epoch. UserError where shares are not above 0, or do not add up to 1."""
    if shares is None:
        return list(sizes)
    refuse_unlike("shares", shares, len(sizes))
    if not all(isinstance(share, int | float) and share > 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise UserError(f"data.shares={list(shares)}: shares above 0 that add up to 1 are needed")
    total = max(size / share for size, share in zip(sizes, shares, strict=True))
    counts = [round(share * total) for share in shares]
    most = max(count / size for count, size in zip(counts, sizes, strict=True))
    if most > MOST_REPEATS:
        raise UserError(
            f"data.shares={list(shares)}: sets of {list(sizes)} pairs would repeat a pair {most:.0f} times an "
            f"epoch, at most {MOST_REPEATS} are allowed; give the small set a smaller share"
        )
    return counts


def refuse_unlike(name: str, values: Sequence[object], num: int) -> None:
    """Raise UserError where a list does not name one value for each set."""
    if len(values) != num:
        raise UserError(f"data.{name}={list(values)}: {len(values)} values for {num} sets; give one for each")


def runs(positions: range, size: int) -> Iterator[range]:
    """Cut positions of a set that is repeated into ranges of its own positions."""
    start = positions.start
    while start < positions.stop:
        first = start % size
        stop = min(size, first + positions.stop - start)
        yield range(first, stop)
        start += stop - first


def worded(pair: RawPair, word: str, instructed: bool) -> RawPair:
    """Put the task word before a pair's texts, which are its instruction alone where it is `instructed`.

    A pair without caption stays without.
    """
    if not pair.description.strip():
        return pair
    texts = (pair.instruction if instructed else pair.description, pair.instruction)
    caption, instruction = (f"{word} {text}" if word else text for text in texts)
    return replace(pair, description=caption, instruction=instruction)


def mixed(
    paths: Sequence[str],
    task_words: Sequence[str] | None = None,
    shares: Sequence[float] | None = None,
    instructed: Sequence[bool] | None = None,
    sources: Sequence[PairSource] = (),
) -> Mixed:
    """Read folders of dsd-curate and, after them, sets of any other kind (`sources`) as one. UserError as `curated`."""
    if isinstance(paths, str):
        raise UserError(f"data.paths={paths}: a list is needed; write data.paths=[a,b]")
    return Mixed([*map(curated, paths), *sources], task_words, shares, instructed)
