"""A small real Hydra app: how a stage reads its config, refuses bad input in one line, and claims its folder."""

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig, OmegaConf

from dsd.errors import UserError
from dsd.runs.command import CONFIG_DIR, claim, config_hash, resolved, stage
from dsd.runs.manifest import write_manifest

Run = Callable[..., tuple[int, str, str]]


class Mode(Enum):
    fast = 1
    slow = 2


@dataclass
class Toy:
    output_dir: str = "outputs/toy"
    seed: int = 0
    prompt: str = MISSING
    mode: Mode = Mode.fast
    learning_rate: float = 1e-5
    api_key: str | None = None
    model: Any = None
    trouble: str = ""


def toy(cfg: DictConfig) -> None:
    claim(cfg.output_dir, cfg, ignore=("mode",))
    write_manifest(cfg.output_dir, "toy", {"rows": 10 * cfg.seed}, score={"mean": cfg.seed / 3})
    print(f"seed {cfg.seed} in {cfg.output_dir}, model {instantiate(cfg.model)}")
    if cfg.trouble == "full_disk":
        with open("/dev/full", "w") as file:
            file.write("x")
    if cfg.trouble == "bug":
        raise ZeroDivisionError("nobody's fault but ours")
    if cfg.trouble == "interrupt":
        raise KeyboardInterrupt


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the app in an empty folder with the overrides given; returns exit code, stdout, stderr."""
    configs = tmp_path / "configs"
    (configs / "model").mkdir(parents=True)
    (configs / "toy.yaml").write_text(
        "defaults: [toy_schema, _self_, house, model: small, experiment: null]\nseed: 3\n"
    )
    (configs / "house.yaml").write_text(Path(CONFIG_DIR, "house.yaml").read_text())
    for size in ("small", "large"):
        (configs / "model" / f"{size}.yaml").write_text("_target_: fractions.Fraction\nnumerator: 3\n")
    (configs / "experiment").mkdir()
    (configs / "experiment" / "typo.yaml").write_text("# @package _global_\nsede: 4\n")
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for variable in ("HYDRA_FULL_ERROR", "DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.setenv(variable, os.environ.get(variable, ""))  # restores what the app sets
    main = stage("toy", Toy, configs)(toy)

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
    assert sorted(str(p) for p in Path("outputs").rglob("*.*")) == [
        "outputs/toy/config.yaml",
        "outputs/toy/manifest.json",
    ]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["sed=1"], "unknown key sed (did you mean seed?)"),
        (["model.numertor=4"], "unknown key model.numertor (did you mean numerator?)"),
        (["experiment=typo"], "experiment/typo.yaml: unknown key sede (did you mean seed?)"),
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


@pytest.mark.parametrize("text", ["a cat, a dog", "it(s", 'say "hi"', "ends \\", "[LEFT] {x}: 'y'", "a = b", "7"])
def test_text_is_typed_as_it_is(run: Run, text: str) -> None:
    code, _, err = run(f"prompt={text}")
    assert (code, err) == (0, "")
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
    for _ in range(2):
        code, out, _ = run("seed=1,2", "-m", "prompt=a")
        assert code == 0
        assert "seed 1 in outputs/multirun/toy/0" in out
        assert "seed 2 in outputs/multirun/toy/1" in out


def test_a_multirun_leaves_one_overview(run: Run) -> None:
    _, out, _ = run("-m", "seed=1,2", "mode=slow", "prompt=a")
    rows = Path("outputs/multirun/toy/overview.csv").read_text().split()
    assert rows == ["job,seed,rows,score.mean", "0,1,10,0.333333", "1,2,20,0.666667"]
    assert out.endswith("2 jobs: outputs/multirun/toy/overview.csv\n")


def test_a_multirun_with_folders_of_its_own(run: Run) -> None:
    _, out, _ = run("-m", "seed=1,2", "prompt=a", "output_dir=outputs/seed_${seed}")
    assert "seed 1 in outputs/seed_1" in out
    assert "seed 2 in outputs/seed_2" in out


def test_an_error_in_a_multirun_names_the_job(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    code, out, err = run("-m", "seed=1,2", "prompt=a", "trouble=full_disk")
    assert code == 2
    assert "seed 2" not in out
    assert "dsd-toy: error: job 0 (seed=1 prompt=a trouble=full_disk): no space left" in err
    assert "Error executing job" not in err


def test_help_and_cfg_need_no_values(run: Run) -> None:
    assert "seed: 3" in run("--cfg", "job")[1]
    code, out, _ = run("--help")
    assert code == 0
    assert "model: large, small" in out


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


def test_the_hash_names_what_is_computed() -> None:
    cfg = OmegaConf.structured(Toy(prompt="a", model={"b": {"c": 1}}))
    changes = {"output_dir": "x", "mode": "slow", "api_key": "k"}
    same = OmegaConf.merge(cfg, changes | {"model": {"b": {"c": 2}}})
    ignore = ("mode", "model.b")
    assert config_hash(cfg, ignore) != config_hash(OmegaConf.merge(cfg, {"seed": 1}), ignore)
    assert config_hash(cfg, ("model",)) != config_hash(OmegaConf.merge(cfg, {"mode": "slow"}), ("model",))
    assert config_hash(OmegaConf.merge(same, {"api_key": "other"}), ignore) == config_hash(same, ignore)
    assert len(config_hash(cfg)) == 12


def test_a_secret_is_not_written(tmp_path: Path) -> None:
    cfg = OmegaConf.structured(Toy(prompt="a", api_key="hush", model={"hf_token": "hush", "max_tokens": 77}))
    claim(tmp_path, cfg)
    text = (tmp_path / "config.yaml").read_text()
    assert "hush" not in text
    assert "max_tokens: 77" in text
    claim(tmp_path, cfg)


def test_resolved_is_plain_and_complete() -> None:
    assert resolved(OmegaConf.structured(Toy(prompt="${seed}")))["mode"] == "fast"
    with pytest.raises(UserError, match="no value for prompt"):
        resolved(OmegaConf.structured(Toy))
