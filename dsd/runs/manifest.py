"""The manifest: a stage writes it last, to say that its folder is complete.

A folder without a manifest is unfinished, and the next stage refuses it.
"""

import resource
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dsd.errors import UserError
from dsd.io.files import write_json
from dsd.io.inputs import first_problem, read_json
from dsd.version import __version__

MANIFEST = "manifest.json"
COMMANDS = {
    "data_gen": "dsd-data-gen",
    "curation": "dsd-curate",
    "train": "dsd-train",
    "infer": "dsd-infer",
    "evaluate": "dsd-evaluate",
}
WEIGHTY = ("*.parquet", "*/*.parquet", "*.safetensors")  # what a manifest lists unless told otherwise


def versions(*packages: str) -> dict[str, str]:
    """List the versions of this package and of others by name, "" where one is not installed."""
    from importlib import metadata

    found = {"dsd": __version__}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = ""
    return found


def command_name(stage: str) -> str:
    """Name the console script of a stage: "data_gen" -> "dsd-data-gen"."""
    return COMMANDS.get(stage, f"dsd-{stage.replace('_', '-')}")


def write_manifest(
    output_dir: str | Path, stage: str, counts: Mapping[str, int], files: Iterable[Path] | None = None, **extra: Any
) -> Path:
    """Write `output_dir`/manifest.json, the last file of a stage; return its path.

    `files` lie under `output_dir` and are recorded with their sizes in bytes; by default the Parquet shards and the
    safetensors at its top. `extra` (JSON values, such as `config_hash`) is recorded beside them, and so is
    `peak_memory_mb`, the most memory that this process has held.
    """
    folder = Path(output_dir)
    listed = sorted(files if files is not None else (f for pattern in WEIGHTY for f in folder.glob(pattern)))
    sizes = {f.relative_to(folder).as_posix(): f.stat().st_size for f in listed if not f.name.startswith(".")}
    about = {"dsd_version": __version__, "counts": dict(counts), **extra, "peak_memory_mb": _peak_memory_mb()}
    write_json(folder / MANIFEST, {"stage": stage, **about, "files": sizes})
    return folder / MANIFEST


def read_manifest(input_dir: str | Path, stage: str) -> dict[str, Any]:
    """Read the manifest that `stage` wrote into `input_dir`, and check the sizes of its files.

    UserError where the folder is missing, unfinished or of another stage, or where a file is missing or cut short.
    """
    folder, run = Path(input_dir), f"{command_name(stage)} output_dir={input_dir}"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; run `{run}` first")
    if not (folder / MANIFEST).is_file():
        begun = any(folder.iterdir())
        raise UserError(f"{folder}: no {MANIFEST}; run `{run}` {'again to finish it' if begun else 'first'}")
    manifest = _checked(folder / MANIFEST, run)
    found, sizes = manifest["stage"], manifest["files"].items()
    if found != stage:
        raise UserError(
            f"{folder}: made by {command_name(found)}, but the output of {command_name(stage)} is wanted here"
        )
    for name, size in sizes:
        actual = (folder / name).stat().st_size if (folder / name).is_file() else None
        if actual != size:
            what = "is missing" if actual is None else f"has {actual} bytes instead of {size}"
            raise UserError(f"{folder / name} {what}; delete it and {folder / MANIFEST}, then run `{run}` again")
    return manifest


def _checked(path: Path, run: str) -> dict[str, Any]:
    """Read a manifest and check its parts. UserError where it is damaged."""
    from pydantic import BaseModel, FiniteFloat, ValidationError

    class Step(BaseModel):
        """A step of a curation: pairs before and after it."""

        name: str
        begun: int
        left: int
        share: FiniteFloat

    class Teacher(BaseModel):
        """What drew the grids."""

        name: str
        path: str
        license: str

    class Manifest(BaseModel):
        """What every manifest has, and what a stage may add."""

        stage: str
        counts: dict[str, int]
        files: dict[str, int]
        dsd_version: str = ""
        config_hash: str = ""
        grids_config_hash: str = ""
        seconds: FiniteFloat = 0
        peak_memory_mb: FiniteFloat = 0
        look: str = ""
        teacher: Teacher | None = None
        steps: list[Step] = []
        reasons: dict[str, int] = {}

    try:
        found = read_json(path)
        Manifest.model_validate(found)
        assert isinstance(found, dict)
        return found
    except (ValidationError, UserError) as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else error
        raise UserError(f"{path}: not a manifest ({reason}); delete it and run `{run}` again") from error


def is_finished(output_dir: str | Path, stage: str) -> bool:
    """Tell whether `stage` has completed in `output_dir`. UserError where its files are no longer whole."""
    return (Path(output_dir) / MANIFEST).is_file() and bool(read_manifest(output_dir, stage))


def _peak_memory_mb() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)
