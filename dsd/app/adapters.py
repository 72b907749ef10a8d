"""Find what can draw: finished adapters of dsd-train, and style LoRAs, under folders that the server's owner named.

The page names them by their place below that folder. Nobody can name another file.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from safetensors import SafetensorError, safe_open

from dsd.errors import UserError
from dsd.io.files import resolve
from dsd.models.adapter_file import ADAPTER
from dsd.models.settings import MOST_REFERENCES
from dsd.runs.manifest import MANIFEST, is_finished

BASE = "the base itself"  # without an adapter
RELEASED = "the released weights"


@dataclass(frozen=True)
class Choice:
    """Something that draws."""

    name: str
    path: str | None  # of the adapter; None: the base or the released weights

    @property
    def base(self) -> str:
        """The base that the adapter names, "" where there is none. Loading compares the weights themselves."""
        return "" if self.path is None else str(header(self.path).get("base", {}).get("path", ""))

    @property
    def most_references(self) -> int:
        """How many references a picture may have; without an adapter only the loaded weights tell."""
        told = {} if self.path is None else header(self.path).get("student", {})
        return 1 if told.get("kind", "canvas" if self.path else "tokens") == "canvas" else MOST_REFERENCES


def find_adapters(cfg: DictConfig) -> list[Choice]:
    """List what can draw, first what the server was started with."""
    found = []
    if cfg.adapter is not None:
        found.append(Choice(name_of(Path(resolve(cfg.adapter)), Path(cfg.runs)), resolve(cfg.adapter)))
    elif cfg.transformer is not None:
        found.append(Choice(RELEASED, None))
    trained = [Choice(name_of(folder, Path(cfg.runs)), str(folder)) for folder in finished(Path(cfg.runs))]
    others = sorted(trained, key=lambda choice: choice.base != cfg.model.path)
    found += [choice for choice in others if choice.name not in {one.name for one in found}]
    return found if cfg.transformer is not None else [*found, Choice(BASE, None)]


def finished(runs: Path) -> Iterator[Path]:
    """List the folders below `runs` that dsd-train has finished, the latest first."""
    for file in sorted(runs.glob(f"**/{ADAPTER}"), key=lambda file: -file.stat().st_mtime):
        if finished_by(file.parent, ("train",)):
            yield file.parent


def finished_by(folder: Path, stages: tuple[str, ...]) -> str:
    """Name the stage, one of these, that has finished in a folder and left it whole; "" where there is none."""
    manifest = folder / MANIFEST
    return stage_of(folder, stages, manifest.stat().st_mtime_ns) if manifest.is_file() else ""


@lru_cache(maxsize=4096)
def stage_of(folder: Path, stages: tuple[str, ...], changed: int) -> str:
    """Read whose manifest it is; remembered until the file changes."""
    for stage in stages:
        try:
            if is_finished(folder, stage):
                return stage
        except UserError:  # of another stage, or no longer whole
            continue
    return ""


def name_of(path: Path, folder: Path) -> str:
    """Name a path by its place below a folder: "demo/train"."""
    path = path.parent if path.name == ADAPTER else path
    try:
        return path.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        return str(path)


def header(path: str) -> dict[str, Any]:
    """Read what an adapter says of itself, without its tensors; {} where it is damaged."""
    try:
        with safe_open(Path(path) / ADAPTER if Path(path).is_dir() else path, "pt") as tensors:
            text = tensors.metadata() or {}
        found = {name: json.loads(text[name]) for name in ("base", "student") if name in text}
    except (SafetensorError, OSError, ValueError):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, dict)}


def find_styles(cfg: DictConfig) -> dict[str, str]:
    """List the LoRA files of `styles` by name."""
    if cfg.styles is None:
        return {}
    folder = Path(cfg.styles)
    return {name_of(file, folder): str(file) for file in sorted(folder.glob("**/*.safetensors")) if is_lora(file)}


def is_lora(file: Path) -> bool:
    """Tell from the names of its tensors whether a file holds a LoRA."""
    try:
        with safe_open(file, "pt") as tensors:
            return any("lora" in name for name in tensors.keys())  # noqa: SIM118  it is no dict
    except (SafetensorError, OSError):
        return False


def chosen(name: Any, choices: list[Choice]) -> Choice:
    """Find a choice by its name; the first one where none is named. UserError where there is none of that name."""
    if name is None or name == "":
        return choices[0]
    for choice in choices:
        if choice.name == name:
            return choice
    raise UserError(f"adapter={name}: no such adapter here; choose one of {', '.join(c.name for c in choices)}")
