"""Prompts of the next shard are asked for while the current one is drawn; nothing else changes."""

import threading

import pytest

from dsd.data_gen.prompts import NoPrompt
from dsd.data_gen.prompts_ahead import PromptsAhead
from dsd.data_gen.templates import TemplatePrompts
from dsd.errors import UserError

RANGES = [range(0, 3), range(3, 6), range(6, 8)]


class Source:
    """Gives prompts and notes what was asked; position 4 has none, and after `most` prompts a budget is used up."""

    def __init__(self, most: int = 100) -> None:
        self.inner = TemplatePrompts("1x2", "same", 0, "{noun} {subject} {panels}", "{tag} {place}")
        self.asked, self.most, self.changed = list[int](), most, threading.Condition()

    def __call__(self, index: int):
        with self.changed:
            if len(self.asked) == self.most:
                raise UserError("the budget is used up")
            self.asked.append(index)
            self.changed.notify_all()
        if index == 4:
            raise NoPrompt("none")
        return self.inner(index)

    def wait_for(self, num: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.asked) == num, timeout=600)


def test_the_next_range_is_asked_for_before_it_is_wanted_and_no_other() -> None:
    source = Source()
    prompts = PromptsAhead(source, RANGES)
    assert source.asked == []
    assert prompts(RANGES[0]) == [source.inner(index) for index in RANGES[0]]
    source.wait_for(6)
    assert sorted(source.asked) == list(range(6))
    first, missing, last = prompts(RANGES[1])
    assert (first, last) == (source.inner(3), source.inner(5))
    assert isinstance(missing, NoPrompt)
    source.wait_for(8)
    prompts(RANGES[2])
    assert sorted(source.asked) == list(range(8))  # each once


def test_a_budget_is_reported_by_the_range_that_needs_it() -> None:
    source = Source(most=4)
    prompts = PromptsAhead(source, RANGES)
    assert len(prompts(RANGES[0])) == 3
    with pytest.raises(UserError, match="used up"):
        prompts(RANGES[1])
    assert len(source.asked) == 4
