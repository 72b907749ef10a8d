"""A small real Hydra app: how a stage reads its config, refuses bad input in one line, and claims its folder."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dsd.errors import UserError
from dsd.runs.command import CONFIG_DIR, command
from dsd.runs.identity import claim, config_hash, identity
from dsd.runs.run import begin
from dsd.runs.settings import OutputSettings, plain, setting

Run = Callable[..., tuple[int, str, str]]


class Mode(Enum):
    fast = 1
    slow = 2


@dataclass
class Toy(OutputSettings):
    """Play with a toy."""

    examples: ClassVar[tuple[str, ...]] = ("dsd-toy prompt=ball",)
    output_dir: str = setting("folder", "outputs/toy", changes_results=False)
    seed: int = setting("of the toy", 0, least=0)
    prompt: str = setting("what to play")
    mode: Mode = setting("how fast", Mode.fast, changes_results=False)
    learning_rate: float = setting("step", 1e-5, above=0, most=1)
    api_key: str | None = setting("secret", None)
    model: Any = setting("the toy", None, group=True, ignored=("limits",))
    reads: str | None = setting("a file", None, reads="file")
    trouble: str = setting("what goes wrong", "")


def toy(cfg: DictConfig) -> None:
    run = begin(cfg)
    if run is None:
        return
    print(f"seed {cfg.seed} in {cfg.output_dir}, model {instantiate(cfg.model)}")
    if cfg.trouble == "full_disk":
        with open("/dev/full", "w") as file:
            file.write("x")
    if cfg.trouble == "bug":
        raise ZeroDivisionError("nobody's fault but ours")
    if cfg.trouble == "interrupt":
        raise KeyboardInterrupt
    if cfg.trouble == "again":
        begin(cfg)
    run.finish({"rows": 10 * cfg.seed}, "played", score={"mean": cfg.seed / 3})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the app in an empty folder with the overrides given; returns exit code, stdout, stderr."""
    configs = tmp_path / "configs"
    (configs / "model").mkdir(parents=True)
    (configs / "toy.yaml").write_text(
        "defaults: [toy_schema, _self_, hydra_settings, model: small, experiment: null]\nseed: 3\n"
    )
    (configs / "hydra_settings.yaml").write_text(Path(CONFIG_DIR, "hydra_settings.yaml").read_text())
    for size in ("small", "large"):
        (configs / "model" / f"{size}.yaml").write_text("_target_: fractions.Fraction\nnumerator: 3\n")
    (configs / "experiment" / "typo").mkdir(parents=True)
    (configs / "experiment" / "typo" / "toy.yaml").write_text("# @package _global_\nsede: 4\n")
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for variable in ("HYDRA_FULL_ERROR", "DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.setenv(variable, os.environ.get(variable, ""))  # restores what the command sets
    monkeypatch.setattr(logging.getLogger("dsd"), "level", logging.WARNING)
    main = command("toy", Toy, f"{__name__}:toy", configs)

    def run(*overrides: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dsd-toy", *overrides])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_run_leaves_nothing_outside_its_output_dir(run: Run) -> None:
    code, out, _ = run("prompt=a")
    assert code == 0
    assert "seed 3 in outputs/toy" in out
    assert sorted(os.listdir()) == ["outputs"]
    assert sorted(os.listdir("outputs/toy")) == [".locks", "config.yaml", "manifest.json"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["sed=1"], "unknown key sed (did you mean seed?)"),
        (["model.numertor=4"], "unknown key model.numertor (did you mean numerator?)"),
        (["experiment=typo/toy"], "experiment/typo/toy.yaml: unknown key sede (did you mean seed?)"),
        (
            ["experiment=tipo/toy"],
            "experiment=tipo/toy: no such experiment (did you mean typo/toy?); choose one of typo/toy",
        ),
        (["prompt=a", "seed=-1"], "seed=-1: at least 0 is needed"),
        (["prompt=a", "learning_rate=0"], "learning_rate=0.0: more than 0 is needed"),
        (["prompt=a", "learning_rate=2"], "learning_rate=2.0: at most 1 is allowed"),
        (["prompt=a", "learning_rate=nan"], "learning_rate=nan: a finite number is needed"),
        (["prompt=a", "model.numerator=inf"], "model.numerator=inf: a finite number is needed"),
        (["prompt=a", "reads=/nowhere"], "reads=/nowhere: no such file"),
        (["prompt=a", "trouble=again"], "is at work here (dsd-toy); wait for it, or choose another output_dir="),
        (["seed=abc"], "seed: value 'abc' of type 'str' could not be converted to Integer"),
        (["mode=fas"], "mode: invalid value 'fas', expected one of [fast, slow]"),
        (["model=lage"], "model=lage: no such choice (did you mean large?); choose one of large, small"),
        (["seed=1"], "no value for prompt; give it, for example prompt=..."),
        (["model.name=a cat, a dog"], "'model.name=\"a cat, a dog\"'; or add --multirun"),
        (["-m", "prompt=it(s"], "put double quotes inside the shell's: 'prompt=\"it(s\"'"),
        (["a cat"], "'a cat' is not key=value"),
        (["prompt=${nowhere}"], "prompt: Interpolation key 'nowhere' not found"),
        (["prompt=a", "+model.nom=4"], "unexpected keyword argument 'nom'"),
        (["prompt=a", "model._target_=fractions.Fractoin"], "fractions.Fractoin"),
        (["prompt=a", "output_dir=/dev/null"], "output_dir=/dev/null is a file"),
        (["prompt=a", "trouble=full_disk"], "no space left on device: outputs/toy; free some space"),
    ],
)
def test_bad_input_is_one_line(run: Run, overrides: list[str], expected: str) -> None:
    code, _, err = run(*overrides)
    assert code == 2
    assert err.startswith("dsd-toy: error: ")
    assert expected in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "text",
    ["a cat, a dog", "it(s", 'say "hi"', "ends \\", "[LEFT] {x}: 'y'", "a = b", "7", "1e5", "true", "null", "0x10"],
)
def test_text_is_typed_as_it_is(run: Run, text: str) -> None:
    assert run(f"prompt={text}")[0] == 0
    assert OmegaConf.load("outputs/toy/config.yaml").prompt == text


def test_bad_input_is_found_before_anything_is_written(run: Run) -> None:
    run("seed=1")
    assert not Path("outputs").exists()


def test_a_bug_keeps_its_traceback(run: Run) -> None:
    code, _, err = run("prompt=a", "trouble=bug")
    assert code == 1
    assert "Traceback" in err
    assert err.endswith("dsd-toy: error: unexpected ZeroDivisionError: nobody's fault but ours\n")


def test_an_interrupt_says_how_to_go_on(run: Run) -> None:
    code, _, err = run("prompt=a", "trouble=interrupt")
    assert (code, err) == (130, "dsd-toy: interrupted; run the same command again to go on\n")


def test_a_multirun_gives_each_job_its_folder_and_resumes_in_it(run: Run) -> None:
    code, out, _ = run("seed=1,2", "-m", "prompt=a")
    assert code == 0
    assert "seed 1 in outputs/multirun/toy/0" in out
    assert "seed 2 in outputs/multirun/toy/1" in out
    code, out, _ = run("seed=1,2", "-m", "prompt=a")
    assert (code, "seed 1" in out) == (0, False)


def test_a_multirun_leaves_one_overview(run: Run) -> None:
    _, out, _ = run("-m", "seed=1,2", "mode=slow", "prompt=a")
    rows = [line.split(",") for line in Path("outputs/multirun/toy/overview.csv").read_text().split()]
    assert rows[0] == ["job", "seed", "rows", "seconds", "score.mean"]
    assert [[*row[:3], row[4]] for row in rows[1:]] == [["0", "1", "10", "0.333333"], ["1", "2", "20", "0.666667"]]
    assert out.endswith("2 jobs: outputs/multirun/toy/overview.csv\n")


def test_a_multirun_with_folders_of_its_own(run: Run) -> None:
    _, out, _ = run("-m", "seed=1,2", "prompt=a", "output_dir=outputs/seed_${seed}")
    assert "seed 1 in outputs/seed_1" in out
    assert "seed 2 in outputs/seed_2" in out


def test_an_error_in_a_multirun_names_the_job_and_the_others_go_on(run: Run) -> None:
    code, out, err = run("-m", "seed=1,-2,3,-4", "prompt=a")
    assert code == 2
    assert "dsd-toy: error: job 1 (seed=-2 prompt=a): seed=-2: at least 0 is needed" in err
    assert "dsd-toy: 2 jobs of the sweep failed, see above" in err
    assert "Error executing job" not in err
    assert "seed 3" in out


def test_a_shorter_sweep_lists_its_own_jobs(run: Run) -> None:
    run("-m", "seed=1,2,3", "prompt=a")
    _, out, _ = run("-m", "seed=1,2", "prompt=a")
    assert "2 jobs: " in out


def test_a_sweep_keeps_no_secret(run: Run) -> None:
    """Hydra writes multirun.yaml with every override as it was typed."""
    run("-m", "seed=1,2", "prompt=a", "api_key=hush", "+model.numerator=3", "trouble='http://me:hush@host'")
    for file in Path("outputs").rglob("*"):
        assert not file.is_file() or "hush" not in file.read_text(errors="ignore"), file


def test_help_and_cfg_need_no_values(run: Run) -> None:
    assert "seed: 3" in run("--cfg", "job")[1]
    code, out, _ = run("--help")
    assert code == 0
    assert out.startswith("dsd-toy: play with a toy.")
    assert "dsd-toy prompt=ball" in out
    assert "the toy: large, small (default)" in out
    assert "of the toy [3]" in out
    assert "published settings: typo/toy" in out


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("dsd-toy model=", "model=large model=small"),
        ("dsd-toy model=large see", "seed="),
        ("dsd-toy model.", "model._target_= model.numerator="),
        ("dsd-toy experiment=", "experiment=typo/toy"),
        ("dsd-toy experiment=ty", "experiment=typo/toy"),
    ],
)
def test_the_shell_completes_settings_and_choices(run: Run, monkeypatch: pytest.MonkeyPatch, typed, offered) -> None:
    monkeypatch.setenv("COMP_LINE", typed)
    assert run("-sc", "query=bash")[:2] == (0, f"{offered}\n")
    script = run("-sc", "install=bash")[1]
    assert script.endswith("-F hydra_bash_completion dsd-toy\n")
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_a_folder_of_another_config_is_refused_with_the_difference(run: Run) -> None:
    run("prompt=a")
    before = Path("outputs/toy/config.yaml").read_bytes()
    code, _, err = run("prompt=a", "seed=4", "learning_rate=3e-6")
    assert code == 2
    assert "learning_rate: 1e-05 there, 3e-06 now; seed: 3 there, 4 now" in err
    assert Path("outputs/toy/config.yaml").read_bytes() == before


def test_what_changes_no_result_may_change(run: Run) -> None:
    run("prompt=a")
    assert run("prompt=a", "mode=slow")[0] == 0
    assert run("prompt=a", "learning_rate=1e-5")[0] == 0


def test_the_hash_names_what_is_computed(tmp_path: Path) -> None:
    def digest(**changes: Any) -> str:
        toy = {"prompt": "a", "model": {"limits": {"calls": 1}, "size": 2}, "reads": str(tmp_path / "a.txt")}
        return config_hash(identity(OmegaConf.structured(Toy(**{**toy, **changes}))))

    (tmp_path / "a.txt").write_text("content")
    (tmp_path / "b.txt").write_text("content")
    (tmp_path / "c.txt").write_text("other")
    same: list[dict[str, Any]] = [
        {"output_dir": "x"}, {"mode": Mode.slow}, {"model": {"limits": {"calls": 9}, "size": 2}},
        {"reads": str(tmp_path / "b.txt")}, {"device": "cpu"},
    ]  # fmt: skip
    assert {digest(**changes) for changes in same} == {digest()}
    different: list[dict[str, Any]] = [{"seed": 1}, {"model": {"size": 3}}, {"reads": str(tmp_path / "c.txt")}]
    assert digest() not in {digest(**changes) for changes in different}
    assert len(digest()) == 12


@dataclass
class PaintedToy(Toy):
    """A toy of a later version."""

    colour: str | None = setting("of the paint", None, null_is_absent=True)


def test_a_setting_that_came_later_leaves_earlier_runs_as_they_are() -> None:
    before, unpainted, painted = (
        config_hash(identity(OmegaConf.structured(toy)))
        for toy in (Toy(prompt="a"), PaintedToy(prompt="a"), PaintedToy(prompt="a", colour="red"))
    )
    assert before == unpainted != painted


def test_what_was_read_must_not_change(run: Run) -> None:
    """An input is known by its content: edited at the same path, it is refused; moved, it is the same."""
    Path("a.txt").write_text("content")
    run("prompt=a", "reads=a.txt")
    Path("b.txt").write_text("content")
    assert run("prompt=a", "reads=b.txt")[0] == 0
    Path("a.txt").write_text("edited")
    code, _, err = run("prompt=a", "reads=a.txt")
    assert code == 2
    assert "inputs.reads: " in err


def test_a_folder_of_another_version_is_refused(run: Run) -> None:
    """0.1.0 wrote a config without an identity."""
    run("prompt=a")
    config = Path("outputs/toy/config.yaml")
    config.write_text("seed: 3\nprompt: a\n")
    code, _, err = run("prompt=a")
    assert code == 2
    assert "outputs/toy was begun by dsd 0.1, which recorded its settings in another form; choose another" in err


def test_a_secret_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "hush-hush")
    model = {"hf_token": "hush", "max_tokens": 77, "url": "https://me:hush@host/v1?key=hush", "text": "a hush-hush b"}
    cfg = OmegaConf.structured(Toy(prompt="a", api_key="hush", model=model))
    claim(tmp_path, cfg)
    text = (tmp_path / "config.yaml").read_text()
    assert "hush" not in text
    assert "max_tokens: 77" in text
    claim(tmp_path, cfg)


def test_a_secret_is_not_printed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "hush-hush")
    _, _, err = run("prompt=a", "reads=/nowhere/hush-hush?key=hush")
    assert "hush" not in err.replace("<redacted>", "")


def test_resolved_is_plain_and_complete() -> None:
    assert plain(OmegaConf.structured(Toy(prompt="${seed}")))["mode"] == "fast"
    with pytest.raises(UserError, match="no value for prompt"):
        plain(OmegaConf.structured(Toy))


LIGHT = (
    ("--help",), ("--cfg", "job"), ("sed=1",), ("model=lage",), ("experiment=none",), ("image=none.png", "prompt=a"),
    ("batch_size=0",), (),
)  # fmt: skip


def test_a_command_answers_without_torch() -> None:
    """Help, configs and refusals come before any heavy import: 18 s of CPU in 0.1.0."""
    code = """
import sys
from dsd.infer.__main__ import main
for arguments in {light!r}:
    sys.argv = ["dsd-infer", *arguments]
    try:
        main()
    except SystemExit:
        pass
    heavy = {{"torch", "diffusers", "transformers", "datasets", "accelerate", "peft", "matplotlib"}} & set(sys.modules)
    assert not heavy, (arguments, heavy)
"""
    done = subprocess.run(
        [sys.executable, "-c", code.format(light=LIGHT)], capture_output=True, text=True, check=False,
        cwd=Path(CONFIG_DIR).parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
