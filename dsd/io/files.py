"""Write files that are whole or absent, and find the files of this package."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import uuid4

PACKAGE = "pkg://"


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
            file.chmod(0o666 & ~_umask())  # safetensors writes files that nobody else can read
            _sync(file)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)


def refuse_unwritable(path: str | Path) -> None:
    """Try to write where a file will be written later, and leave no trace: fail before the work.

    OSError where the disk is full or read-only, the name too long or the folder closed.
    """
    path = Path(path)
    absent = [folder for folder in path.parents if not folder.exists()]
    probe = path.with_name(f".tmp-{uuid4().hex[:8]}-{path.name}")  # a name as long as `atomic` makes
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"\0")
    finally:
        with suppress(OSError):  # the error of the attempt is the one to tell
            probe.unlink(missing_ok=True)
            for folder in absent:
                folder.rmdir()


def remove_stale(path: Path) -> None:
    """Remove the temporary files that killed writers of `path` left. Only for its sole writer."""
    for leftover in path.parent.glob(f".tmp-????????-{path.name}"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def remove_all_stale(folder: Path, below: bool = False) -> None:
    """Remove the temporary files that killed writers left in a folder, or also `below` it. Only for its sole writer."""
    for leftover in list(folder.glob(f"{'**/' if below else ''}.tmp-????????-*")):
        shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def resolve(path: str) -> str:
    """Turn "pkg://dsd.toybox/weights/teacher" into a folder of the installed package; keep other paths."""
    if not path.startswith(PACKAGE):
        return path
    package, _, inner = path.removeprefix(PACKAGE).partition("/")
    return str(files(package) / inner)


@cache
def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
