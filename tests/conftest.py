"""One thread a test (xdist runs several), no network, caches of their own, GPU tests only where there is a GPU."""

import os
import shutil
import tempfile

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


def pytest_unconfigure() -> None:
    shutil.rmtree(CACHE, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_items = [item for item in items if "gpu" in item.keywords]
    if gpu_items:
        import torch

        if not torch.cuda.is_available():
            for item in gpu_items:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
