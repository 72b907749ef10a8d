"""Keep answers on disk, in SQLite: a rerun asks nothing twice and pays nothing twice."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dsd.chat import Reply
from dsd.errors import UserError


class Answers:
    """Answers by key, with their tokens and the purpose that they served. A row is written whole or not at all."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file, self.lock = file, threading.Lock()
        self.database: sqlite3.Connection | None = None
        with self._open() as database:
            database.execute(
                "create table if not exists answers (key text primary key, text text, model text, "
                "input_tokens integer, output_tokens integer, purpose text)"
            )

    def get(self, key: str) -> str | None:
        """Look up an answer."""
        with self._open() as database:
            row = database.execute("select text from answers where key = ?", (key,)).fetchone()
        return row[0] if row and isinstance(row[0], str) else None

    def put(self, key: str, reply: Reply, model: str, purpose: str = "") -> None:
        """Keep an answer."""
        with self._open() as database:
            row = (key, reply.text, model, reply.input_tokens, reply.output_tokens, purpose)
            database.execute("insert or replace into answers values (?, ?, ?, ?, ?, ?)", row)

    def answered_by(self, key: str) -> str:
        """Name the model of a kept answer: the one that the provider named, else the one that was asked for."""
        with self._open() as database:
            row = database.execute("select model from answers where key = ?", (key,)).fetchone()
        return str(row[0]) if row else ""

    def models(self, purpose: str) -> list[str]:
        """List the models that answered for a purpose."""
        with self._open() as database:
            rows = database.execute("select distinct model from answers where purpose = ? order by model", (purpose,))
            return [str(row[0]) for row in rows]

    def spent(self, purpose: str) -> dict[str, int]:
        """Count the answers for a purpose, over all runs, and their tokens."""
        sums = "select count(*), sum(input_tokens), sum(output_tokens) from answers where purpose = ?"
        with self._open() as database:
            row = database.execute(sums, (purpose,)).fetchone()
        return dict(zip(("answers", "input_tokens", "output_tokens"), (int(n or 0) for n in row), strict=True))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection to one thread at a time; commit at the end. UserError where the file is no such cache.

        One connection for all threads: SQLite lets one of them write, and the others would sleep and try again.
        """
        try:
            with self.lock:
                if self.database is None:
                    self.database = sqlite3.connect(self.file, timeout=60, check_same_thread=False)
                    self.database.execute("pragma journal_mode=wal")
                    self.database.execute("pragma synchronous=normal")  # a killed process loses nothing
                with self.database:
                    yield self.database
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{self.file}: the cache of answers cannot be used ({error}); delete it or free space"
            ) from error
