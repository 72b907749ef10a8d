"""Explain an exception to the user in one line: bad configs, full disks, folders without permission."""

import errno
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from dsd.errors import UserError, causes

# A wrong key in a group with a `_target_` shows only when its class is called.
_BAD_CALL = re.compile(r"unexpected keyword argument|missing \d+ required|Error (locating|loading) ")

# By message: Arrow, torch and safetensors do not keep the error number.
_FULL = re.compile("No space left on device|Disk quota exceeded|File too large")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # could steer a terminal
_MEMORY = re.compile("can't allocate memory|out of memory|Unable to allocate|malloc of size", re.IGNORECASE)
_REMEDY = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some space and run the same command again",
    errno.EFBIG: "free some space and run the same command again",
    errno.EACCES: "choose another folder or change its permissions",
    errno.EPERM: "choose another folder or change its permissions",
    errno.EROFS: "choose a folder that can be written",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "check the path, and run the same command again",
}


def explain(error: BaseException, output_dir: str = "", experiments: Sequence[str] = ()) -> str | None:
    """Say what is wrong and the remedy, in one line; None where `error` is a bug of ours.

    `output_dir` is named when a full disk's error does not say where. `experiments` are those of the stage.
    """
    line = _line(error, output_dir, experiments)
    return None if line is None else _CONTROL.sub("?", " ".join(line.split()))


def _line(error: BaseException, output_dir: str, experiments: Sequence[str]) -> str | None:
    for cause in causes(error):
        if isinstance(cause, UserError):
            return _flat(cause)
        if line := _environment(cause, output_dir):
            return line
    if isinstance(error, InstantiationException):
        return _flat(error) if _BAD_CALL.search(str(error)) else None
    if isinstance(error, MissingConfigException):
        return _missing_choice(str(error), experiments)
    if isinstance(error, OverrideParseException) or str(error).startswith("Ambiguous value for argument"):
        return _unparsed(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _bad_config(error)
    if str(error).startswith("Config group override must be a string"):
        return "a group (group=choice in --help) was set to no choice; leave it out, or name one of its choices"
    return None


def _environment(error: BaseException, output_dir: str) -> str | None:
    """Explain what the machine refuses: full or read-only disks, missing permissions, damaged files."""
    if full := _FULL.search(str(error)):
        where = getattr(error, "filename", None) or output_dir or "the disk"
        return f"{full[0].lower()}: {where}; free some space and run the same command again"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _MEMORY.search(str(error))):
        return "not enough memory; choose smaller sizes or a smaller batch_size="
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        where = f"{error.filename}: " if error.filename else ""
        remedy = f"; {_REMEDY[error.errno]}" if error.errno in _REMEDY else ""
        return f"{where}{error.strerror or _flat(error) or type(error).__name__}{remedy}"
    if type(error).__module__.startswith("pyarrow"):
        return f"a Parquet file is damaged ({_flat(error)}); run the stage that made it again, in another output_dir="
    return None


def did_you_mean(name: str, known: Any) -> str:
    """Suggest names like `name`: " (did you mean seed?)", or "" where none is near."""
    near = get_close_matches(name, [str(k) for k in known], n=3)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _flat(error: BaseException) -> str:
    return " ".join(str(error).split())


def _missing_choice(message: str, experiments: Sequence[str]) -> str:
    """Read Hydra's: In 'train': Could not find 'model/lage' | Available options in 'model':\\n\\tlarge\\n\\tsmall."""
    message = message.split("Config search path:")[0].split("Search path:")[0]
    if experiment := re.search(r"Could not find 'experiment/(.+?)'", message):
        near = did_you_mean(experiment[1], experiments)
        return f"experiment={experiment[1]}: no such experiment{near}; choose one of {', '.join(experiments) or 'none'}"
    match = re.search(r"Could not find '(.+)/(.+?)'", message)
    if match is None:
        return " ".join(message.split())
    options = re.findall(r"^\t(.+)$", message, flags=re.MULTILINE)
    choices = f"; choose one of {', '.join(options)}" if options else ""
    return f"{match[1]}={match[2]}: no such choice{did_you_mean(match[2], options)}{choices}"


def _unparsed(error: BaseException) -> str:
    override = getattr(error, "override", None) or str(error).split("'", 1)[1].split("'\n")[0]
    key, separator, value = str(override).partition("=")
    if not separator:
        return f"{override!r} is not key=value"
    sweep = "; or add --multirun to sweep over the values" if "," in value else ""
    return f"{key}: {value!r} cannot be read; put double quotes inside the shell's: '{key}=\"{value}\"'{sweep}"


def _bad_config(error: Exception) -> str:
    detail = next((e for e in causes(error) if isinstance(e, OmegaConfBaseException)), None)
    source = re.match(r"In '(.+?)':", str(error))
    where = f"{source[1]}.yaml: " if source else ""
    if detail is None or not detail.full_key:
        return _flat(error)
    key, reason = detail.full_key, str(detail).split("\n")[0]
    if isinstance(detail, ConfigAttributeError | ConfigKeyError) and "not in" in reason:
        siblings = detail.parent_node.keys() if isinstance(detail.parent_node, DictConfig) else ()
        return f"{where}unknown key {key}{did_you_mean(str(detail.key), siblings)}; --cfg job shows the known ones"
    if isinstance(detail, ValidationError):
        return f"{where}{key}: {reason[0].lower()}{reason[1:]}"
    return f"{where}{key}: {reason}"
