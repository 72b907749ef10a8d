"""What README and docs tell people to type is what the commands take. Nothing is started: configs are composed here."""

import importlib
import re
import shlex
import tomllib
from pathlib import Path

import hydra
import pytest
from hydra.core.config_store import ConfigStore

import dsd
from dsd.errors import UserError
from dsd.runs.command import CONFIG_DIR, quoted
from dsd.runs.manifest import command_name
from dsd.runs.settings import SCHEMAS, check, plain

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def blocks(language: str) -> list[str]:
    """Every fenced block of that language."""
    fence = re.compile(rf"```{language}\n(.*?)```", re.DOTALL)
    return [block for page in PAGES for block in fence.findall(page.read_text())]


def commands() -> list[str]:
    """Every line of the bash blocks, continuation lines joined, without comments, and every command within a text."""
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        lines += re.findall(r"`((?:dsd-[a-z-]+ [\w+-]|make [a-z]|python (?:scripts|-m))[^`]*)`", text)
    return list(dict.fromkeys(shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))))


def unwrapped(words: list[str]) -> tuple[str, list[str]]:
    """Take a launcher off: `torchrun ... -m dsd.train X` and `sbatch ... train.sbatch X` are `dsd-train X`."""
    name, *arguments = words
    if name == "torchrun":
        module = arguments.index("-m") + 1
        return command_name(arguments[module].removeprefix("dsd.")), arguments[module + 1 :]
    if name == "sbatch":
        script = next(i for i, word in enumerate(arguments) if word.endswith(".sbatch"))
        assert (ROOT / arguments[script]).is_file()
        return f"dsd-{Path(arguments[script]).stem.replace('_', '-')}", arguments[script + 1 :]
    return name, arguments


def stage_of(name: str) -> str:
    """Import what a console script runs; return the name of its config."""
    importlib.import_module(SCRIPTS[name].split(":")[0])
    return next(stage for stage in SCHEMAS if command_name(stage) == name)


def test_the_pages_show_every_command() -> None:
    assert {unwrapped(shlex.split(command))[0] for command in commands()} >= {"make", *SCRIPTS}


@pytest.mark.parametrize("command", commands())
def test_commands_are_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, arguments = unwrapped(shlex.split(command))
    if name == "make":
        assert {word for word in arguments if "=" not in word} <= TARGETS
        return
    if name == "python":  # python scripts/NAME.py FLAGS
        source = (ROOT / arguments[0]).read_text()
        assert [word for word in arguments if word.startswith("--") and f'"{word}"' not in source] == []
        return
    stage = stage_of(name)
    if "-m" in arguments:  # the config of the sweep's first job
        arguments = [re.sub(r"(=[^,[]*),.*", r"\1", argument) for argument in arguments if argument != "-m"]
    overrides = [quoted(a, SCHEMAS[stage]) for a in arguments if a != "--help"]
    ConfigStore.instance().store(f"{stage}_schema", SCHEMAS[stage])
    with hydra.initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        cfg = hydra.compose(stage, overrides=overrides)
    plain(cfg)
    monkeypatch.setattr("dsd.runs.settings.check_path", lambda *_: None)  # the reader's files are not here
    try:
        check(cfg, SCHEMAS[stage])
    except UserError as error:
        assert re.search("no such|nothing to draw", str(error)), error  # noqa: PT017


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_it_points_at_is_there(page: Path) -> None:
    text = page.read_text()
    named = [page.parent / link for link in re.findall(r"\]\(((?!http)[^)#]+)\)", text)]
    named += [ROOT / path for path in re.findall(r"`((?:dsd|tests|configs|docs|examples|scripts)/[^`*]+)`", text)]
    named += [ROOT / path for path in re.findall(r"image=(examples/\S+)", text)]
    assert named
    assert [path for path in named if not path.exists()] == []


def test_what_it_names_within_a_file_is_there() -> None:
    """`dsd/flow.py`, `add_noise` in README, `::: dsd.flow.add_noise` on the API page."""
    text = "\n".join(page.read_text() for page in PAGES)
    named = [(path, name) for path, name in re.findall(r"`(dsd/\S+\.py)`, `([\w.]+)`", text)]
    named += [
        (f"{'/'.join(p[:-1])}.py", p[-1])
        for p in (name.split(".") for name in re.findall(r"^::: (\S+\.[A-Z]\w+)", text, re.MULTILINE))
    ]
    assert len(named) > 3
    missing = [
        (path, name)
        for path, name in named
        if not re.search(rf"^\s*(def|class) {name.split('.')[-1]}\b", (ROOT / path).read_text(), re.MULTILINE)
    ]
    assert missing == []


def test_python_examples_use_what_the_library_has() -> None:
    examples = blocks("python")
    for example in examples:
        compile(example, "example", "exec")
    used = {name for example in examples for name in re.findall(r"\bdsd\.(\w+)", example)}
    assert used
    assert used <= set(dsd.__all__)
