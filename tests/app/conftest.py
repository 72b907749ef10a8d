"""A folder of finished runs, and a server that draws on the toybox, in this process."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from dsd.app.settings import compose
from dsd.models.adapter_file import read_adapter, save_adapter
from dsd.runs.manifest import write_manifest

Compose = Callable[..., DictConfig]


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    address: str
    engine: Any
    output_dir: Path


@pytest.fixture(scope="session")
def runs(adapter: Path, pairs: Path, grids: Path, run_once: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished folders: `canvas`, `tokens` and `foreign` (for another base) draw; `pairs` and `grids` are data."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(adapter, folder / "canvas", ignore=shutil.ignore_patterns("cache", "checkpoints"))
    shutil.copytree(grids, folder / "grids")
    strict = ("selection.minimum.confidence=0.97", "device=cpu")  # rejects some
    run_once("curation", f"grids={grids}", f"verdicts_dir={pairs}", f"output_dir={folder / 'pairs'}", *strict)
    tokens = ("student=tokens", "num_steps=2", "batch_size=2", "lora.rank=2", "device=cpu")
    run_once("train", f"pairs={pairs}", f"output_dir={folder / 'tokens'}", *tokens)
    state, metadata = read_adapter(adapter)
    metadata["base"] = {"path": "some/other-model", "fingerprint": "0" * 12}
    save_adapter(
        folder / "foreign" / "adapter.safetensors",
        state,
        {k: metadata[k] for k in ("base", "lora", "student", "geometry")},
    )
    write_manifest(folder / "foreign", "train", {"steps": 1})
    unfinished = folder / "unfinished"
    unfinished.mkdir()
    shutil.copy(adapter / "adapter.safetensors", unfinished)
    return folder


@pytest.fixture(scope="session")
def compose_app(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Compose:
    """Compose and check the config of dsd-app as the command would, for the CPU and few steps."""

    def composed(*overrides: str) -> DictConfig:
        return compose(
            f"runs={runs}", f"adapter={runs / 'canvas'}", f"output_dir={tmp_path_factory.mktemp('app')}", "port=0",
            "settings.num_inference_steps=3", "device=cpu", *overrides,
        )  # fmt: skip

    return composed


@contextmanager
def serving(cfg: DictConfig) -> Iterator[Served]:
    """Serve the page, and end the server whatever happens."""
    from dsd.app.engine import Engine
    from dsd.app.page import build
    from dsd.app.server import launch

    engine = Engine(cfg)
    page, address = launch(build(engine), cfg)
    try:
        yield Served(address, engine, Path(cfg.output_dir))
    finally:
        page.close(verbose=False)


@pytest.fixture(scope="session")
def served(compose_app: Compose) -> Iterator[Served]:
    with serving(compose_app("most_megapixels=20", "most_megabytes=5")) as server:
        yield server


@pytest.fixture
def reference() -> Path:
    return Path(__file__).parents[2] / "examples" / "critter-1.png"


@pytest.fixture
def not_a_picture(tmp_path: Path) -> Path:
    path = tmp_path / "notes.png"
    path.write_text("This is text.")
    return path


@pytest.fixture(scope="session")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PNG of 100 megapixels in a few kilobytes."""
    from PIL import Image

    path = tmp_path_factory.mktemp("huge") / "huge.png"
    Image.new("1", (10000, 10000)).save(path)
    return path


def settings_in(path: Path) -> dict[str, Any]:
    """What a PNG says of itself."""
    from PIL import Image

    with Image.open(path) as image:
        text = dict(image.text)  # type: ignore[attr-defined]
    return {**json.loads(text["settings"]), "prompt": text["prompt"], "seed": int(text["seed"])}
