"""Make a stage a command: Hydra reads the config, the frame checks it, and only then is the stage imported and run.

    main = command("train", TrainSettings, "dsd.train.stage:run")     # configs/train.yaml begins with train_schema

    if __name__ == "__main__":
        main()                            # python -m dsd.train, and the console script dsd-train

`--help`, `--cfg job` and refused settings are answered without importing torch. Exit codes: 0 done; 2 bad input, one
line on stderr; 1 unexpected, with its traceback; 130 interrupted. A job of a --multirun gets
`<hydra.sweep.dir>/<number>` as its output_dir unless output_dir is overridden.
"""

import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import fields, is_dataclass
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any, get_type_hints

from dsd.runs.redaction import Redacting, forget, learn, redact
from dsd.runs.settings import SCHEMAS, check, plain

_PACKAGE = Path(__file__).resolve().parents[1]
CONFIG_DIR = next(str(d) for d in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if d.is_dir())
_NOT_TEXT = ("true", "false", "null", "nan", "inf")  # as Hydra reads them without quotes
_QUIET = {  # read by libraries when they are imported; a user's own value wins
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "MPLBACKEND": "agg",
    "TORCH_LOGS": "-torch.utils._pytree",  # torchao's own deprecations
}


def command(stage: str, schema: type, run: str, config_dir: str | Path = CONFIG_DIR) -> Callable[[], None]:
    """Make the console script of a stage.

    `schema` is the type of the whole config, `config_dir`/`stage`.yaml the primary config, and `run` names the
    function that takes the checked config, as "module:function".
    """
    SCHEMAS[stage] = schema

    def main() -> None:
        quiet()
        if {"--help", "-h"} & set(sys.argv[1:]):
            from dsd.runs.help import help_text

            print(help_text(stage, schema, Path(config_dir)))
            return
        sys.exit(_start(stage, schema, run, Path(config_dir)))

    return main


def quiet() -> None:
    """Silence what libraries say on an ordinary run; print our own messages, redacted, one line each on stderr."""
    for variable, value in _QUIET.items():
        os.environ.setdefault(variable, value)
    if not sys.warnoptions:
        for category in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", category)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for handler in logging.getLogger().handlers + logging.getLogger("dsd").handlers:
        if not any(isinstance(known, Redacting) for known in handler.filters):
            handler.addFilter(Redacting())
    for ours in ("dsd", "__main__"):
        logging.getLogger(ours).setLevel(logging.INFO)


def _start(stage: str, schema: type, run: str, config_dir: Path) -> int:
    """Read the config and run the stage; return the exit code."""
    import hydra
    from hydra.core.config_store import ConfigStore

    from dsd.runs.manifest import command_name

    ConfigStore.instance().store(f"{stage}_schema", schema)
    program, here, codes = command_name(stage), os.getpid(), [0]

    def job(cfg: Any) -> Any:
        quiet()  # a launcher such as submitit runs this in a process of its own
        try:
            cfg = _completed(cfg)
            learn(plain(cfg))
            check(cfg, schema)
            from dsd.io.pictures import forbid_programs

            forbid_programs()
            module, function = run.split(":")
            return getattr(import_module(module), function)(cfg)
        except Exception as error:
            codes.append(_report(f"{program}: error: {_job_label()}", error, str(cfg.get("output_dir", ""))))
            traceback.clear_frames(error.__traceback__)  # lets go of the run's locks and models, where a sweep goes on
            if in_multirun() and os.getpid() == here:
                return None  # the other jobs of the sweep go on
            # SystemExit passes through Hydra, which prints lines of its own about any other exception
            sys.exit(codes[-1])

    typed = os.environ.get("COMP_LINE", "").split()[-1:]
    if "query=bash" in sys.argv and typed and typed[0].startswith("experiment="):  # Hydra lists no folders of choices
        print(*(f"experiment={name}" for name in _experiments(config_dir, stage)))
        return 0
    forget()
    learn(list(sys.argv[1:]))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands exceptions on instead of printing them
    if any(field.name == "verbose" for field in fields(schema)):
        sys.argv[1:] = ["verbose=true" if argument in ("-v", "--verbose") else argument for argument in sys.argv[1:]]
    # argparse refuses key=value on both sides of an option such as -m
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda a: a.startswith("~") or ("=" in a and not a.startswith("-")))
    if not {"-m", "--multirun"} & set(sys.argv):  # there a comma separates values
        sys.argv[1:] = [quoted(argument, schema) for argument in sys.argv[1:]]
    try:
        with _redacted_config():
            hydra.main(version_base="1.3", config_path=str(config_dir), config_name=stage)(job)()
    except KeyboardInterrupt:
        print(f"{program}: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except Exception as error:
        return _report(f"{program}: error: ", error, choices=_experiments(config_dir, stage))
    if len(codes) > 2:
        print(f"{program}: {len(codes) - 1} jobs of the sweep failed, see above", file=sys.stderr)
    return max(codes)


@contextmanager
def _redacted_config() -> Iterator[None]:
    """Redact what Hydra prints for --cfg and --info; a stage's own output passes as it comes."""
    if not any(argument.startswith(("--cfg", "-c", "--info", "-i")) for argument in sys.argv[1:]):
        yield
        return
    printed = StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        print(redact(printed.getvalue()), end="")


def quoted(override: str, schema: type) -> str:
    """Quote a text as Hydra wants it: prompt=a cat, a dog -> prompt="a cat, a dog".

    Only where the schema says that the key is text. What is quoted already, refers to another value (${...}), or needs
    no quotes stays as it is.
    """
    key, _, value = override.partition("=")
    kind: Any = schema
    for part in key.split("."):
        kind = get_type_hints(kind).get(part) if is_dataclass(kind) else None
    if kind not in (str, str | None) or not value or value[0] in "'\"" or "${" in value:
        return override
    if value == "null" and kind is not str:
        return override
    if re.fullmatch(r"[A-Za-z_/~@%*?|:-][\w./~@%+*?|:-]*", value) and value.lower() not in _NOT_TEXT:
        return override
    escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + ("\\" if found[2] else "") + found[2], value)
    return f'{key}="{escaped}"'


def in_multirun() -> bool:
    """Tell whether this is one job of a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return bool(HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN)


def _completed(cfg: Any) -> Any:
    """Complete a job's config: a folder of its own in a multirun, and no value missing."""
    from hydra.core.hydra_config import HydraConfig

    if in_multirun():
        logging.getLogger("dsd").info("%s", _job_label().rstrip(": "))
        given = {o.lstrip("+").partition("=")[0] for o in HydraConfig.get().overrides.task}
        if "output_dir" in cfg and "output_dir" not in given:
            sweep = HydraConfig.get().sweep
            cfg.output_dir = os.path.join(sweep.dir, sweep.subdir)
        # submitit makes a sweep an array; each of its tasks is the whole of another job, not a part of one
        for key, whole in (("shard", 0), ("num_shards", 1)):
            if key in cfg and key not in given:
                cfg[key] = whole
    plain(cfg)  # finds a missing value or a broken interpolation before any work
    return cfg


def _job_label() -> str:
    """Name a job of a multirun: "job 3 (seed=1 cfg=2): "; otherwise ""."""
    from hydra.core.hydra_config import HydraConfig

    if not in_multirun():
        return ""
    settings = HydraConfig.get()
    return f"job {settings.job.num} ({' '.join(settings.overrides.task)}): "


def _experiments(config_dir: Path, stage: str) -> list[str]:
    """List the experiments of a stage: paper/train, toybox_demo/train."""
    folder = config_dir / "experiment"
    files = (f.relative_to(folder).with_suffix("").as_posix() for f in sorted(folder.rglob("*.yaml")))
    return [name for name in files if "/" not in name or name.split("/")[-1] == stage]


def _report(prefix: str, error: Exception, output_dir: str = "", choices: list[str] | None = None) -> int:
    """Print the one line of an error, redacted; return the exit code."""
    from dsd.runs.messages import explain

    line = explain(error, output_dir, choices or [])
    if line is None:
        print(redact("".join(traceback.format_exception(error))), file=sys.stderr, end="")
        print(redact(f"{prefix}unexpected {type(error).__name__}: {error}"), file=sys.stderr)
        return 1
    print(redact(prefix + line), file=sys.stderr)
    return 2
