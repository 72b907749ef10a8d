"""What holds the house together: stages meet in files, and every config is one that its code accepts."""

import ast
import importlib
import inspect
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import hydra.errors
import hydra.utils
import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from dsd.runs.command import CONFIG_DIR
from dsd.runs.manifest import COMMANDS
from dsd.runs.settings import SCHEMAS, described

ROOT = Path(__file__).parents[1]
CONFIGS = Path(CONFIG_DIR)
STAGES = tuple(COMMANDS)
EXPERIMENTS = sorted(
    f.relative_to(CONFIGS / "experiment").as_posix()[:-5] for f in CONFIGS.glob("experiment/**/*.yaml")
)
GROUP_FILES = sorted(f.relative_to(CONFIGS).as_posix() for f in CONFIGS.rglob("*.yaml"))
# What a room may import beside itself. The floors, from the ground: files, runs, models, the shared rooms, the stages.
GROUND = {"errors", "flow", "io", "version"}
ROOMS = {
    **dict.fromkeys(GROUND, GROUND),
    "__init__": GROUND | {"runs", "models", "pipeline"},  # the library's face, imported when used
    "runs": GROUND,
    "lights": GROUND | {"runs"},  # the list of lights, which data generation and drawing share
    "models": GROUND | {"runs"},
    "geometry": GROUND | {"runs", "models"},
    "metrics": GROUND | {"runs", "models", "chat", "geometry"},
    "chat": GROUND | {"runs", "models"},
    "pipeline": GROUND | {"runs", "models"},
    "benchmarks": GROUND | {"runs", "models", "pipeline"},
    **dict.fromkeys(
        STAGES, GROUND | {"runs", "models", "metrics", "chat", "pipeline", "benchmarks", "geometry", "lights"}
    ),
    "publish": GROUND | {"runs", "models", "pipeline", "benchmarks"},
    "app": GROUND | {"runs", "models", "pipeline", "chat", "infer", "curation"},  # draws and shows what stages made
}


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


def rooms_in(names: set[str]) -> set[str]:
    """The rooms of dsd that these modules lie in."""
    return {name.split(".")[1] for name in names if name.startswith("dsd.")} & {*ROOMS, "toybox"}


def room_of(source: Path) -> str:
    return source.relative_to(ROOT / "dsd").parts[0].removesuffix(".py")


@cache
def composed(stage: str, *overrides: str) -> DictConfig:
    """The stage's config as the command would read it; its schema is registered by importing the stage."""
    ConfigStore.instance().store(f"{stage}_schema", schema_of(stage))
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


def test_rooms_import_only_what_lies_below() -> None:
    files = [f for f in (ROOT / "dsd").rglob("*.py") if room_of(f) != "toybox"]
    assert {room_of(f) for f in files} == set(ROOMS), "every room has its floor"
    offences = {str(f): found for f in files if (found := rooms_in(imported(f)) - ROOMS[room_of(f)] - {room_of(f)})}
    assert not offences


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
        assert rooms_in(imported(source, tmp_path)) == {"train"}, line


@pytest.mark.parametrize("stage", STAGES)
def test_a_config_names_no_other_stage(stage: str) -> None:
    """Stages meet in files, not through a `_target_`; the toybox may be named, since nobody imports it."""
    chosen = [composed(stage), *(composed(stage, f"experiment={e}") for e in EXPERIMENTS if e.endswith(f"/{stage}"))]
    chosen += [composed(stage, f"{group}={choice}") for group, choice in choices(stage)]
    named = {
        node["_target_"].split(".")[1]
        for cfg in chosen
        for _, node in targets(OmegaConf.to_container(cfg, resolve=False))
        if node["_target_"].startswith("dsd.")
    }
    assert named <= {stage, "runs", "models", "metrics", "chat", "pipeline", "benchmarks", "geometry", "toybox", "flow"}


def choices(stage: str) -> Iterator[tuple[str, str]]:
    """Every choice of every group that a stage has."""
    for key, about, _ in described(schema_of(stage)):
        if about.group:
            for file in sorted((CONFIGS / key).glob("*.yaml")):
                if not file.stem.startswith("_"):
                    yield key, file.stem


def schema_of(stage: str) -> type:
    importlib.import_module(f"dsd.{stage}.__main__")
    return SCHEMAS[stage]


def test_there_are_few_config_files() -> None:
    """The redesign's bound was 80; free models, published settings, judges, measures and benchmarks each add a file."""
    assert len(GROUP_FILES) <= 150


@pytest.mark.parametrize("stage", STAGES)
def test_every_setting_is_described(stage: str) -> None:
    """--help has a line for each, and says whether it changes results."""
    schema, known = schema_of(stage), {key for key, _, _ in described(schema_of(stage))}
    top = [f.name for f in fields(schema)]
    assert [name for name in top if name not in known and not any(k.startswith(f"{name}.") for k in known)] == []
    assert len(schema.examples) == 3


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


def test_console_scripts_are_there() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts.items() >= {command: f"dsd.{stage}.__main__:main" for stage, command in COMMANDS.items()}.items()
    for target in scripts.values():
        module, function = target.split(":")
        assert callable(getattr(importlib.import_module(module), function))
