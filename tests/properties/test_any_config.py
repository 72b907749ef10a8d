"""Any config of any stage is refused in one line or composes, and what composes has an identity."""

import json
import os
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsd.runs.command import CONFIG_DIR, quoted
from dsd.runs.identity import identity
from dsd.runs.manifest import COMMANDS
from dsd.runs.messages import explain
from dsd.runs.settings import SCHEMAS, check, described, plain

often = settings(
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", 25)),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
STAGES = (*COMMANDS, "export", "publish")
numbers = st.integers(-3, 3) | st.integers() | st.floats() | st.sampled_from((10**30, -0.0, 1e308))
texts = st.text(max_size=8) | st.sampled_from(("null", "true", "x" * 400, "${seed}", "${nowhere}", "a,b", "[1,", "\0"))
values = (
    numbers.map(str)
    | texts
    | texts.map(json.dumps)
    | st.lists(numbers, max_size=3).map(lambda found: f"[{','.join(map(str, found))}]")
    | st.just("{a: 1}")
)
wild = st.text(alphabet="abcdefgh._", min_size=1, max_size=12)


@cache
def keys(stage: str) -> list[str]:
    """The settings of a stage; its choices (groups) are taken as they are, another test composes every one."""
    import_module("dsd.publish.commands" if stage in ("export", "publish") else f"dsd.{stage}.__main__")
    ConfigStore.instance().store(f"{stage}_schema", SCHEMAS[stage])
    return [key for key, about, _ in described(SCHEMAS[stage]) if not about.group and key != "experiment"]


@pytest.mark.parametrize("stage", STAGES)
@often
@given(st.data())
def test_any_config_is_refused_in_one_line_or_composes(stage: str, data: Any) -> None:
    known = st.sampled_from(keys(stage))
    asked = data.draw(st.lists(st.tuples(known | wild, values), min_size=1, max_size=4))
    schema = SCHEMAS[stage]
    try:
        with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
            cfg = compose(stage, [quoted(f"{key}={value}", schema) for key, value in asked])
        plain(cfg)
        check(cfg, schema)
        assert json.dumps(identity(cfg))
    except Exception as error:
        said = explain(error) or f"a traceback: {asked} {error!r}\n"
        if "\n" in said:
            pytest.fail(said)


def test_the_strategy_reaches_every_stage() -> None:
    assert all(len(keys(stage)) > 4 for stage in STAGES)
    assert Path(CONFIG_DIR).is_dir()
