"""Whatever a provider answers, it is an answer or a failed call in one line; its key reaches nobody else."""

import json
import os
import time
from typing import Any

import pytest
from pydantic import BaseModel
from servers import dripping, gemini_says, gone, moved, openai_says, serve

from dsd.chat import ChatError, Question, Reply
from dsd.chat.gemini import KEYS, PROJECT, Gemini
from dsd.chat.gemini_legacy import GeminiLegacy
from dsd.chat.limits import Limits
from dsd.chat.openai import KEY, OpenAI
from dsd.chat.reading import answer_in
from dsd.chat.service import Service
from dsd.errors import UserError

SECRET = "sk-abcdefghijklmnopqrstuvwx"
PROVIDERS = (OpenAI, Gemini, GeminiLegacy)


class Colour(BaseModel):
    colour: str


@pytest.fixture(autouse=True)
def keys(monkeypatch) -> None:
    for name in (*KEYS, PROJECT, KEY):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(KEYS[0], SECRET)
    monkeypatch.setenv(KEY, SECRET)


def asked(kind: type, url: str, timeout: float = 20.0, **question: Any) -> Reply:
    return kind("m", timeout=timeout, base_url=f"{url}/v1" if kind is OpenAI else url).ask(Question("?", **question))


def openai_with(**changes: Any) -> dict[str, Any]:
    return openai_says("red") | changes


def choice(**changes: Any) -> dict[str, Any]:
    return openai_with(choices=[openai_says("red")["choices"][0] | changes])


def candidate(**changes: Any) -> dict[str, Any]:
    return {"candidates": [gemini_says("red")["candidates"][0] | changes]}


ODD: dict[str, tuple[Any, Any]] = {  # the body of OpenAI's protocol, and Gemini's
    "null": ("null", "null"),
    "a number": ("3", "3"),
    "a list": ("[]", "[]"),
    "a text": ('"red"', '"red"'),
    "an empty body": ("", ""),
    "HTML": ("<html>", "<html>"),
    "cut off": ('{"choices": [{"mess', '{"candidates": [{"cont'),
    "not UTF-8": (json.dumps(openai_says("cafX")).encode().replace(b"X", b"\xe9"),
                  json.dumps(gemini_says("cafX")).encode().replace(b"X", b"\xe9")),
    "lone surrogates": (openai_says("\ud800"), gemini_says("\ud800")),
    "no answers": ({}, {}),
    "answers that are a dict": (openai_with(choices={"0": "red"}), {"candidates": {"0": "red"}}),
    "an answer that is null": (openai_with(choices=[None]), {"candidates": [None]}),
    "no message": (openai_with(choices=[{"index": 0, "finish_reason": "stop"}]), candidate(content=None)),
    "a message that is a text": (choice(message="red"), candidate(content="red")),
    "a content that is a number": (choice(message={"content": 3}), candidate(content={"parts": [{"text": 3}]})),
    "a content that is a list": (choice(message={"content": ["red"]}), candidate(content={"parts": ["red"]})),
    "a reason that is a number": (choice(finish_reason=3), candidate(finishReason=[3])),
    "a reason that nobody knows": (choice(finish_reason="tired"), candidate(finishReason="TIRED")),
    "1e30 tokens": (openai_with(usage={"prompt_tokens": 10**30}),
                    gemini_says("red") | {"usageMetadata": {"promptTokenCount": 10**30}}),
    "negative tokens": (openai_with(usage={"prompt_tokens": -5}),
                        gemini_says("red") | {"usageMetadata": {"promptTokenCount": -5}}),
    "NaN tokens": (openai_with(usage={"prompt_tokens": float("nan")}),
                   gemini_says("red") | {"usageMetadata": {"promptTokenCount": float("nan")}}),
    "tokens as text": (openai_with(usage={"prompt_tokens": "many"}),
                       gemini_says("red") | {"usageMetadata": {"promptTokenCount": "many"}}),
    "usage that is a list": (openai_with(usage=[1]), gemini_says("red") | {"usageMetadata": [1]}),
    "blank": (openai_says(" \n"), gemini_says(" \n")),
    "thoughts alone": (openai_says("<think>red"), gemini_says("<think>red</think>")),
    "cut by length": (openai_says("a critter at", "length"), candidate(finishReason="MAX_TOKENS")),
}  # fmt: skip


@pytest.mark.parametrize("kind", PROVIDERS)
@pytest.mark.parametrize("name", ODD)
def test_an_odd_answer_is_a_failed_call(kind, name) -> None:
    body = ODD[name][0 if kind is OpenAI else 1]
    with serve(lambda _: (200, body)) as server, pytest.raises(ChatError) as error:
        asked(kind, server.url)
    assert error.value.kind == "unanswered"
    assert error.value.malformed
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("kind", PROVIDERS)
def test_usage_may_be_missing_and_thoughts_are_paid_for(kind) -> None:
    with serve(lambda _: (200, openai_with(usage=None) if kind is OpenAI else candidate())) as server:
        reply = asked(kind, server.url)
        assert (reply.text, reply.input_tokens, reply.output_tokens) == ("red", None, None)
    used = {"promptTokenCount": 100, "candidatesTokenCount": 5, "thoughtsTokenCount": 300}
    with serve(lambda _: (200, gemini_says("red") | {"usageMetadata": used})) as server:
        assert kind is OpenAI or asked(kind, server.url) == Reply("red", 100, 305)


@pytest.mark.parametrize("kind", PROVIDERS)
def test_a_filter_is_a_refusal_also_where_it_leaves_half_an_answer(kind) -> None:
    half = openai_says("a critter", "content_filter") if kind is OpenAI else candidate(finishReason="SAFETY")
    with serve(lambda _: (200, half)) as server, pytest.raises(ChatError) as error:
        asked(kind, server.url)
    assert error.value.kind == "refused"


@pytest.mark.parametrize("kind", PROVIDERS)
def test_a_redirect_is_not_followed(kind) -> None:
    """The other server would be sent the key."""
    with serve(lambda _: (200, gemini_says("red"))) as thief, serve(lambda _: moved(f"{thief.url}/x")) as server:
        with pytest.raises(ChatError):
            asked(kind, server.url)
        assert (len(server.requests), thief.requests) == (1, [])


@pytest.mark.parametrize("kind", PROVIDERS)
def test_a_drip_does_not_defeat_the_timeout(kind) -> None:
    with serve(lambda _: dripping) as server:
        chat = kind("m", timeout=1, base_url=server.url)
        client_made = time.monotonic()
        with pytest.raises(ChatError, match="no whole answer within 1 seconds") as e:
            chat.ask(Question("?"))
    assert e.value.transient
    assert time.monotonic() - client_made < 8  # the drip alone would take ten


@pytest.mark.parametrize("kind", PROVIDERS)
@pytest.mark.parametrize("status", [302, 400, 401, 402, 403, 404, 418, 500, 503])
def test_errors_are_failed_calls_without_the_key(kind, status) -> None:
    said = {"error": {"code": status, "message": f"bad key {SECRET}\nat http://me:pass@proxy\ud800", "status": "X"}}
    with serve(lambda _: (status, said)) as server, pytest.raises(ChatError) as error:
        asked(kind, server.url)
    assert SECRET not in str(error.value)
    assert "pass@" not in str(error.value)
    str(error.value).encode()
    assert error.value.kind == ("failed" if status == 400 else "unanswered")


@pytest.mark.parametrize("kind", PROVIDERS)
def test_a_wrong_key_is_not_a_bad_question(kind) -> None:
    """Gemini answers 400."""
    said = {"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}
    with serve(lambda _: (400, said)) as server, pytest.raises(ChatError) as error:
        asked(kind, server.url)
    assert error.value.kind == "unanswered"


@pytest.mark.parametrize("kind", PROVIDERS)
def test_a_connection_that_is_closed_is_a_failed_call(kind) -> None:
    with serve(lambda _: gone) as server, pytest.raises(ChatError) as error:
        asked(kind, server.url)
    assert error.value.transient


@pytest.mark.parametrize("kind", PROVIDERS)
def test_timeouts_and_models_that_cannot_work(kind) -> None:
    for timeout in (0, -1, float("nan"), float("inf"), "long", None, True):
        with pytest.raises(UserError, match=r"vlm\.chat\.timeout"):
            kind("m", timeout=timeout)
    with pytest.raises(UserError, match=r"vlm\.chat\.model"):
        kind(" ")


RED = '{"colour": "red"}'


@pytest.mark.parametrize(
    "said",
    [
        RED, f"```json\n{RED}\n```", f"```\n{RED}```", f"Sure! Here it is:\n\n{RED}\nI hope this helps.",
        f'<think>is it {{"colour": "blue"}}?</think>\n{RED}', f"it is red, so</think>{RED}",
        f"<thinking>\nhm\n</thinking>```json\n{RED}\n```", f'Not {{"hue": 1}} but {RED}', f"{{{{ {RED}",
        f'First {{"colour": "blue"}}. No: {RED}',
    ],
)  # fmt: skip
def test_json_is_found(said) -> None:
    assert Colour.model_validate_json(answer_in(said, Colour)).colour == "red"


def test_thoughts_are_no_caption() -> None:
    assert answer_in("<think>The user wants\na caption.</think>\n\nA critter.", None) == "A critter."
    assert answer_in("<think>The user wants", None) == ""
    assert answer_in('A cup that says {"colour": "red"}', None) == 'A cup that says {"colour": "red"}'
    began = time.monotonic()
    answer_in('{"a":' * 100_000, Colour)
    assert time.monotonic() - began < 20


def service(url: str, folder: Any, **limits: Any) -> Service:
    return Service(OpenAI("m", base_url=f"{url}/v1"), folder / "a.sqlite", Limits(**{"first_wait": 0.01, **limits}))


@pytest.mark.parametrize("said", ["I cannot say.", "<think>hm", '{"hue": "red"}', '{"colour": "re', '["red"]', ""])
def test_ten_malformed_answers_stop_the_run(tmp_path, said) -> None:
    """One retry a question, nothing kept, and the same questions are asked by the next run."""
    questions = [Question(f"{number}?", answer=Colour) for number in range(50)]
    with serve(lambda _: (200, openai_says(said))) as server:
        with pytest.raises(UserError, match="10 calls failed one after another, the last because: "):
            list(service(server.url, tmp_path, concurrency=1).ask_all(questions))
        assert len(server.requests) == 10
    with serve(lambda _: (200, openai_says(RED))) as server:
        assert list(service(server.url, tmp_path).ask_all(questions[:6])) == [RED] * 6
        assert len(server.requests) == 6


def test_a_damaged_answer_in_the_cache_is_asked_for_again(tmp_path) -> None:
    with serve(lambda _: (200, openai_says(RED))) as server:
        asks = service(server.url, tmp_path)
        asks.answers.put(asks.key(Question("?", answer=Colour)), Reply('{"colo'), "m")
        assert asks.ask(Question("?", answer=Colour)) == RED


PRICE = {"input": 1.0, "output": 10.0}
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "limits",
    [
        {"max_cost": 1.0}, {"max_cost": 1.0, "price": {"inptu": 1.0, "output": 1.0}},
        {"max_cost": 1.0, "price": {"input": 1.0}}, {"max_cost": 1.0, "price": PRICE | {"cached": 1.0}},
        {"max_cost": 1.0, "price": {"input": 0, "output": 0}}, {"price": PRICE | {"input": -1}},
        {"price": PRICE | {"input": NAN}}, {"price": PRICE | {"input": "1"}}, {"price": [1, 2]},
        {"max_cost": NAN, "price": PRICE}, {"max_cost": -1, "price": PRICE}, {"max_cost": INF, "price": PRICE},
        {"max_calls": -1}, {"max_calls": 1.5}, {"concurrency": 0}, {"concurrency": None}, {"concurrency": True},
        {"attempts": 0}, {"breaker": 0}, {"first_wait": -1}, {"first_wait": NAN}, {"requests_per_minute": 0},
        {"tokens_per_minute": 0.5}, {"requests_per_minute": NAN}, {"replay": "yes"},
    ],
)  # fmt: skip
def test_limits_that_cannot_work_are_refused(limits) -> None:
    with pytest.raises(UserError, match=r"vlm\.limits\."):
        Limits(**limits)


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": 0, "completion_tokens": 0}, {"prompt_tokens": 9}, {"completion_tokens": 9}]
)
def test_a_cost_that_nobody_knows_stops_the_run(tmp_path, usage) -> None:
    with serve(lambda _: (200, openai_with(usage=usage))) as server:
        asks = service(server.url, tmp_path, max_cost=1.0, price=PRICE, concurrency=1)
        with pytest.raises(UserError, match="does not say how many tokens a call takes"):
            list(asks.ask_all([Question(f"{number}?") for number in range(20)]))
        assert len(server.requests) == 1
        assert asks.ask(Question("0?")) == "red"  # what was paid for is kept


@pytest.mark.parametrize("tokens", [-5, NAN, 10**30, "9"])
def test_a_cost_that_makes_no_sense_is_a_failed_call(tmp_path, tokens) -> None:
    usage = {"prompt_tokens": tokens, "completion_tokens": tokens}
    with serve(lambda _: (200, openai_with(usage=usage))) as server:
        asks = service(server.url, tmp_path, max_cost=1.0, price=PRICE, concurrency=1)
        with pytest.raises(UserError, match="calls failed one after another"):
            list(asks.ask_all([Question(f"{number}?") for number in range(20)]))
        assert len(server.requests) == 10


def test_failed_calls_cost_too(tmp_path) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 100}
    with serve(lambda _: (200, openai_says("a cri", "length") | {"usage": usage})) as server:
        asks = service(server.url, tmp_path, max_cost=0.005, price=PRICE, concurrency=1, breaker=100)
        with pytest.raises(UserError, match="the budget of"):
            list(asks.ask_all([Question(f"{number}?") for number in range(20)]))
        assert len(server.requests) == 3


def test_an_address_with_a_password_is_in_no_message(tmp_path) -> None:
    with pytest.raises(ChatError) as error:
        OpenAI("m", base_url="http://me:hidden@127.0.0.1:9/v1").ask(Question("?"))
    assert "hidden" not in str(error.value)
    assert not any("hidden" in value for value in os.environ.values())
