"""Describe the settings of a stage once: what they mean, their range, and whether they change results.

A schema is a dataclass whose fields are made by `setting`. Help texts, range checks and the identity of a run
(`dsd.runs.identity`) all follow from these descriptions. This module imports no heavy library, so that a command can
answer `--help` at once.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf

from dsd.errors import UserError
from dsd.runs.manifest import COMMANDS, read_manifest

SCHEMAS: dict[str, type] = {}  # by stage; each command adds its own


@dataclass(frozen=True)
class About:
    """What is known of a setting."""

    help: str
    changes_results: bool  # whether it belongs to the identity of a run
    ignored: tuple[str, ...]  # keys below it that change no result
    least: float | None
    most: float | None
    above: float | None
    group: bool  # chosen from configs/<name>/
    reads: str | None  # a path that must exist: the finished folder of a stage, a "file" or a "folder"
    null_is_absent: bool  # null is no part of the identity: runs from before this setting existed stay the same


def setting(
    help: str,
    default: Any = MISSING,
    *,
    changes_results: bool = True,
    ignored: tuple[str, ...] = (),
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    group: bool = False,
    reads: str | None = None,
    null_is_absent: bool = False,
    factory: Callable[[], Any] | None = None,
) -> Any:
    """Make a dataclass field with its description. `factory` makes a mutable default."""
    metadata = {"about": About(help, changes_results, ignored, least, most, above, group, reads, null_is_absent)}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


_WHERE: dict[str, Any] = {"changes_results": False}


@dataclass
class OutputSettings:
    """What every stage has."""

    output_dir: str = setting("folder of the results; the same command resumes in it", changes_results=False)
    experiment: str | None = setting("published settings, from configs/experiment/", None, changes_results=False)
    device: str = setting("auto, cpu, cuda or cuda:N", "auto", changes_results=False)
    gpu_gb: float | None = setting(
        "memory of the GPU that these settings are made for, in GB, which dsd-doctor reads; null: none is needed", None,
        above=0, changes_results=False,
    )  # fmt: skip


@dataclass
class ShardSettings(OutputSettings):
    """A stage whose work can be divided over processes."""

    shard: int = setting("part of the work that this process does (Slurm's array index)", 0, least=0, **_WHERE)
    num_shards: int = setting("number of parts (size of Slurm's array)", 1, least=1, **_WHERE)


def described(schema: type, prefix: str = "") -> Iterator[tuple[str, About, Any]]:
    """List the settings of a schema, nested ones after their parent: (dotted key, description, type)."""
    hints = get_type_hints(schema)
    for f in fields(schema):
        about, kind, key = f.metadata.get("about"), hints[f.name], prefix + f.name
        if about is not None:
            yield key, about, kind
        if nested := _schema_in(kind):
            yield from described(nested, f"{key}.")


def check(cfg: DictConfig, schema: type) -> None:
    """Check every number against its range, every path that is read, then the schema's own `check`. UserError."""
    _refuse_infinite(cfg)
    for key, about, _ in described(schema):
        value = OmegaConf.select(cfg, key)
        for number in _numbers(value):
            _check_range(key, number, about)
        if about.reads is not None and value is not None:
            check_path(key, str(value), about.reads)
    if issubclass(schema, ShardSettings) and cfg.shard >= cfg.num_shards:
        raise UserError(f"shard={cfg.shard} is outside 0..{cfg.num_shards - 1} (num_shards={cfg.num_shards})")
    if hasattr(schema, "check"):
        schema.check(cfg)


def check_path(key: str, path: str, kind: str) -> None:
    """Raise UserError unless `path` is what `kind` says: the finished folder of a stage, a "file" or a "folder"."""
    if kind in COMMANDS:
        read_manifest(path, kind)
    elif kind == "file" and not Path(path).is_file():
        raise UserError(f"{key}={path}: no such file")
    elif kind == "folder" and not Path(path).is_dir():
        raise UserError(f"{key}={path}: no such folder")


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Resolve a config to plain values, enums by name. UserError names values that are missing."""
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(f"no value for {', '.join(missing)}; give it, for example {missing[0]}=...")
    resolved = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten {"a": {"b": 1}} to {"a.b": 1}; lists are leaves."""
    if not isinstance(config, dict) or not config:
        return {prefix: config}
    return {
        k: v for key, child in config.items() for k, v in leaves(child, f"{prefix}.{key}" if prefix else key).items()
    }


def _schema_in(kind: Any) -> type | None:
    """Find the nested schema of a field's type, also of `Schema | None`."""
    return next((k for k in (kind, *get_args(kind)) if isinstance(k, type) and is_dataclass(k)), None)


def _numbers(value: Any) -> list[float]:
    """List the numbers of a setting: itself, or the items of a list."""
    if OmegaConf.is_list(value):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def _check_range(key: str, number: float, about: About) -> None:
    if about.least is not None and number < about.least:
        raise UserError(f"{key}={number}: at least {about.least} is needed")
    if about.above is not None and number <= about.above:
        raise UserError(f"{key}={number}: more than {about.above} is needed")
    if about.most is not None and number > about.most:
        raise UserError(f"{key}={number}: at most {about.most} is allowed")


def _refuse_infinite(cfg: DictConfig) -> None:
    """Raise UserError where any number, also below a group, is NaN or infinite."""
    for key, value in leaves(plain(cfg)).items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{key}={number}: a finite number is needed")
