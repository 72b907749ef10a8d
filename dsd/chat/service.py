"""Ask many questions of a provider that is slow, busy, paid for and sometimes down.

Questions run side by side. Answers are kept on disk under the pictures' pixels, the words, the model and the wanted
form: a rerun asks nothing twice and pays nothing twice, and `replay=true` runs from the cache alone.
"""

import hashlib
import json
import logging
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from dsd.chat import Chat, ChatError, Question, Reply, Tokens
from dsd.chat.answers import Answers
from dsd.chat.calls import call_off
from dsd.chat.encoding import PNG, digest
from dsd.chat.limits import Limits
from dsd.chat.naming import is_named
from dsd.chat.pace import Pace
from dsd.chat.reading import problem
from dsd.errors import UserError

log = logging.getLogger(__name__)


class Service:
    """A provider with retries, limits, a cache and a ledger. Thread-safe; many processes can share one cache.

    `pool` has as many threads as calls may be under way: whoever asks many questions submits them there.
    """

    def __init__(self, chat: Chat, cache: str | Path, limits: Limits | None = None) -> None:
        self.chat, self.model, self.limits = chat, chat.model, limits or Limits()
        self.answers, self.lock = Answers(Path(cache)), threading.Lock()
        self.pool = ThreadPoolExecutor(self.limits.concurrency)
        self.requests, self.tokens = Pace(self.limits.requests_per_minute), Pace(self.limits.tokens_per_minute)
        self.ledger = Counter[str]()  # calls, tokens, failures of this run
        self.named = Counter[str]()  # the models that the answers of this run name as their own
        self.failed_in_a_row, self.failed_with, self.unpriced = 0, "", False
        wait = self.limits.first_wait
        self.retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, ChatError) and error.transient),
            stop=stop_after_attempt(self.limits.attempts),
            wait=wait_exponential_jitter(wait, 60, jitter=wait),
            reraise=True,
        )

    def ask(self, question: Question, purpose: str = "") -> str:
        """Return the answer's text; it reads as `question.answer` where that is given. ChatError where there is none.

        The cache on disk counts the answer under `purpose`.
        """
        key = self.key(question)
        kept = self.answers.get(key)
        if kept is not None and not problem(kept, question.answer):
            self._count(cached=1)
            return kept
        if self.limits.replay:
            raise ChatError("not in the cache (replay=true asks nobody)")
        reply = self._ask_until_it_reads(question)
        self.answers.put(key, reply, reply.model or self.model, purpose)
        self._stop_if_unpriced()
        return reply.text

    def ask_all(self, questions: Sequence[Question], purpose: str = "") -> Iterator[str | ChatError]:
        """Yield the answers in the questions' order, several calls at a time.

        UserError when a budget is used up or too many calls failed in a row; answers until then are kept.
        """

        def one(question: Question) -> str | ChatError:
            try:
                return self.ask(question, purpose)
            except ChatError as error:
                return error

        futures = [self.pool.submit(one, question) for question in questions]
        try:
            for future in futures:
                yield future.result()
        finally:
            call_off(futures)

    def cost(self) -> float:
        """Price the calls of this run so far."""
        return self.limits.cost(self.ledger)

    def key(self, question: Question) -> str:
        """Name a question to this model in the cache. Pictures that are sent in a lossy format are others."""
        form = question.answer.model_json_schema() if question.answer else None
        pictures, sent = list(map(digest, question.images)), getattr(self.chat, "picture_format", PNG)
        lossy, sampled = [sent] if pictures and sent != PNG else [], question.sampling.given()
        asked = [self.model, question.text, pictures, form, *lossy, *([sampled] if sampled else [])]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()

    def answered_by(self, question: Question) -> str:
        """Name the model of a kept answer: the one that the provider named, else the one that was asked for."""
        return self.answers.answered_by(self.key(question))

    def _ask_until_it_reads(self, question: Question) -> Reply:
        """Ask; if the answer cannot be read, ask once more, and say what was wrong where the model can mend it."""
        asked = replace(question, max_tokens=question.max_tokens + self.limits.thinking_tokens)
        for last in (False, True):
            try:
                reply = self._call(asked)
                wrong = problem(reply.text, question.answer)
                if not wrong:
                    with self.lock:
                        self.failed_in_a_row = 0
                    return reply
                again = f"{question.text}\n\nYour last answer could not be read ({wrong}). Answer with the JSON alone."
                asked = replace(asked, text=again)
                error = ChatError(f"malformed answer ({wrong})", malformed=True)
            except ChatError as failed:
                if not failed.malformed:
                    raise
                error = failed
            self._note_failure(error, "malformed")
            if last:
                raise error
        raise AssertionError

    def _call(self, question: Question) -> Reply:
        """Call with retries, and count failures in a row."""
        try:
            return self.retrying(self._call_once, question)
        except ChatError as error:
            if error.refusal:
                with self.lock:
                    self.ledger["refused"] += 1
                    self.failed_in_a_row = 0
            elif not error.malformed:
                self._note_failure(error, "failed")
            raise

    def _call_once(self, question: Question) -> Reply:
        """Call within the budgets and at the pace."""
        with self.lock:
            self._stop_if_down()
            self._stop_if_used_up()
            self.ledger["calls"] += 1
        with self.requests.hold(1), self.tokens.hold(0):
            try:
                reply = self.chat.ask(question)
            except ChatError as error:
                self._pay(error.tokens)
                if error.no_model:
                    raise UserError(f"vlm.chat.model={self.model}: the provider has no such model ({error})") from error
                raise
            self._pay((reply.input_tokens, reply.output_tokens))
        self._note_model(reply.model)
        if not reply.input_tokens or reply.output_tokens is None:
            self.unpriced = self.limits.max_cost is not None
        return reply

    def _note_model(self, answered: str) -> None:
        """Say once that another model answers than the one that was asked for."""
        with self.lock:
            if answered not in self.named and not is_named(self.model, answered):
                log.warning("vlm.chat.model=%s: another model answered, %s", self.model, answered)
            self.named[answered] += 1

    def _pay(self, tokens: Tokens) -> None:
        given, made = (number or 0 for number in tokens)
        self.tokens.spend(given + made)
        self._count(input_tokens=given, output_tokens=made)

    def _note_failure(self, error: ChatError, kind: str) -> None:
        """Count a failed call. UserError where too many failed in a row."""
        with self.lock:
            self.ledger[kind] += 1
            self.failed_in_a_row, self.failed_with = self.failed_in_a_row + 1, str(error)
            self._stop_if_down()

    def _stop_if_used_up(self) -> None:
        self._stop_if_unpriced()
        limits, used_up = self.limits, "is used up; what was answered is kept"
        if limits.max_calls is not None and self.ledger["calls"] >= limits.max_calls:
            raise UserError(f"the budget of {limits.max_calls} calls (vlm.limits.max_calls) {used_up}")
        if limits.max_cost is not None and self.cost() >= limits.max_cost:
            raise UserError(f"the budget of {limits.max_cost:g} (vlm.limits.max_cost) {used_up}")

    def _stop_if_unpriced(self) -> None:
        if self.unpriced:
            raise UserError(
                f"{self.model}: the provider does not say how many tokens a call takes, so vlm.limits.max_cost cannot "
                "work; use vlm.limits.max_calls; what was answered is kept"
            )

    def _stop_if_down(self) -> None:
        if self.failed_in_a_row >= self.limits.breaker:
            raise UserError(
                f"{self.model}: {self.failed_in_a_row} calls failed one after another, the last because: "
                f"{self.failed_with}; what was answered is kept, run the same command again when this is mended"
            )

    def _count(self, **numbers: int) -> None:
        with self.lock:
            self.ledger.update(numbers)


def spent(cache: str | Path, purpose: str, limits: Limits) -> dict[str, float]:
    """Sum the answers for a purpose over all runs: their number, tokens, and cost by `limits.price`."""
    found = Answers(Path(cache)).spent(purpose)
    return {**found, "cost": round(limits.cost(found), 6)}


def models(cache: str | Path, purpose: str) -> list[str]:
    """List the models that answered for a purpose, over all runs."""
    return Answers(Path(cache)).models(purpose)
