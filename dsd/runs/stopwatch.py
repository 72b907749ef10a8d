"""Say where the time of a command went: seconds by part, each counted for the innermost part that is running."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any


class Stopwatch:
    """Sums up seconds by part. One that is not `on` measures nothing and changes nothing."""

    def __init__(self, on: bool) -> None:
        self.on = on
        self.seconds: dict[str, float] = {}
        self.running: list[str] = []  # the innermost part last
        self.since = time.perf_counter()

    def part(self, name: str) -> AbstractContextManager[None]:
        """Count what happens within it as `name`."""
        return self._counted(name) if self.on else nullcontext()

    def watch(self, thing: Any, **parts: str) -> None:
        """Count calls of an object's methods: `encode_text="text"`. Methods that it lacks are passed over."""
        for method, name in parts.items() if self.on else ():
            if (function := getattr(thing, method, None)) is not None:
                setattr(thing, method, self._wrapped(function, name))

    def said(self) -> str:
        """Write the parts: "load 3.2 s, denoise 5.1 s, all 8.4 s"."""
        every = {**self.seconds, "all": sum(self.seconds.values())}
        return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in every.items())

    @contextmanager
    def _counted(self, name: str) -> Iterator[None]:
        self._lap()
        self.running.append(name)
        self.seconds.setdefault(name, 0.0)
        try:
            yield
        finally:
            self._lap()
            self.running.pop()

    def _wrapped(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        @wraps(function)
        def call(*arguments: Any, **settings: Any) -> Any:
            with self.part(name):
                return function(*arguments, **settings)

        return call

    def _lap(self) -> None:
        """Count the time since the last change for the part that has been running."""
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.synchronize()  # a GPU works behind the program's back
        now = time.perf_counter()
        if self.running:
            self.seconds[self.running[-1]] += now - self.since
        self.since = now
