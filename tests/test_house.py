"""What holds the house together: stages meet in files, and every config is one that its code accepts."""

import ast
import importlib
import inspect
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import hydra.errors
import hydra.utils
import pytest
from omegaconf import DictConfig, OmegaConf

from dsd.runs.command import CONFIG_DIR
from dsd.runs.manifest import COMMANDS

ROOT = Path(__file__).parents[1]
CONFIGS = Path(CONFIG_DIR)
STAGES = tuple(COMMANDS)
EXPERIMENTS = sorted(
    f.relative_to(CONFIGS / "experiment").as_posix()[:-5] for f in CONFIGS.glob("experiment/**/*.yaml")
)
GROUP_FILES = sorted(f.relative_to(CONFIGS).as_posix() for f in CONFIGS.rglob("*.yaml"))


def imported(source: Path, root: Path = ROOT) -> set[str]:
    """Every module that a file imports, also inside functions: "from dsd import train" gives dsd and dsd.train."""
    package = source.relative_to(root).parent.parts
    names = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def stages_in(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("dsd.")} & set(STAGES)


@cache
def composed(stage: str, *overrides: str) -> DictConfig:
    """The stage's config as the command would read it; its schema is registered by importing the stage."""
    importlib.import_module(f"dsd.{stage}.__main__")
    with hydra.initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        return hydra.compose(stage, overrides=list(overrides))


def targets(config: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping with a `_target_`, with the dotted key it stands at."""
    if isinstance(config, dict):
        if "_target_" in config:
            yield where, config
        for key, value in config.items():
            yield from targets(value, f"{where}.{key}")
    elif isinstance(config, list):
        for i, value in enumerate(config):
            yield from targets(value, f"{where}[{i}]")


def refused(config: Any) -> list[str]:
    """The `_target_`s that do not exist or do not take the keys beside them."""
    problems = []
    for where, node in targets(config):
        keys = [str(key) for key in node if not str(key).startswith("_")]
        try:
            inspect.signature(hydra.utils.get_object(node["_target_"])).bind_partial(
                *node.get("_args_", []), **dict.fromkeys(keys)
            )
        except (TypeError, ImportError, ValueError) as error:
            problems.append(f"{where or 'top'}: {node['_target_']}: {error}")
    return problems


def stages_of(experiment: str) -> list[str]:
    """The stage that the file's path names, or else every stage."""
    named = [stage for stage in STAGES if stage in experiment.split("/") or Path(experiment).name.startswith(stage)]
    return named or list(STAGES)


def test_stages_import_no_other_stage() -> None:
    files = [f for stage in STAGES for f in (ROOT / "dsd" / stage).rglob("*.py")]
    assert {f.relative_to(ROOT / "dsd").parts[0] for f in files} == set(STAGES), "every stage is walked"
    offences = {str(f): others for f in files if (others := stages_in(imported(f)) - {f.relative_to(ROOT).parts[1]})}
    assert not offences


def test_shared_code_imports_no_stage() -> None:
    """Else two stages would meet through it."""
    shared = [*(ROOT / "dsd").glob("*.py"), *(ROOT / "dsd" / "models").rglob("*.py")]
    assert len(shared) > 5
    assert not {str(f): found for f in shared if (found := stages_in(imported(f)))}


def test_the_walk_sees_every_way_to_import(tmp_path: Path) -> None:
    source = tmp_path / "dsd" / "infer" / "jobs.py"
    source.parent.mkdir(parents=True)
    for line in (
        "import dsd.train.loop",
        "from dsd.train import loop",
        "from dsd import train",
        "from ..train import loop",
        "from .. import train",
        "def late():\n    from dsd.train.loop import fit",
    ):
        source.write_text(line)
        assert stages_in(imported(source, tmp_path)) == {"train"}, line


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_composes_with_its_schema(stage: str) -> None:
    cfg = composed(stage)
    assert OmegaConf.get_type(cfg) is not dict, "the primary config begins with its schema"
    with pytest.raises(Exception, match="no_such_key"):
        composed(stage, "no_such_key=1")


@pytest.mark.parametrize("stage", STAGES)
def test_a_misspelt_experiment_is_refused(stage: str) -> None:
    """`optional experiment: null` among the defaults would pass over it in silence; `experiment: null` does not."""
    with pytest.raises(hydra.errors.HydraException, match="no_such_experiment"):
        composed(stage, "experiment=no_such_experiment")


def test_there_are_experiments() -> None:
    assert EXPERIMENTS


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_its_targets_accept_their_keys(experiment: str) -> None:
    named = stages_of(experiment)
    errors: dict[str, Exception] = {}
    for stage in named:
        try:
            cfg = composed(stage, f"experiment={experiment}")
        except hydra.errors.HydraException as error:
            errors[stage] = error
        else:
            assert not refused(OmegaConf.to_container(cfg, resolve=False))
    assert len(errors) < len(named), errors


@pytest.mark.parametrize("stage", STAGES)
def test_the_targets_of_a_stage_accept_their_keys(stage: str) -> None:
    assert not refused(OmegaConf.to_container(composed(stage), resolve=False))


def test_every_target_in_every_file_accepts_its_keys() -> None:
    """Choices that no primary config and no experiment makes are read as they stand."""
    loaded = {name: OmegaConf.to_container(OmegaConf.load(CONFIGS / name)) for name in GROUP_FILES}
    for config in loaded.values():
        config.pop("defaults", None)  # Hydra's own
    assert any(True for config in loaded.values() for _ in targets(config)), "no _target_ found"
    assert not {name: problems for name, config in loaded.items() if (problems := refused(config))}


def test_a_wrong_key_is_noticed() -> None:
    assert refused({"a": [{"_target_": "fractions.Fraction", "nom": 1}]})
    assert refused({"_target_": "fractions.Fractoin"})
    assert not refused({"_target_": "fractions.Fraction", "numerator": 1, "_partial_": True})


def test_console_scripts_are_the_stages() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {command: f"dsd.{stage}.__main__:main" for stage, command in COMMANDS.items()}
    for stage in STAGES:
        assert callable(importlib.import_module(f"dsd.{stage}.__main__").main)
