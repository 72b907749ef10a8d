"""Seconds by part, counted for the innermost one."""

from types import SimpleNamespace

import pytest

from dsd.runs import stopwatch
from dsd.runs.stopwatch import Stopwatch


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])
    return now


def test_inner_parts_are_taken_off_outer_ones(clock) -> None:
    watch = Stopwatch(on=True)
    thing = SimpleNamespace(text=lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    watch.watch(thing, text="text", absent="never")
    clock[0] = 5.0  # before any part
    with watch.part("all of it"):
        clock[0] += 1
        thing.text(2)
        with watch.part("write"):
            thing.text(4)
            clock[0] += 8
    assert watch.seconds == {"all of it": 1, "text": 6, "write": 8}
    assert watch.said() == "all of it 1.0 s, text 6.0 s, write 8.0 s, all 15.0 s"


def test_an_error_ends_its_part(clock) -> None:
    watch = Stopwatch(on=True)
    with pytest.raises(KeyError), watch.part("a"):
        raise KeyError
    assert watch.running == []


def test_one_that_is_off_changes_nothing(clock) -> None:
    watch, thing = Stopwatch(on=False), SimpleNamespace(text=len)
    watch.watch(thing, text="text")
    with watch.part("a"):
        clock[0] += 1
    assert thing.text is len
    assert watch.seconds == {}
