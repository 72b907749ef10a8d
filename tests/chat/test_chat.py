"""The genuine client libraries against local servers; a real transformers model at tiny size."""

import base64
import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from pydantic import BaseModel
from servers import gemini_blocks, gemini_says, openai_says, serve
from tiny_vlm import save_tiny_vlm

from dsd.chat import ChatError, Question
from dsd.chat.gemini import KEYS, PROJECT, Gemini
from dsd.chat.gemini_legacy import GeminiLegacy
from dsd.chat.local import Local
from dsd.chat.openai import KEY, OpenAI
from dsd.errors import UserError

PICTURE = Image.new("RGBA", (30, 20), (255, 0, 0, 0))  # transparent, so white


@pytest.fixture(autouse=True)
def keys(monkeypatch) -> None:
    for name in (*KEYS, PROJECT, KEY):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(KEYS[0], "key-1")
    monkeypatch.setenv(KEY, "key-2")


def seen(data: str) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(data.translate(str.maketrans("-_", "+/")))))


@pytest.mark.parametrize("kind", [Gemini, GeminiLegacy])
def test_gemini_is_asked_with_pictures(kind) -> None:
    with serve(lambda _: (200, gemini_says(" a red robot\n"))) as server:
        assert kind("gemini-x", base_url=server.url).ask(Question("What is it?", [PICTURE])).text == "a red robot"
    ((path, headers, body),) = server.requests
    assert "models/gemini-x:generateContent" in path
    assert headers["x-goog-api-key"] == "key-1"
    text, picture = body["contents"][0]["parts"]
    assert text["text"] == "What is it?"
    assert seen(picture["inlineData"]["data"]).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", [Gemini, GeminiLegacy])
def test_a_block_is_an_error_with_its_reason(kind) -> None:
    with serve(lambda _: (200, gemini_blocks())) as server, pytest.raises(ChatError, match="SAFETY"):
        kind("gemini-x", base_url=server.url).ask(Question("What is it?"))


@pytest.mark.parametrize(
    ("status", "answer", "transient"),
    [
        (429, {"error": {"code": 429, "message": "quota"}}, True),
        (503, {"error": {"code": 503, "message": "busy"}}, True),
        (400, {"error": {"code": 400, "message": "API key not valid"}}, False),
        (404, {"error": {"code": 404, "message": "no such model"}}, False),
    ],
)
def test_gemini_says_whether_to_ask_again(status, answer, transient) -> None:
    with serve(lambda _: (status, answer)) as server, pytest.raises(ChatError, match=answer["error"]["message"]) as e:
        Gemini("gemini-x", base_url=server.url).ask(Question("?"))
    assert (e.value.transient, len(server.requests)) == (transient, 1)


class Colour(BaseModel):
    colour: str


def test_a_form_is_asked_for_and_a_fence_around_it_removed() -> None:
    question = Question("?", [PICTURE], Colour)
    fenced = '```json\n{"colour": "red"}\n```'
    with serve(lambda _: (200, gemini_says(fenced))) as server:
        assert Gemini("m", base_url=server.url).ask(question).text == '{"colour": "red"}'
        assert server.requests[0][2]["generationConfig"]["responseJsonSchema"]["required"] == ["colour"]
        assert GeminiLegacy("m", base_url=server.url).ask(question).text == '{"colour": "red"}'
        assert server.requests[1][2]["generationConfig"]["responseMimeType"] == "application/json"
    with serve(lambda _: (200, openai_says(fenced))) as server:
        assert OpenAI("m", base_url=f"{server.url}/v1").ask(question).text == '{"colour": "red"}'
        assert server.requests[0][2]["response_format"]["json_schema"]["schema"]["required"] == ["colour"]


def test_tokens_are_counted() -> None:
    used = {"promptTokenCount": 120, "candidatesTokenCount": 7, "totalTokenCount": 127}
    with serve(lambda _: (200, gemini_says("yes") | {"usageMetadata": used})) as server:
        for kind in (Gemini, GeminiLegacy):
            reply = kind("m", base_url=server.url).ask(Question("?"))
            assert (reply.input_tokens, reply.output_tokens) == (120, 7)
    usage = {"prompt_tokens": 120, "completion_tokens": 7, "total_tokens": 127}
    with serve(lambda _: (200, openai_says("yes") | {"usage": usage})) as server:
        reply = OpenAI("m", base_url=f"{server.url}/v1").ask(Question("?"))
        assert (reply.input_tokens, reply.output_tokens) == (120, 7)


def test_openai_is_asked_with_pictures() -> None:
    with serve(lambda _: (200, openai_says("a red robot"))) as server:
        assert OpenAI("qwen", base_url=f"{server.url}/v1").ask(Question("What is it?", [PICTURE])).text == "a red robot"
    ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == "Bearer key-2"
    text, picture = body["messages"][0]["content"]
    assert text["text"] == "What is it?"
    assert seen(picture["image_url"]["url"].split(",")[1]).size == (30, 20)


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (401, {"error": {"message": "Incorrect API key"}}, "Incorrect API key"),
        (200, openai_says(None, "content_filter"), "content_filter"),
        (200, {"choices": []}, "no answer"),
        (200, "not json", "not a chat completion"),
        (500, {"error": {"message": "broken"}}, "broken"),
    ],
)
def test_what_is_no_answer_is_an_error(status, answer, words) -> None:
    with serve(lambda _: (status, answer)) as server, pytest.raises(ChatError, match=words):
        OpenAI("qwen", base_url=f"{server.url}/v1").ask(Question("?"))


def test_a_server_that_is_not_there_is_an_error() -> None:
    for client in (
        OpenAI("m", base_url="http://127.0.0.1:9/v1"),
        Gemini("m", base_url="http://127.0.0.1:9"),
    ):
        with pytest.raises(ChatError, match="Connect"):
            client.ask(Question("?"))


def test_without_a_key_it_says_what_to_set(monkeypatch) -> None:
    for name in (*KEYS, KEY):
        monkeypatch.delenv(name, raising=False)
    for kind, words in ((Gemini, "GEMINI_API_KEY"), (GeminiLegacy, "GEMINI_API_KEY"), (OpenAI, "OPENAI_API_KEY")):
        with pytest.raises(UserError, match=words):
            kind("m")
    OpenAI("m", base_url="http://127.0.0.1:9/v1")  # a server of one's own may need none


def test_a_model_of_transformers_answers(tmp_path) -> None:
    """A Qwen2.5-VL of random weights says nothing of sense, but the same whenever it is asked."""
    save_tiny_vlm(tmp_path)
    chat = Local(str(tmp_path), dtype="float32", device="cpu", max_new_tokens=8)
    with pytest.raises(ChatError, match=r"the answer is cut off \(max_new_tokens=8\)"):
        chat.ask(Question("Hello"))
    chat.network.generation_config.eos_token_id = list(range(chat.network.config.text_config.vocab_size))
    first = chat.ask(Question("What is it?", [PICTURE.resize((60, 60))])).text
    assert first
    assert chat.ask(Question("What is it?", [PICTURE.resize((60, 60))])).text == first
    assert chat.ask(Question("Hello")).text
    with pytest.raises(UserError, match=r"vlm\.chat\.model=.*none: cannot be loaded"):
        Local(str(Path(tmp_path) / "none"), dtype="float32", device="cpu")
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qwen2_5_vl"


def test_importing_the_room_imports_no_client() -> None:
    """A provider imports its client when it is chosen."""
    lines = (
        "import sys, dsd.chat.service, dsd.chat.gemini, dsd.chat.gemini_legacy, dsd.chat.openai, dsd.chat.local",
        "heavy = ('torch', 'diffusers', 'transformers', 'openai', 'google.genai', 'google.generativeai')",
        "found = [name for name in heavy if name in sys.modules]; assert not found, found",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def test_every_provider_is_told_how_long_an_answer_may_be(tmp_path, monkeypatch) -> None:
    """OpenAI's newer models refuse max_tokens, and servers of one's own may not know max_completion_tokens."""
    question = Question("?", max_tokens=77)
    with serve(lambda _: (200, gemini_says("red"))) as server:
        for kind in (Gemini, GeminiLegacy):
            kind("m", base_url=server.url).ask(question)
    assert [body["generationConfig"]["maxOutputTokens"] for _, _, body in server.requests] == [77, 77]
    with serve(lambda _: (200, openai_says("red"))) as server:
        OpenAI("m", base_url=f"{server.url}/v1").ask(question)
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        OpenAI("m").ask(question)
    ours, theirs = (body for _, _, body in server.requests)
    assert (ours["max_tokens"], "max_completion_tokens" in ours) == (77, False)
    assert (theirs["max_completion_tokens"], "max_tokens" in theirs) == (77, False)
    save_tiny_vlm(tmp_path)
    with pytest.raises(ChatError, match=r"the answer is cut off \(max_new_tokens=3\)"):
        Local(str(tmp_path), dtype="float32", device="cpu").ask(Question("Hello", max_tokens=3))


@pytest.mark.parametrize("kind", [OpenAI, Gemini, GeminiLegacy])
def test_pictures_are_sent_as_jpeg_on_demand(kind) -> None:
    says = openai_says("red") if kind is OpenAI else gemini_says("red")
    with serve(lambda _: (200, says)) as server:
        url = f"{server.url}/v1" if kind is OpenAI else server.url
        kind("m", base_url=url, picture_format="jpeg").ask(Question("?", [PICTURE]))
        with pytest.raises(UserError, match=r"vlm\.chat\.picture_format=gif: choose one of png, jpeg"):
            kind("m", picture_format="gif")
    ((_, _, body),) = server.requests
    assert "image/jpeg" in json.dumps(body)
    if kind is OpenAI:
        data = body["messages"][0]["content"][1]["image_url"]["url"].split(",")[1]
    else:
        data = body["contents"][0]["parts"][1]["inlineData"]["data"]
    assert seen(data).format == "JPEG"
