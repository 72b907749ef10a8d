"""What README and docs tell people to type is what the commands take."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
STAGES = {
    "dsd-data-gen": "data_gen",
    "dsd-curate": "curation",
    "dsd-train": "train",
    "dsd-infer": "infer",
    "dsd-evaluate": "evaluate",
}


def commands() -> list[str]:
    """Every line of their bash blocks, without comments, continuation lines joined."""
    blocks = [block for page in PAGES for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


def test_the_readme_shows_every_kind_of_command() -> None:
    assert {shlex.split(command)[0] for command in commands()} >= {"make", "dsd-data-gen", "dsd-train", "dsd-infer"}


@pytest.mark.parametrize("command", commands())
def test_commands_are_understood(command: str, monkeypatch, capsys) -> None:
    name, *arguments = shlex.split(command)
    if name == "make":
        assert subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True).returncode == 0
        return
    if name == "sbatch":  # arguments of the job script are those of its stage
        script = next(i for i, word in enumerate(arguments) if word.endswith(".sbatch"))
        assert (ROOT / arguments[script]).is_file()
        name, arguments = f"dsd-{Path(arguments[script]).stem.replace('_', '-')}", arguments[script + 1 :]
    if name == "python":  # scripts/NAME.py ARGUMENTS: its flags are known to it
        told = subprocess.run([sys.executable, arguments[0], "--help"], cwd=ROOT, capture_output=True, text=True)
        assert all(word in told.stdout for word in arguments if word.startswith("--"))
        return
    if name in ("accelerate", "torchrun"):  # OPTIONS -m dsd.STAGE OVERRIDES
        module = arguments.index("-m") + 1
        name, arguments = f"dsd-{arguments[module][4:].replace('_', '-')}", arguments[module + 1 :]
    main = importlib.import_module(f"dsd.{STAGES[name]}.__main__").main
    if "-m" in arguments:  # the config of the sweep's first job
        arguments = [re.sub(r"(=[^,]*),.*", r"\1", argument) for argument in arguments if argument != "-m"]
    monkeypatch.setattr("sys.argv", [name, *arguments, "--cfg", "job", "--resolve"])
    main()
    assert "output_dir:" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_it_points_at_is_there(page: Path) -> None:
    text = page.read_text()
    named = [page.parent / link for link in re.findall(r"\]\(((?!http)[^)#]+)\)", text)]
    named += [ROOT / path for path in re.findall(r"`((?:dsd|tests|configs|docs|examples|scripts)/[^`*]+)`", text)]
    named += [ROOT / path for path in re.findall(r"image=(examples/\S+)", text)]
    assert named
    assert [path for path in named if not path.exists()] == []
