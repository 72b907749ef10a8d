"""Files that are there whole or not at all, and the manifest that a stage writes last to say "complete".

Nothing a stage leaves behind is ever half a file: everything is written through `atomic`. A folder without a manifest
is unfinished, and the next stage refuses it.
"""

import json
import os
import resource
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from dsd import __version__
from dsd.errors import UserError

MANIFEST = "manifest.json"
COMMANDS = {
    "data_gen": "dsd-data-gen",
    "curation": "dsd-curate",
    "train": "dsd-train",
    "infer": "dsd-infer",
    "evaluate": "dsd-evaluate",
}
WEIGHTY = ("*.parquet", "*/*.parquet", "*.safetensors")  # what a manifest lists unless told otherwise


def command(stage: str) -> str:
    """The console script of a stage: "data_gen" -> "dsd-data-gen"."""
    return COMMANDS.get(stage, f"dsd-{stage.replace('_', '-')}")


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, on failure it is removed.

    The temporary name keeps the suffix (`.tmp-1a2b3c4d-curve.png`), since many writers choose the format by it, and is
    unique, since several ranks may write the same file. It may be made a folder; then `path` must not exist yet.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{uuid4().hex[:8]}-{path.name}")
    try:
        yield temporary
        for file in filter(Path.is_file, (temporary, *temporary.rglob("*"))):
            _sync(file)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)


def remove_stale(path: Path) -> None:
    """Remove the temporary files that killed writers of `path` left. Only for its sole writer."""
    for leftover in path.parent.glob(f".tmp-????????-{path.name}"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_manifest(
    output_dir: str | Path, stage: str, counts: Mapping[str, int], files: Iterable[Path] | None = None, **extra: Any
) -> Path:
    """Write `output_dir`/manifest.json, the last thing a stage does; returns its path.

    `files` lie under `output_dir` and are recorded with their sizes in bytes; by default the Parquet shards
    and the safetensors at its top. `extra` (JSON values; pass `config_hash=`) stands beside them, and so does
    `peak_memory_mb`, the most memory that this process has held.
    """
    folder = Path(output_dir)
    listed = sorted(files if files is not None else (f for pattern in WEIGHTY for f in folder.glob(pattern)))
    sizes = {f.relative_to(folder).as_posix(): f.stat().st_size for f in listed if not f.name.startswith(".")}
    about = {"dsd_version": __version__, "counts": dict(counts), **extra, "peak_memory_mb": _peak_memory_mb()}
    write_json(folder / MANIFEST, {"stage": stage, **about, "files": sizes})
    return folder / MANIFEST


def read_manifest(input_dir: str | Path, stage: str) -> dict[str, Any]:
    """The manifest that `stage` left in `input_dir`, its files checked by size.

    UserError where the folder is missing, unfinished, of another stage, or one of its files is missing or cut short.
    """
    folder, run = Path(input_dir), f"{command(stage)} output_dir={input_dir}"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; run `{run}` first")
    if not (folder / MANIFEST).is_file():
        begun = any(folder.iterdir())
        raise UserError(f"{folder}: no {MANIFEST}; run `{run}` {'again to finish it' if begun else 'first'}")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found, sizes = manifest["stage"], manifest["files"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / MANIFEST}: not a manifest ({error!r}); delete it and run `{run}` again") from error
    if found != stage:
        raise UserError(f"{folder}: made by {command(found)}, but the output of {command(stage)} is wanted here")
    for name, size in sizes:
        actual = (folder / name).stat().st_size if (folder / name).is_file() else None
        if actual != size:
            what = "is missing" if actual is None else f"has {actual} bytes instead of {size}"
            raise UserError(f"{folder / name} {what}; delete it and {folder / MANIFEST}, then run `{run}` again")
    return manifest


def is_finished(output_dir: str | Path, stage: str) -> bool:
    """Whether `stage` has completed in `output_dir`. UserError where its files are no longer whole."""
    return (Path(output_dir) / MANIFEST).is_file() and bool(read_manifest(output_dir, stage))


def _peak_memory_mb() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
