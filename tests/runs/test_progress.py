"""Where output is no terminal, progress is a few plain lines."""

import pytest

from dsd.runs import progress as module
from dsd.runs.progress import progress


def test_a_long_job_leaves_few_lines_without_carriage_returns(capsys, monkeypatch) -> None:
    clock = iter(range(0, 10**9))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock) / 10)  # 0.1 s a call
    with progress(1200, "train", "step") as bar:
        for _ in range(1200):
            bar.set_postfix({"loss": "0.5"})
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) < 100
    assert lines[0].startswith("train: ")
    assert lines[0].endswith(" left, loss=0.5")
    assert lines[-1].startswith("train: 1200/1200, ")


@pytest.mark.parametrize("shown", [True, False])
def test_only_the_main_process_shows_it(capsys, shown) -> None:
    with progress(2, "grids", "grid", shown=shown) as bar:
        bar.update(2)
    assert bool(capsys.readouterr().err) is shown
