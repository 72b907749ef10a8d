"""A stage as a command: Hydra reads the config, bad input ends in one line, and an output folder belongs to one config.

    @stage("train", TrainConfig)          # configs/train.yaml: defaults: [train_schema, _self_, house, ...]
    def main(cfg: DictConfig) -> None:
        config_hash = claim(cfg.output_dir, cfg, ignore=("num_workers", "logger"))
        ...

    if __name__ == "__main__":
        main()                            # python -m dsd.train, and the console script dsd-train

Exit codes: 0 done; 2 the user's to mend, one line on stderr; 1 unexpected, with its traceback; 130 interrupted.
A job of a --multirun gets `<hydra.sweep.dir>/<number>` as its output_dir unless output_dir is overridden.
"""

import functools
import hashlib
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Collection
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from dsd.errors import UserError
from dsd.files import atomic
from dsd.runs.manifest import command
from dsd.runs.messages import explain

_HERE = Path(__file__).resolve().parents[1]
CONFIG_DIR = next((str(d) for d in (_HERE / "configs", _HERE.parent / "configs") if d.is_dir()), str(_HERE / "configs"))

_SECRET = re.compile(r"(^|_)(api_?key|token|secret|password)$", re.IGNORECASE)
_SHOWN = 6  # differing keys in the message of a refused folder


def stage(
    name: str, schema: type, config_dir: str | Path = CONFIG_DIR
) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make `main(cfg)` a command that reads `config_dir`/`name`.yaml; `schema` is the type of that whole config."""
    ConfigStore.instance().store(f"{name}_schema", schema)
    program = command(name)

    def decorate(main: Callable[[DictConfig], Any]) -> Callable[[], None]:
        def job(cfg: DictConfig) -> Any:
            _log_to_console()  # a launcher such as submitit runs this in a process of its own
            # SystemExit passes through Hydra, which prints lines of its own about any other exception
            try:
                return main(_ready(cfg))
            except Exception as error:
                sys.exit(_report(f"{program}: error: {_job_label()}", error, str(cfg.get("output_dir", ""))))

        @functools.wraps(main)
        def run() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands exceptions on instead of printing them
            _log_to_console()
            # argparse refuses key=value on both sides of an option such as -m
            sys.argv[1:] = sorted(sys.argv[1:], key=lambda a: "=" in a and not a.startswith("-"))
            if not {"-m", "--multirun"} & set(sys.argv):  # there a comma separates values
                sys.argv[1:] = [quoted(argument, schema) for argument in sys.argv[1:]]
            try:
                hydra.main(version_base="1.3", config_path=str(config_dir), config_name=name)(job)()
            except KeyboardInterrupt:
                print(f"{program}: interrupted; run the same command again to go on", file=sys.stderr)
                sys.exit(130)
            except Exception as error:
                sys.exit(_report(f"{program}: error: ", error))

        return run

    return decorate


def quoted(override: str, schema: type) -> str:
    """prompt=a cat, a dog -> prompt="a cat, a dog", where the schema says that the key is text: Hydra's own quoting.

    What is quoted, refers to another value (${...}), or needs no quotes stays as it is.
    """
    key, _, value = override.partition("=")
    kind: Any = schema
    for part in key.split("."):
        kind = get_type_hints(kind).get(part) if is_dataclass(kind) else None
    if (
        kind not in (str, str | None)
        or not value
        or re.fullmatch(r"[\w./~@%+*?|:-]+", value)
        or value[0] in "'\""
        or "${" in value
    ):
        return override
    escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + ("\\" if found[2] else "") + found[2], value)
    return f'{key}="{escaped}"'


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain values: interpolations resolved, enums by name. UserError where a value is missing."""
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(f"no value for {', '.join(missing)}; give it, for example {missing[0]}=...")
    plain = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def config_hash(cfg: DictConfig, ignore: Collection[str] = ()) -> str:
    """12 hex digits that say what is computed.

    Left out: `output_dir`, every `device`, secrets, and the dotted keys in `ignore` with all below them.
    """
    canonical = json.dumps(_identity(resolved(cfg), ignore), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def claim(output_dir: str | Path, cfg: DictConfig, ignore: Collection[str] = (), work: Path | None = None) -> str:
    """Bind a folder to a config; returns `config_hash(cfg, ignore)`. Every stage calls it before any work.

    The first run leaves the resolved config (secrets redacted) as config.yaml. A later run must have the same one, but
    for the keys in `ignore`: those that change speed or display but no result. UserError shows the difference. As long
    as there are no files in `work` (by default the folder) the folder is anyone's: a first run may have been refused.
    """
    path, config = Path(output_dir) / "config.yaml", resolved(cfg)
    if Path(output_dir).exists() and not Path(output_dir).is_dir():
        raise UserError(f"output_dir={output_dir} is a file; choose a folder")
    if path.exists() and made_in(Path(work or output_dir)):
        there = OmegaConf.to_container(OmegaConf.load(path))
        _refuse_difference(path, _identity(there, ignore), _identity(config, ignore))
    else:
        with atomic(path) as temporary:
            temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(_redacted(config))), encoding="utf-8")
    return config_hash(cfg, ignore)


def made_in(folder: Path) -> bool:
    """Whether anything but configs is there."""
    return any(file.is_file() and file.name != "config.yaml" for file in folder.rglob("*"))


def in_multirun() -> bool:
    return HydraConfig.get().mode == RunMode.MULTIRUN


def _ready(cfg: DictConfig) -> DictConfig:
    """The job's config, complete, with a folder of its own in a multirun."""
    if in_multirun():
        logging.getLogger("dsd").info("%s", _job_label().rstrip(": "))
        given = {o.lstrip("+").partition("=")[0] for o in HydraConfig.get().overrides.task}
        if "output_dir" not in given:
            sweep = HydraConfig.get().sweep
            cfg.output_dir = os.path.join(sweep.dir, sweep.subdir)
        # submitit makes a sweep an array; each of its tasks is the whole of another job, not a part of one
        for key, whole in (("shard", 0), ("num_shards", 1)):
            if key in cfg and key not in given:
                cfg[key] = whole
    resolved(cfg)  # finds a missing value or a broken interpolation before any work
    return cfg


def _job_label() -> str:
    """ "job 3 (seed=1 cfg=2): " in a multirun, otherwise ""."""
    settings = HydraConfig.get()
    if not in_multirun():
        return ""
    return f"job {settings.job.num} ({' '.join(settings.overrides.task)}): "


def _report(prefix: str, error: Exception, output_dir: str = "") -> int:
    """Print the one line; returns the exit code."""
    line = explain(error, output_dir)
    if line is None:
        traceback.print_exception(error)
        print(f"{prefix}unexpected {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(prefix + line, file=sys.stderr)
    return 2


def _log_to_console() -> None:
    """One line a message on stderr: ours from INFO, the libraries' from WARNING."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for ours in ("dsd", "__main__"):
        logging.getLogger(ours).setLevel(logging.INFO)


def leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists are leaves."""
    if not isinstance(config, dict) or not config:
        return {prefix: config}
    return {
        k: v for key, child in config.items() for k, v in leaves(child, f"{prefix}.{key}" if prefix else key).items()
    }


def _identity(config: Any, ignore: Collection[str]) -> dict[str, Any]:
    """The leaves that decide what is computed."""
    found = leaves(_redacted(config)).items()
    return {k: v for k, v in found if not any(k == i or k.startswith(f"{i}.") for i in ignore) and not _where(k)}


def _where(key: str) -> bool:
    """Says where something is computed or put, never what."""
    return key == "output_dir" or key.split(".")[-1] == "device"


def _redacted(config: Any, key: str = "") -> Any:
    if isinstance(config, dict):
        return {k: _redacted(v, str(k)) for k, v in config.items()}
    if isinstance(config, list):
        return [_redacted(v) for v in config]
    return "<redacted>" if config and _SECRET.search(key) else config


def _refuse_difference(path: Path, there: dict[str, Any], now: dict[str, Any]) -> None:
    differing = [key for key in sorted(there | now) if there.get(key, ...) != now.get(key, ...)]
    if not differing:
        return
    shown = "; ".join(f"{key}: {_short(there, key)} there, {_short(now, key)} now" for key in differing[:_SHOWN])
    more = f"; and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
    raise UserError(
        f"{path.parent} belongs to another config ({shown}{more}); choose another output_dir=, or delete the folder"
    )


def _short(config: dict[str, Any], key: str) -> str:
    text = (str(config[key]) or "''") if key in config else "absent"
    return text if len(text) <= 60 else text[:57] + "..."
