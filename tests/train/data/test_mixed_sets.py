"""Several sets in one training: exact shares, task words, and one content name."""

from collections import Counter
from collections.abc import Iterator

import pytest

from dsd.errors import UserError
from dsd.train.data.mixed import Mixed, mixed
from dsd.train.data.sources import Picture, RawPair, Unread


class Numbered:
    """A set whose captions tell the set and the position."""

    def __init__(self, name: str, num: int, unread: tuple[int, ...] = ()) -> None:
        self.name, self.num, self.unread, self.fingerprint = name, num, unread, f"{name}{num}"

    def __len__(self) -> int:
        return self.num

    def block(self, positions: range) -> Iterator[RawPair | Unread]:
        assert 0 <= positions.start < positions.stop <= self.num
        for n in positions:
            picture = Picture(f"{self.name}{n}".encode())
            text = f"{self.name}{n}"
            yield Unread("broken") if n in self.unread else RawPair(picture, picture, text, f"do {text}")


def texts(source: Mixed, positions: range | None = None) -> list[str]:
    found = source.block(range(len(source)) if positions is None else positions)
    return [pair.description if isinstance(pair, RawPair) else pair.reason for pair in found]


def test_without_shares_every_pair_is_there_once() -> None:
    source = Mixed([Numbered("a", 3), Numbered("b", 2, unread=(0,))])
    assert texts(source) == ["a0", "a1", "a2", "broken", "b1"]


@pytest.mark.parametrize(
    ("sizes", "shares", "counts"),
    [
        ((10, 5), [0.5, 0.5], (10, 10)),
        ((10, 4), [0.5, 0.5], (10, 10)),
        ((3, 100), [0.25, 0.75], (33, 100)),
        ((4, 4, 4), [0.5, 0.25, 0.25], (8, 4, 4)),
        ((7, 1), [0.875, 0.125], (7, 1)),
    ],
)
def test_shares_are_exact_and_no_pair_is_left_out(sizes, shares, counts) -> None:
    source = Mixed([Numbered(name, size) for name, size in zip("abc", sizes)], shares=shares)
    seen = Counter(texts(source))
    for name, size, count in zip("abc", sizes, counts):
        ours = {text: num for text, num in seen.items() if text[0] == name}
        assert sum(ours.values()) == count
        assert len(ours) == size
        assert max(ours.values()) - min(ours.values()) <= 1, "repeated alike"


def test_a_position_is_always_the_same_pair() -> None:
    source = Mixed([Numbered("a", 3), Numbered("b", 4), Numbered("c", 2)], shares=[0.6, 0.2, 0.2])
    whole = texts(source)
    assert len(whole) == 20
    for width in (1, 3, 7):
        assert whole == [
            text for n in range(0, 20, width) for text in texts(source, range(n, min(n + width, 20)))
        ]  # fmt: skip


def test_task_words_stand_before_the_texts_of_their_set() -> None:
    source = Mixed([Numbered("a", 1), Numbered("b", 1), Numbered("", 1)], ["", "relight", None])
    pairs = [pair for pair in source.block(range(3)) if isinstance(pair, RawPair)]
    assert [(p.description, p.instruction) for p in pairs] == [
        ("a0", "do a0"), ("relight b0", "relight do b0"), ("0", "do 0"),
    ]  # fmt: skip


def test_an_instructed_set_comes_with_instructions_alone() -> None:
    source = Mixed([Numbered("a", 1), Numbered("b", 1)], ["", "relight"], instructed=[False, True])
    pairs = [pair for pair in source.block(range(2)) if isinstance(pair, RawPair)]
    assert [(p.description, p.instruction) for p in pairs] == [
        ("a0", "do a0"), ("relight do b0", "relight do b0"),
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"data.instructed=\[True\]: 1 values for 2 sets"):
        Mixed([Numbered("a", 1), Numbered("b", 1)], instructed=[True])


def test_a_pair_without_caption_stays_without() -> None:
    """Otherwise the task word alone would be its caption."""

    class Silent(Numbered):
        def block(self, positions: range) -> Iterator[RawPair | Unread]:
            yield from (RawPair(Picture(b"a"), Picture(b"b"), " ", "") for _ in positions)

    assert texts(Mixed([Silent("a", 1)], ["relight"])) == [" "]


def test_mixed_sets_are_known_by_their_sets_words_and_shares() -> None:
    a, b = Numbered("a", 4), Numbered("b", 2)
    every = [
        Mixed([a, b]), Mixed([b, a]), Mixed([a, Numbered("b", 3)]), Mixed([a, b], ["", "x"]),
        Mixed([a, b], shares=[0.5, 0.5]), Mixed([a, b], instructed=[False, True]),
    ]  # fmt: skip
    assert len({source.fingerprint for source in every}) == 6
    assert Mixed([a, b], ["", ""]).fingerprint == Mixed([a, b]).fingerprint


def test_wrong_mixtures_are_one_line(pairs) -> None:
    a, b = Numbered("a", 4), Numbered("b", 2)
    for words, shares, said in (
        (["x"], None, r"data.task_words=\['x'\]: 1 values for 2 sets; give one for each"),
        (None, [1.0], r"data.shares=\[1.0\]: 1 values for 2 sets"),
        (None, [0.5, 0.6], "shares above 0 that add up to 1"),
        (None, [1.0, 0.0], "shares above 0 that add up to 1"),
        (None, ["a", "b"], "shares above 0 that add up to 1"),
        (None, [0.0001, 0.9999], "would repeat a pair 19998 times an epoch"),
    ):
        with pytest.raises(UserError, match=said):
            Mixed([a, b], words, shares)
    with pytest.raises(UserError, match=r"data.paths=here: a list is needed"):
        mixed("here")
    with pytest.raises(UserError, match=r"give the folders of dsd-curate: data.paths=\[a,b\]"):
        mixed([])
    with pytest.raises(UserError, match="nowhere: no such folder; run"):
        mixed([str(pairs), "nowhere"])


def test_folders_and_other_sets_mix(pairs) -> None:
    source = mixed([str(pairs)], sources=[Numbered("b", 2)])
    assert texts(source)[-2:] == ["b0", "b1"]
    assert len(source) == source.counts[0] + 2
