"""Take turns: one request draws at a time, and users share the model fairly.

Start-time fair queueing (Goyal, Vin and Cheng 1996): a request begins at the virtual time now, or at the end of the
user's request before it if that is later, and lasts 1; the earliest beginning is next. A user with many requests waits
behind one with few, and nobody waits for ever.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, Event

CHECK = 0.1  # seconds between looks at `stop` while waiting


class Stopped(Exception):
    """The user asked to stop."""


class Turns:
    """Hands out turns, one at a time."""

    def __init__(self) -> None:
        self.changed = Condition()
        self.waiting: list[tuple[int, int, str]] = []  # beginning, arrival, user
        self.last: dict[str, int] = {}  # end of a user's last request, while it is to come
        self.arrivals, self.now, self.taken = 0, 0, False

    @contextmanager
    def turn(self, user: str, stop: Event, tell: Callable[[int], None]) -> Iterator[None]:
        """Wait for this user's turn; `tell` hears how many are ahead. Stopped where `stop` is set meanwhile."""
        with self.changed:
            mine, told = self.ticket(user), -1
            try:
                while self.taken or self.waiting[0] != mine:
                    ahead = self.waiting.index(mine) + self.taken
                    if ahead != told:
                        tell(ahead)
                        told = ahead
                    self.changed.wait(CHECK)
                    if stop.is_set():
                        raise Stopped
                self.taken, self.now = True, mine[0]
            finally:
                self.waiting.remove(mine)
                self.changed.notify_all()
        try:
            yield
        finally:
            with self.changed:
                self.taken = False
                self.changed.notify_all()

    def ticket(self, user: str) -> tuple[int, int, str]:
        """Put a request in its place among those that wait."""
        self.last = {name: end for name, end in self.last.items() if end > self.now}
        begin = max(self.now, self.last.get(user, 0))
        self.last[user] = begin + 1
        self.arrivals += 1
        mine = (begin, self.arrivals, user)
        self.waiting = sorted([*self.waiting, mine])
        return mine
