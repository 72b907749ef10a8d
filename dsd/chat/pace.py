"""Hold a rate: at most so many requests, or so many tokens, in a minute."""

import threading
import time
from collections import deque

MINUTE = 60.0


class Pace:
    """An amount that may be spent in any minute; None is no limit. Thread-safe."""

    def __init__(self, per_minute: float | None) -> None:
        self.per_minute, self.spent, self.lock = per_minute, deque[tuple[float, float]](), threading.Lock()

    def wait(self, amount: float) -> None:
        """Wait until there is room, then spend `amount`."""
        if self.per_minute is None:
            return
        while True:
            with self.lock:
                now = time.monotonic()
                while self.spent and now - self.spent[0][0] >= MINUTE:
                    self.spent.popleft()
                if sum(a for _, a in self.spent) + amount <= self.per_minute or not self.spent:
                    self.spent.append((now, amount))
                    return
                pause = MINUTE - (now - self.spent[0][0])
            time.sleep(min(pause, 1.0))

    def spend(self, amount: float) -> None:
        """Record a cost that is known only after the call."""
        if self.per_minute is not None:
            with self.lock:
                self.spent.append((time.monotonic(), amount))
