"""Asking many questions of a provider that is slow, busy, paid for and sometimes down.

Questions run side by side. Answers are kept in a cache (SQLite) under the pictures' bytes, the words, the model and the
wanted form: a rerun asks nothing twice and pays nothing twice, and `replay=true` runs from it alone.
"""

import hashlib
import json
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ValidationError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from dsd.chat import Chat, ChatError, Question, Reply
from dsd.chat.encoding import digest
from dsd.errors import UserError


@dataclass(frozen=True)
class Limits:
    """How a provider may be asked. None is no limit."""

    concurrency: int = 8  # calls at once
    attempts: int = 5  # of a call, where asking again may help
    first_wait: float = 1.0  # seconds between attempts; it doubles, with jitter
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    breaker: int = 10  # calls that fail one after another before the run stops
    max_calls: int | None = None  # of this run
    max_cost: float | None = None  # of this run, in the price's currency
    price: Mapping[str, float] = field(default_factory=dict)  # per million tokens: {"input": ..., "output": ...}
    replay: bool = False  # answer from the cache alone

    def cost(self, tokens: Mapping[str, int]) -> float:
        """Of {"input_tokens": ..., "output_tokens": ...}."""
        return sum(self.price.get(kind, 0.0) * tokens[f"{kind}_tokens"] / 1e6 for kind in ("input", "output"))


class Service:
    """`chat` with retries, limits, a cache and a ledger. Thread-safe; one cache serves many processes."""

    def __init__(self, chat: Chat, cache: str | Path, limits: Limits | None = None) -> None:
        self.chat, self.model, self.limits = chat, chat.model, limits or Limits()
        self.answers, self.lock = Answers(Path(cache)), threading.Lock()
        self.requests, self.tokens = Pace(self.limits.requests_per_minute), Pace(self.limits.tokens_per_minute)
        self.ledger, self.failed_in_a_row = Counter[str](), 0
        self.failed_with = ""
        self.purpose = ""  # what the answers are for: a run's name, by which the ledger on disk is kept
        wait = self.limits.first_wait
        self.retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, ChatError) and error.transient),
            stop=stop_after_attempt(self.limits.attempts),
            wait=wait_exponential_jitter(wait, 60, jitter=wait),
            reraise=True,
        )

    def ask(self, question: Question) -> str:
        """The answer's text, which reads as `question.answer` where that is given. ChatError where there is none."""
        key = self.key(question)
        if (kept := self.answers.get(key)) is not None:
            self._count(cached=1)
            return kept
        if self.limits.replay:
            raise ChatError("not in the cache (replay=true asks nobody)")
        reply = self._asked_until_it_reads(question)
        self.answers.put(key, reply, self.model, self.purpose)
        return reply.text

    def ask_all(self, questions: Sequence[Question]) -> Iterator[str | ChatError]:
        """Answers in the questions' order, several calls at a time. UserError when the budget or the breaker stops it;
        what was answered until then is kept."""

        def one(question: Question) -> str | ChatError:
            try:
                return self.ask(question)
            except ChatError as error:
                return error

        with ThreadPoolExecutor(self.limits.concurrency) as pool:
            futures = [pool.submit(one, question) for question in questions]
            try:
                for future in futures:
                    yield future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def cost(self) -> float:
        """Of this run's calls so far."""
        return self.limits.cost(self.ledger)

    def key(self, question: Question) -> str:
        form = question.answer.model_json_schema() if question.answer else None
        pictures = list(map(digest, question.images))
        return hashlib.sha256(json.dumps([self.model, question.text, pictures, form]).encode()).hexdigest()

    def _asked_until_it_reads(self, question: Question) -> Reply:
        """The reply; one that does not read as the wanted form is asked for once more, with what was wrong."""
        reply = self._call(question)
        for last in (False, True):
            problem = _problem(reply.text, question.answer)
            if not problem:
                return reply
            self._count(malformed=1)
            if last:
                raise ChatError(f"malformed answer ({problem})")
            again = f"{question.text}\n\nYour last answer could not be read ({problem}). Answer with the JSON alone."
            reply = self._call(Question(again, question.images, question.answer))
        raise AssertionError

    def _call(self, question: Question) -> Reply:
        try:
            reply = self.retrying(self._call_once, question)
        except ChatError as error:
            with self.lock:
                self.ledger["refused" if error.refusal else "failed"] += 1
                if not error.refusal:
                    self.failed_in_a_row, self.failed_with = self.failed_in_a_row + 1, str(error)
                    self._stop_if_down()
            raise
        with self.lock:
            self.failed_in_a_row = 0
        return reply

    def _call_once(self, question: Question) -> Reply:
        limits, used_up = self.limits, "is used up; what was answered is kept"
        with self.lock:
            self._stop_if_down()
            if limits.max_calls is not None and self.ledger["calls"] >= limits.max_calls:
                raise UserError(f"the budget of {limits.max_calls} calls (vlm.limits.max_calls) {used_up}")
            if limits.max_cost is not None and self.cost() >= limits.max_cost:
                raise UserError(f"the budget of {limits.max_cost:g} (vlm.limits.max_cost) {used_up}")
            self.ledger["calls"] += 1
        self.requests.wait(1)
        self.tokens.wait(0)
        reply = self.chat.ask(question)
        self.tokens.spend(reply.input_tokens + reply.output_tokens)
        self._count(input_tokens=reply.input_tokens, output_tokens=reply.output_tokens)
        return reply

    def _stop_if_down(self) -> None:
        if self.failed_in_a_row >= self.limits.breaker:
            raise UserError(
                f"{self.model}: {self.failed_in_a_row} calls failed one after another, the last because: "
                f"{self.failed_with}; what was answered is kept, run the same command again when it is mended"
            )

    def _count(self, **numbers: int) -> None:
        with self.lock:
            self.ledger.update(numbers)


def spent(cache: str | Path, purpose: str, limits: Limits) -> dict[str, float]:
    """Over all runs of this purpose: answers, tokens and what they cost by `limits.price`."""
    found = Answers(Path(cache)).spent(purpose)
    return {**found, "cost": round(limits.cost(found), 6)}


class Answers:
    """Answers by key, on disk. A line is there whole or not at all."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file, self.local = file, threading.local()
        with self._open() as database:
            database.execute(
                "create table if not exists answers (key text primary key, text text, model text, "
                "input_tokens integer, output_tokens integer, purpose text)"
            )

    def get(self, key: str) -> str | None:
        with self._open() as database:
            row = database.execute("select text from answers where key = ?", (key,)).fetchone()
        return row[0] if row else None

    def put(self, key: str, reply: Reply, model: str, purpose: str = "") -> None:
        with self._open() as database:
            row = (key, reply.text, model, reply.input_tokens, reply.output_tokens, purpose)
            database.execute("insert or replace into answers values (?, ?, ?, ?, ?, ?)", row)

    def spent(self, purpose: str) -> dict[str, int]:
        """What answers were got for a purpose, over all its runs: their number and tokens."""
        sums = "select count(*), sum(input_tokens), sum(output_tokens) from answers where purpose = ?"
        with self._open() as database:
            row = database.execute(sums, (purpose,)).fetchone()
        return dict(zip(("answers", "input_tokens", "output_tokens"), (int(n or 0) for n in row), strict=True))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """This thread's connection, committed at the end. UserError where the file is no cache."""
        try:
            if not hasattr(self.local, "database"):
                self.local.database = sqlite3.connect(self.file, timeout=60)
                self.local.database.execute("pragma journal_mode=wal")
            with self.local.database:
                yield self.local.database
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{self.file}: the cache of answers cannot be used ({error}); delete it or free space"
            ) from error


class Pace:
    """At most so much in any minute; None is no limit."""

    def __init__(self, per_minute: float | None) -> None:
        self.per_minute, self.spent, self.lock = per_minute, deque[tuple[float, float]](), threading.Lock()

    def wait(self, amount: float) -> None:
        """Until there is room, then spend `amount`."""
        if self.per_minute is None:
            return
        while True:
            with self.lock:
                now = time.monotonic()
                while self.spent and now - self.spent[0][0] >= 60:
                    self.spent.popleft()
                if sum(a for _, a in self.spent) + amount <= self.per_minute or not self.spent:
                    self.spent.append((now, amount))
                    return
                pause = 60 - (now - self.spent[0][0])
            time.sleep(min(pause, 1.0))

    def spend(self, amount: float) -> None:
        """What is known afterwards only."""
        if self.per_minute is not None:
            with self.lock:
                self.spent.append((time.monotonic(), amount))


def _problem(text: str, form: type[BaseModel] | None) -> str:
    """Why it does not read as the wanted form, "" where it does."""
    if form is None:
        return ""
    try:
        form.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'JSON'}: {first['msg']}"
    return ""
