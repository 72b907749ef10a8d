"""Bind an output folder to what is computed in it.

The identity of a run is the part of its settings that changes results (said at each field of the schema) and the
content of what it reads. It is written as config.yaml. A later run in the same folder must have the same identity.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from dsd.errors import UserError
from dsd.io.files import atomic
from dsd.runs.manifest import COMMANDS, MANIFEST
from dsd.runs.redaction import redact_config
from dsd.runs.settings import described, leaves, plain

CONFIG = "config.yaml"
LOCKS = ".locks"
VERSION = 2  # of what the identity is made of; 0.1.0 wrote none
_SHOWN = 6  # differing keys in the message of a refused folder


def fingerprint(path: str | Path) -> str:
    """Name the content of a file or a folder by 16 hex digits.

    A stage's finished folder is known by its manifest. Of a file above 256 MB, its size, beginning and end are read.
    """
    path = Path(path)
    if (path / MANIFEST).is_file():
        path = path / MANIFEST
    if path.is_dir():
        every = [[f.relative_to(path).as_posix(), fingerprint(f)] for f in sorted(path.rglob("*")) if f.is_file()]
        return hashlib.sha256(json.dumps(every).encode()).hexdigest()[:16]
    size, whole = path.stat().st_size, 2**28
    with path.open("rb") as file:
        if size <= whole:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
        found = hashlib.sha256(f"{size}".encode() + file.read(whole // 4))
        file.seek(-whole // 4, 2)
        found.update(file.read())
    return found.hexdigest()[:16]


def identity(cfg: DictConfig, inputs: Mapping[str, str] | None = None, without: Collection[str] = ()) -> dict[str, Any]:
    """List the settings that change results by dotted key, and the content of all inputs as `inputs.<name>`.

    `without` leaves out more keys, each with all below it. A `device` changes no result, wherever it stands.
    """
    schema, config = cast(type, OmegaConf.get_type(cfg)), plain(cfg)
    left_out, read = set(without), dict(inputs or {})
    for key, about, _ in described(schema):
        if not about.changes_results or (about.null_is_absent and OmegaConf.select(cfg, key) is None):
            left_out.add(key)
        left_out |= {f"{key}.{below}" for below in about.ignored}
        if about.reads in (*COMMANDS, "file") and (value := OmegaConf.select(cfg, key)) is not None:
            left_out.add(key)
            if key not in without:
                read[key] = fingerprint(value)
    kept = {k: v for k, v in leaves(redact_config(config)).items() if not _below(k, left_out) and not _is_device(k)}
    return kept | {f"inputs.{name}": digest for name, digest in read.items()}


def config_hash(found: Mapping[str, Any]) -> str:
    """Name an identity by 12 hex digits."""
    canonical = json.dumps(found, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def claim(
    output_dir: str | Path,
    cfg: DictConfig,
    inputs: Mapping[str, str] | None = None,
    without: Collection[str] = (),
    work: Path | None = None,
) -> str:
    """Bind a folder to a config; return its `config_hash`. Every stage does so before any work.

    The first run writes the whole config, secrets redacted, and the identity as config.yaml. UserError shows how a
    later run's identity differs. Until `work` (by default the folder) holds results, another config may claim the
    folder: a first run may have been refused.
    """
    path, found = Path(output_dir) / CONFIG, identity(cfg, inputs, without)
    if Path(output_dir).exists() and not Path(output_dir).is_dir():
        raise UserError(f"output_dir={output_dir} is a file; choose a folder")
    if path.exists() and holds_results(Path(work or output_dir)):
        _refuse_difference(path, found)
    else:
        record = {**redact_config(plain(cfg)), "identity": {"version": VERSION, **found}}
        with atomic(path) as temporary:
            temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(record)), encoding="utf-8")
    return config_hash(found)


def holds_results(folder: Path) -> bool:
    """Tell whether a folder has any file but configs and locks."""
    return any(f.is_file() and f.name != CONFIG and f.parent.name != LOCKS for f in folder.rglob("*"))


def _below(key: str, parents: Collection[str]) -> bool:
    return any(key == parent or key.startswith(f"{parent}.") for parent in parents)


def _is_device(key: str) -> bool:
    return key.split(".")[-1] == "device"


def _refuse_difference(path: Path, now: Mapping[str, Any]) -> None:
    there = read_config(path).get("identity")
    remedy = "choose another output_dir=, or delete the folder"
    if not isinstance(there, dict) or there.get("version") != VERSION:
        made_by = "dsd 0.1" if there is None else "another version of dsd"
        raise UserError(f"{path.parent} was begun by {made_by}, which recorded its settings in another form; {remedy}")
    there = {key: value for key, value in there.items() if key != "version"}
    differing = [key for key in sorted(there.keys() | now.keys()) if there.get(key, ...) != now.get(key, ...)]
    if differing:
        shown = "; ".join(f"{key}: {_short(there, key)} there, {_short(now, key)} now" for key in differing[:_SHOWN])
        more = f"; and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        raise UserError(f"{path.parent} belongs to another config ({shown}{more}); {remedy}")


def read_config(path: Path) -> dict[str, Any]:
    """Read a config.yaml as plain values. UserError where it is damaged."""
    try:
        found = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # YAML's and OmegaConf's own errors have no common class
        raise UserError(f"{path}: not a readable config ({type(error).__name__}); delete the folder") from error
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def _short(config: Mapping[str, Any], key: str) -> str:
    text = (str(config[key]) or "''") if key in config else "absent"
    return text if len(text) <= 60 else text[:57] + "..."
