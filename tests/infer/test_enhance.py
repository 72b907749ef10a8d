"""Prompt enhancement: two calls, kept answers, and the user's own prompt where the provider fails."""

import logging
from pathlib import Path

import pytest
from PIL import Image
from servers import openai_says, serve

from dsd.chat.openai import KEY, OpenAI
from dsd.chat.service import Limits, Service
from dsd.errors import UserError
from dsd.infer.enhance import Enhancer
from dsd.infer.settings import EnhanceSettings

WORDING = EnhanceSettings()
RED, BLUE = Image.new("RGB", (32, 32), "red"), Image.new("RGB", (32, 32), "blue")


def enhancer(url: str, folder: Path, **changes: str) -> Enhancer:
    wording = {"describe": WORDING.describe, "enrich": WORDING.enrich, **changes}
    limits = Limits(attempts=1)
    return Enhancer(Service(OpenAI("m", base_url=f"{url}/v1"), folder / "answers.sqlite", limits), **wording)


def answer(body: dict) -> tuple[int, dict]:
    content = body["messages"][0]["content"]
    described = any(part["type"] == "image_url" for part in content)
    return 200, openai_says("a red cube" if described else '"A red cube on a sunny\n beach."')


def test_the_reference_is_described_and_the_prompt_written_out(tmp_path) -> None:
    with serve(answer) as server:
        assert enhancer(server.url, tmp_path)(RED, "at the {beach}") == "A red cube on a sunny beach."
    describe, enrich = (body["messages"][0]["content"] for _, _, body in server.requests)
    assert [part["type"] for part in describe] == ["text", "image_url"]
    assert [part["type"] for part in enrich] == ["text"]
    assert '"a red cube"' in enrich[0]["text"]
    assert '"at the {beach}"' in enrich[0]["text"]


def test_nothing_is_asked_twice(tmp_path) -> None:
    with serve(answer) as server:
        ask = enhancer(server.url, tmp_path)
        ask(RED, "beach")
        ask(RED, "beach")
        assert len(server.requests) == 2
        ask(RED, "forest")  # the picture is known
        assert len(server.requests) == 3
        ask(BLUE, "beach")
        assert len(server.requests) == 4  # described alike, so the second question is the same
        enhancer(server.url, tmp_path, describe="Say what this is.")(RED, "beach")
        assert len(server.requests) == 5


def test_a_failure_is_said_and_not_kept(tmp_path, caplog) -> None:
    def fail(body: dict) -> tuple[int, dict]:
        return 500, {"error": {"message": "overloaded"}}

    with serve(fail) as server, caplog.at_level(logging.WARNING):
        ask = enhancer(server.url, tmp_path)
        assert ask(RED, "beach") == "beach"
        assert "overloaded" in caplog.text
        assert '"beach" is used as it is' in caplog.text
        server.answer = answer
        assert ask(RED, "beach") == "A red cube on a sunny beach."


def test_a_wording_without_its_fields_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"enrich has no \{prompt\}"):
        enhancer("http://127.0.0.1:9", tmp_path, enrich="Improve {description}")


def test_the_command_shows_and_records_the_prompt_that_was_used(run, adapter, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(KEY, "sk-secret")
    reference = Path(__file__).parents[2] / "examples" / "critter-1.png"
    with serve(answer) as server:
        said = run("infer", f"image={reference}", "prompt=at the beach", f"adapter={adapter}", "vlm=openai",
                   f"vlm.chat.base_url={server.url}/v1", f"cache_dir={tmp_path / 'cache'}",
                   f"output={tmp_path / 'a.png'}", "settings.num_inference_steps=2", "device=cpu")  # fmt: skip
    assert 'prompt enhanced: "A red cube on a sunny beach."' in said
    picture = Image.open(tmp_path / "a.png")
    assert picture.text["prompt"] == "A red cube on a sunny beach."
    assert '"asked": "at the beach"' in picture.text["settings"]
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"sk-secret" not in written
    assert "sk-secret" not in said
