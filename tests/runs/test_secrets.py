"""Secrets planted wherever a user or a provider can put them stand in no byte that a command leaves or prints."""

import io
import logging
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image
from servers import serve

from dsd.runs.redaction import REDACTED, forget, learn, redact, redact_config

USER, PASSWORD, QUERY, KEY = "planted-user", "planted-p@ss", "planted-query", "planted-key"
ENVIRONMENT = {
    name: f"planted-{name.lower()}" for name in ("OPENAI_API_KEY", "GEMINI_API_KEY", "HF_TOKEN", "WANDB_API_KEY")
}
PLANTED = (USER, PASSWORD, QUERY, KEY, *ENVIRONMENT.values())
ROOT = Path(__file__).parents[2]


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    yield
    forget()


def call(module: str, *overrides: object, name: str = "main") -> tuple[int, str]:
    """Run a command in this process: its exit code, and all that it printed and logged."""
    said, arguments, streams = io.StringIO(), sys.argv, (sys.stdout, sys.stderr)
    handler = logging.StreamHandler(said)
    logging.getLogger("dsd").addHandler(handler)
    sys.argv, sys.stdout, sys.stderr = ["dsd", *map(str, overrides)], said, said
    try:
        getattr(import_module(module), name)()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv, (sys.stdout, sys.stderr) = arguments, streams
        logging.getLogger("dsd").removeHandler(handler)
    return code, said.getvalue()


def leaks(text: str) -> list[str]:
    return [secret for secret in PLANTED if secret in text]


def leaked_files(folder: Path) -> list[tuple[str, list[str]]]:
    """Every file that holds a planted secret, also in its name."""
    files = [f for f in folder.rglob("*") if f.is_file()]
    found = [(str(f), leaks(str(f.relative_to(folder)) + f.read_bytes().decode("latin-1"))) for f in files]
    return [(file, secrets) for file, secrets in found if secrets]


def echo(body: dict) -> tuple[int, dict]:
    """A provider that repeats whatever it was sent, in a 401."""
    said = f"wrong key {ENVIRONMENT['OPENAI_API_KEY']} of {PASSWORD}, {QUERY}; {ENVIRONMENT['GEMINI_API_KEY']}"
    return 401, {"error": {"message": said}}


def test_a_chain_leaves_no_secret(planted: None, grids: Path, adapter: Path, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(picture)
    with serve(echo) as server:
        url = f"http://{USER}:{PASSWORD}@{server.url.removeprefix('http://')}/v1?key={QUERY}"
        chat = ("vlm=openai", f'vlm.chat.base_url="{url}"', "device=cpu")
        judge = ("dsd.curation.__main__", f"grids={grids}", "judge=vlm", *chat, f"cache_dir={tmp_path / 'cache'}",
                 "vlm.limits.attempts=1", "vlm.limits.breaker=2", f"verdicts_dir={tmp_path / 'verdicts'}")  # fmt: skip
        draw = ("dsd.infer.__main__", *chat, f"adapter={adapter}", "settings.num_inference_steps=1", "prompt=a",
                f"cache_dir={tmp_path / 'cache'}", f"image={picture}")  # fmt: skip
        calls = [
            call(*judge, f"output_dir={tmp_path / 'pairs'}"),
            call(*judge, "-m", "vlm.limits.concurrency=1,2", f"+vlm.chat.api_key={KEY}",
                 f"hydra.sweep.dir={tmp_path / 'sweep'}"),
            call(*draw, f"output_dir={tmp_path / 'drawn'}"),
            call(*draw, "--cfg", "job"),
            call(*draw, f"api_key={KEY}"),
            call(*draw, f"image=/nowhere/{ENVIRONMENT['HF_TOKEN']}.png"),
        ]  # fmt: skip
    assert [code for code, _ in calls] == [2, 2, 0, 0, 2, 2]
    assert [leaks(said) for _, said in calls] == [[]] * len(calls)
    assert REDACTED in calls[0][1]
    assert leaked_files(tmp_path) == []


def test_a_bug_s_traceback_holds_no_secret(planted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(cfg: object) -> None:
        raise ZeroDivisionError(f"api_key={KEY} http://{USER}:{PASSWORD}@h/?key={QUERY} {ENVIRONMENT['WANDB_API_KEY']}")

    import dsd.infer.stage

    monkeypatch.setattr(dsd.infer.stage, "refuse_impossible", bug)
    picture = ROOT / "examples" / "critter-1.png"
    code, said = call("dsd.infer.__main__", f"image={picture}", "prompt=a", "vlm=openai", f"+vlm.chat.api_key={KEY}")
    assert code == 1
    assert "ZeroDivisionError" in said
    assert leaks(said) == []


def test_a_published_card_holds_no_secret(planted: None, pairs: Path, tmp_path: Path) -> None:
    """A config.yaml of an older version may hold what ours would have redacted."""
    import shutil

    shutil.copytree(pairs, tmp_path / "pairs")
    with (tmp_path / "pairs" / "config.yaml").open("a") as file:
        file.write(f"old: {{base_url: 'http://{USER}:{PASSWORD}@h/?key={QUERY}', api_key: {KEY}}}\n")
        file.write(f"note: {ENVIRONMENT['HF_TOKEN']}\n")
    code, said = call(
        "dsd.publish.commands", f"pairs={tmp_path / 'pairs'}", f"local={tmp_path / 'set'}", name="publish"
    )
    assert (code, leaks(said)) == (0, [])
    assert "base_url" in (tmp_path / "set" / "README.md").read_text()
    assert leaked_files(tmp_path / "set") == []


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("http://me:pa@ss@host/v1", "ss@"),
        ("https://host/v1?a=1&api_key=hush-1&b=2", "hush-1"),
        ("{'api_key': 'hush-1'}", "hush-1"),
        ('{"authorization": "hush-1"}', "hush-1"),
        ("Authorization: Bearer abcdef123456", "abcdef123456"),
        ("hf_token: hush-1", "hush-1"),
        ("key sk-abcdefghijklmnop1234", "abcdefghij"),
        ("AWS_SECRET=hush-1", "hush-1"),
    ],
)
def test_a_secret_in_a_text_is_found(text: str, secret: str) -> None:
    assert secret not in redact(text)


@pytest.mark.parametrize("text", ["max_tokens: 77", "tokens=5", "key frames", "a token of thanks", "token: null"])
def test_plain_words_stay(text: str) -> None:
    assert redact(text) == text


def test_a_learnt_secret_is_found_in_every_form() -> None:
    learn({"vlm": {"base_url": "http://me:pass%2Fword@h?key=qu+ery-1", "api_key": "hush-hush"}, "list": ["x"]})
    try:
        assert redact("pass/word pass%2Fword qu+ery-1 qu%2Bery-1 hush-hush x") == " ".join([REDACTED] * 5 + ["x"])
    finally:
        forget()
    assert redact("hush-hush") == "hush-hush"
    assert redact_config({"a": {"passwd": "x", "max_tokens": 3}}) == {"a": {"passwd": REDACTED, "max_tokens": 3}}
