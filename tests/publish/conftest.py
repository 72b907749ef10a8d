"""dsd-export and dsd-publish in this process."""

import logging
import sys
from collections.abc import Callable

import pytest


@pytest.fixture
def call(monkeypatch, capsys, caplog) -> Callable[..., str]:
    """Call a command; return what it says, after checking its exit code."""

    def call(main: Callable[[], None], *overrides: object, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["dsd", *map(str, overrides)])
        caplog.clear()
        with caplog.at_level(logging.INFO, "dsd"), pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr().err + caplog.text
        assert (end.value.code or 0) == code, said
        return said

    return call
