"""Hold a rate: at most so many requests, or so many tokens, in a minute."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

MINUTE = 60.0
LONGEST_SLEEP = 0.5


class Pace:
    """An amount that may be spent in any 60 seconds; None is no limit. Thread-safe.

    A call takes its share from its beginning until 60 seconds after its end, since nobody knows when the provider
    counts it. So no window of 60 seconds holds more than the limit, however long calls are under way.
    """

    def __init__(self, per_minute: float | None) -> None:
        self.per_minute, self.lock = per_minute, threading.Lock()
        self.ended: deque[tuple[float, float]] = deque()  # (when, amount) of calls of the last minute
        self.under_way = self.spent = 0.0  # amounts of calls that have not ended, and of those that have

    @contextmanager
    def hold(self, amount: float) -> Iterator[None]:
        """Wait until there is room for `amount`, and take it while a call is made and 60 seconds after it."""
        if self.per_minute is None:
            yield
            return
        while (pause := self._take(amount)) > 0:
            time.sleep(min(pause, LONGEST_SLEEP))
        try:
            yield
        finally:
            with self.lock:
                self.under_way -= amount
            self.spend(amount)

    def spend(self, amount: float) -> None:
        """Record a cost that is known only after the call."""
        if self.per_minute is not None:
            with self.lock:
                self.ended.append((time.monotonic(), amount))
                self.spent += amount

    def _take(self, amount: float) -> float:
        """Take an amount if there is room; otherwise return how long to wait."""
        assert self.per_minute is not None
        with self.lock:
            now = time.monotonic()
            while self.ended and now - self.ended[0][0] >= MINUTE:
                self.spent -= self.ended.popleft()[1]
            taken = self.under_way + self.spent
            if taken + amount <= self.per_minute or taken <= 0:
                self.under_way += amount
                return 0.0
            return max(1e-3, MINUTE - (now - self.ended[0][0])) if self.ended else 0.05
