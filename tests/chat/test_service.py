"""What every provider needs: asked side by side, again where that helps, within limits, and never twice."""

import threading
import time
from pathlib import Path

import pytest
from PIL import Image
from pydantic import BaseModel
from servers import openai_says, serve

from dsd.chat import ChatError, Question, Reply
from dsd.chat.limits import Limits
from dsd.chat.openai import OpenAI
from dsd.chat.pace import Pace
from dsd.chat.service import Service
from dsd.errors import UserError

QUICK = {"first_wait": 0.01}


class Colour(BaseModel):
    colour: str


def service(url: str, folder: Path, **limits: object) -> Service:
    return Service(OpenAI("m", base_url=f"{url}/v1"), folder / "answers.sqlite", Limits(**{**QUICK, **limits}))


def questions(num: int) -> list[Question]:
    return [Question(f"question {number}") for number in range(num)]


def echo(body: dict) -> tuple[int, dict]:
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    return 200, openai_says(body["messages"][0]["content"][0]["text"].upper()) | {"usage": usage}


def test_answers_come_in_order_and_side_by_side(tmp_path) -> None:
    """No call is answered before another one has come in, so at least two are under way; and never more than four."""
    together, most, lock, pair = 0, 0, threading.Lock(), threading.Barrier(2, timeout=600)

    def in_pairs(body: dict) -> tuple[int, dict]:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        pair.wait()
        with lock:
            together -= 1
        return echo(body)

    with serve(in_pairs) as server:
        answers = list(service(server.url, tmp_path, concurrency=4).ask_all(questions(12)))
    assert answers == [f"QUESTION {number}" for number in range(12)]
    assert 2 <= most <= 4


def test_nothing_is_asked_twice_and_replay_asks_nobody(tmp_path) -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    asked = [Question("?", [red]), Question("?", [blue]), Question("!", [red]), Question("?", [red, blue])]
    with serve(echo) as server:
        first = list(service(server.url, tmp_path).ask_all(asked))
        assert len(server.requests) == 4
        again = service(server.url, tmp_path)
        assert list(again.ask_all(asked)) == first
        assert len(server.requests) == 4
        assert again.ledger["cached"] == 4
        assert service(server.url, tmp_path, replay=True).ask(asked[0]) == first[0]
        with pytest.raises(ChatError, match="not in the cache"):
            service(server.url, tmp_path, replay=True).ask(Question("new"))


def test_a_busy_server_is_asked_again_and_a_wrong_key_is_not(tmp_path) -> None:
    answers = [(429, {"error": {"message": "slow down"}}), (500, {}), (200, "cut of"), echo]
    with serve(lambda body: answer(body) if callable(answer := answers.pop(0)) else answer) as server:
        asked = service(server.url, tmp_path)
        assert asked.ask(Question("yes")) == "YES"
        assert asked.ledger["calls"] == len(server.requests) == 4
    with serve(lambda _: (401, {"error": {"message": "wrong key"}})) as server:
        with pytest.raises(ChatError, match="wrong key"):
            service(server.url, tmp_path).ask(Question("no"))
        assert len(server.requests) == 1


def test_a_malformed_answer_is_asked_for_once_more_with_what_was_wrong(tmp_path) -> None:
    answers = ['{"color": "red"}', '{"colour": "red"}']
    with serve(lambda _: (200, openai_says(answers.pop(0)))) as server:
        asked = service(server.url, tmp_path)
        assert asked.ask(Question("?", answer=Colour)) == '{"colour": "red"}'
        assert "colour: Field required" in server.requests[1][2]["messages"][0]["content"][0]["text"]
    with serve(lambda _: (200, openai_says("red"))) as server:
        asked = service(server.url, tmp_path)
        for _ in range(2):  # and it is not kept
            with pytest.raises(ChatError, match="malformed answer"):
                asked.ask(Question("what?", answer=Colour))
        assert len(server.requests) == 4


def test_a_provider_that_is_down_stops_the_run(tmp_path) -> None:
    with serve(lambda _: (500, {"error": {"message": "down"}})) as server:
        asked = service(server.url, tmp_path, attempts=1, breaker=3, concurrency=1)
        with pytest.raises(UserError, match=r"3 calls failed one after another, the last because: .*down"):
            list(asked.ask_all(questions(50)))
        assert len(server.requests) == 3


def test_refusals_do_not_count_as_a_provider_that_is_down(tmp_path) -> None:
    with serve(lambda _: (200, openai_says(None, "content_filter"))) as server:
        answers = list(service(server.url, tmp_path, breaker=2).ask_all(questions(5)))
    assert all(isinstance(a, ChatError) and a.refusal for a in answers)


@pytest.mark.parametrize(
    ("limits", "calls"), [({"max_calls": 3}, 3), ({"max_cost": 0.005, "price": {"input": 1.0, "output": 10.0}}, 3)]
)
def test_a_budget_stops_cleanly_and_a_rerun_goes_on(tmp_path, limits, calls) -> None:
    """A call is 1,000 tokens in at 1 and 100 out at 10 a million: 0.002."""
    with serve(echo) as server:
        with pytest.raises(UserError, match=r"the budget of .* is used up"):
            list(service(server.url, tmp_path, concurrency=1, **limits).ask_all(questions(5)))
        assert len(server.requests) == calls
        assert len(list(service(server.url, tmp_path).ask_all(questions(5)))) == 5
        assert len(server.requests) == 5


def test_a_pace_holds(monkeypatch) -> None:
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", sleep)
    requests, tokens = Pace(2), Pace(1000)
    for _ in range(4):
        with requests.hold(1):
            now[0] += 5  # a call takes its time, and counts at its end at the latest
    assert now[0] == pytest.approx(5 + 5 + 55 + 5 + 5, abs=0.01)
    with tokens.hold(0):
        tokens.spend(1500)
    began = now[0]
    with tokens.hold(0):
        assert now[0] - began == pytest.approx(60)


def test_a_pace_of_40_lets_no_48_through_in_any_window(tmp_path, monkeypatch) -> None:
    """Eight calls at a time, of which the first are slow to arrive: those used to arrive with the next minute's."""
    monkeypatch.setattr("dsd.chat.pace.MINUTE", 0.6)
    arrived, lock, late = [], threading.Lock(), iter([0.3] * 8)

    class Provider:
        model = "slow"

        def ask(self, question: Question) -> Reply:
            with lock:
                wait = next(late, 0.0)
            time.sleep(wait)
            with lock:
                arrived.append(time.monotonic())
            return Reply("yes")

    asked = Service(Provider(), tmp_path / "a.sqlite", Limits(requests_per_minute=40, concurrency=8))
    assert len(list(asked.ask_all(questions(130)))) == 130
    windows = [sum(begin <= time < begin + 0.6 for time in arrived) for begin in arrived]
    assert max(windows) <= 40


def test_answers_are_kept_at_once_by_many_threads_and_processes(tmp_path) -> None:
    class Instant:
        model = "instant"

        def ask(self, question: Question) -> Reply:
            return Reply(question.text)

    services = [Service(Instant(), tmp_path / "a.sqlite", Limits(concurrency=8)) for _ in range(2)]
    threads = [threading.Thread(target=lambda s=s: list(s.ask_all(questions(200)))) for s in services]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(Service(Instant(), tmp_path / "a.sqlite", Limits(replay=True)).ask_all(questions(200))) == [
        f"question {number}" for number in range(200)
    ]
    (tmp_path / "b.sqlite").write_bytes(b"no database, but long enough to be looked at" * 100)
    with pytest.raises(UserError, match="cannot be used"):
        Service(Instant(), tmp_path / "b.sqlite")


def test_answers_about_lossy_pictures_are_kept_apart_and_old_ones_found(tmp_path) -> None:
    """The key of a PNG is the one of earlier versions: paid answers are not asked for again."""

    class Provider:
        model = "m"

        def __init__(self, picture_format: str) -> None:
            self.picture_format = picture_format

    red = Image.new("RGB", (2, 2), "red")
    png, jpeg = (Service(Provider(f), tmp_path / "a.sqlite") for f in ("png", "jpeg"))  # type: ignore[arg-type]
    asked = Question("?", [red], Colour)
    assert png.key(asked) == "97601185393a84d38cda384a4229b4cbf1fc7ee71330fe326b046afd4d21e218"
    assert png.key(asked) != jpeg.key(asked)
    assert png.key(Question("?", [red], Colour, max_tokens=5)) == png.key(asked)
    assert png.key(Question("?")) == jpeg.key(Question("?"))


def test_thoughts_have_room_beyond_an_answer(tmp_path) -> None:
    with serve(lambda _: (200, openai_says("a cri", "length"))) as server:
        with pytest.raises(ChatError, match=r"cut off \(length: at most 300 tokens; .*vlm\.limits\.thinking_tokens"):
            service(server.url, tmp_path, thinking_tokens=200).ask(Question("?", max_tokens=100))
        assert [body["max_tokens"] for _, _, body in server.requests] == [300, 300]  # asked once more
