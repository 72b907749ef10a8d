"""Which model answered: an alias's snapshot is no other model, another one is said, and one that is gone is refused."""

from pathlib import Path

import pytest
from servers import gemini_says, openai_says, serve

from dsd.chat import Question, Sampling
from dsd.chat.gemini import Gemini
from dsd.chat.limits import Limits
from dsd.chat.naming import is_named
from dsd.chat.openai import OpenAI
from dsd.chat.service import Service, models
from dsd.errors import UserError


@pytest.mark.parametrize(
    ("asked", "answered", "same"),
    [
        ("gpt-6-luna", "gpt-6-luna", True),
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4", "gpt-4.1", False),
        ("gemini-2.5-flash", "gemini-3.5-flash-lite", False),
        ("gemini-3.5-flash", "models/gemini-3.5-flash-001", True),
        ("gemini-3.5-flash", "gemini-3.5-flash-lite", False),
        ("Qwen/Qwen3-VL-8B-Instruct", "Qwen/Qwen3-VL-8B-Instruct", True),
        ("qwen2.5vl", "qwen2.5vl:latest", True),
        ("gpt-5-chat-latest", "gpt-5-chat-2025-10-03", True),
        ("anything", "", True),
    ],
)
def test_a_version_of_an_alias_is_that_model(asked: str, answered: str, same: bool) -> None:
    assert is_named(asked, answered) is same


def test_another_model_is_said_once_and_kept_with_the_answer(tmp_path: Path, caplog) -> None:
    with serve(lambda _: (200, openai_says("yes") | {"model": "gpt-7"})) as server:
        service = Service(OpenAI("gpt-6-luna", base_url=f"{server.url}/v1"), tmp_path / "answers.sqlite")
        list(service.ask_all([Question("a"), Question("b")], "p"))
    assert [record.message for record in caplog.records] == ["vlm.chat.model=gpt-6-luna: another model answered, gpt-7"]
    assert service.answered_by(Question("a")) == "gpt-7"
    assert models(tmp_path / "answers.sqlite", "p") == ["gpt-7"]
    assert service.named == {"gpt-7": 2}


GONE = [
    (404, {"error": {"message": "The model `m` does not exist or you do not have access to it."}}),
    (410, {"error": {"message": "The model m has been retired"}}),
]


@pytest.mark.parametrize("gone", GONE)
def test_a_model_that_is_gone_is_one_line_that_names_the_setting(tmp_path: Path, gone) -> None:
    with serve(lambda _: gone) as server:
        service = Service(OpenAI("m", base_url=f"{server.url}/v1"), tmp_path / "answers.sqlite", Limits())
        with pytest.raises(UserError, match=r"vlm\.chat\.model=m: the provider has no such model \(.*model"):
            list(service.ask_all([Question("a"), Question("b")]))
        assert len(server.requests) <= 2


def test_sampling_is_sent_as_each_protocol_wants_it_and_only_where_it_is_given(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "key")
    drawn = Question("a", sampling=Sampling(0.7, 0.9, 3))
    with serve(lambda _: (200, openai_says("yes"))) as server:
        service = Service(OpenAI("m", base_url=f"{server.url}/v1"), tmp_path / "answers.sqlite")
        service.ask(Question("a"))
        service.ask(drawn)  # another question than without
        plain, sampled = (body for _, _, body in server.requests)
    assert not {"temperature", "top_p", "seed"} & plain.keys()
    assert (sampled["temperature"], sampled["top_p"], sampled["seed"]) == (0.7, 0.9, 3)
    with serve(lambda _: (200, gemini_says("yes") | {"modelVersion": "gemini-9"})) as server:
        assert Gemini("gemini-9", base_url=server.url).ask(drawn).model == "gemini-9"
        config = server.requests[0][2]["generationConfig"]
    assert (config["temperature"], config["topP"], config["seed"]) == (0.7, 0.9, 3)
