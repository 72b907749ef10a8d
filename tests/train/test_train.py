"""Pairs -> adapter: what a step computes, and that an interrupted run is an unbroken one, bit for bit."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dsd.models.adapter_file import read_adapter
from dsd.runs.manifest import read_manifest

SMALL = ("batch_size=4", "learning_rate=1e-3", "log_every=1", "device=cpu")


@pytest.fixture(scope="session")
def cache(adapter: Path) -> str:
    return f"cache_dir={adapter / 'cache'}"


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter.safetensors")


def lines(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.timeout(1800)
def test_killed_stopped_and_run_again_is_unbroken(run, spawn, pairs, cache, tmp_path) -> None:
    settings = (f"pairs={pairs}", *SMALL, cache, "num_steps=24", "checkpoint_every=5", "decay=0.5")
    ours, folder = (*settings, f"output_dir={tmp_path / 'broken'}"), tmp_path / "broken"

    def kill(number: int, *overrides: str, when: Callable[[], bool]) -> None:
        process = spawn("-m", "dsd.train", *ours, *overrides)
        while not when():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait() == (0 if number is signal.SIGTERM else -9)
        assert not (folder / "manifest.json").exists()

    def half_written() -> bool:
        return any(folder.glob("checkpoints/.tmp-*/*"))

    kill(signal.SIGTERM, when=lambda: lines(folder) >= 3)
    kill(signal.SIGKILL, when=lambda: lines(folder) >= 7)
    kill(signal.SIGKILL, "checkpoint_every=1", when=half_written)
    assert half_written(), "killed in the middle of a checkpoint"
    run("train", *ours)
    run("train", *settings, f"output_dir={tmp_path / 'unbroken'}")
    assert_equal(tensors(tmp_path / "broken"), tensors(tmp_path / "unbroken"))
    curves = [
        [{name: json.loads(line)[name] for name in ("step", "loss", "grad_norm", "lr")} for line in file.open()]
        for file in (tmp_path / name / "metrics.jsonl" for name in ("broken", "unbroken"))
    ]
    assert curves[0] == curves[1]
    assert [line["step"] for line in curves[0]] == list(range(1, 25))
    assert "done already" in run("train", *ours)
    assert len(list((folder / "checkpoints").iterdir())) == 2, "and nothing half-written beside them"
    assert (tmp_path / "broken" / "loss.png").exists()


def test_accumulated_micro_batches_add_up(run, pairs, cache, adapter, tmp_path) -> None:
    settings = (
        f"pairs={pairs}",
        *SMALL,
        cache,
        "num_steps=4",
        f"output_dir={tmp_path}",
        "accumulation=2",
        "student=canvas",
    )
    run("train", *settings)
    ours, theirs = tensors(tmp_path), tensors(adapter)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=2e-5, rtol=1e-3, msg=name)


def test_the_loss_falls(run, pairs, cache, tmp_path) -> None:
    run("train", f"pairs={pairs}", *SMALL, cache, "num_steps=40", "learning_rate=4e-3", "warmup_steps=5",
        "condition_dropout=0", f"output_dir={tmp_path}")  # fmt: skip
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").open()]
    assert sum(losses[-15:]) < 0.9 * sum(losses[:15])
    assert read_manifest(tmp_path, "train")["counts"]["steps"] == 40


def test_an_adapter_says_what_it_was_made_for(adapter) -> None:
    state, metadata = read_adapter(adapter)
    assert metadata["base"]["path"] == "pkg://dsd.toybox/weights/teacher"
    assert metadata["lora"]["rank"] == 32
    assert metadata["geometry"] == {"panel_height": 64, "panel_width": 64, "max_sequence_length": 24}
    assert any(name.endswith("lora_B.weight") and tensor.any() for name, tensor in state.items())


def test_other_pairs_are_not_read_from_the_cache(run, grids, pairs, cache, tmp_path) -> None:
    fewer = tmp_path / "pairs"
    run(
        "curation", f"grids={grids}", f"output_dir={fewer}", f"verdicts_dir={pairs}", "selection.minimum.confidence=0.9"
    )
    run(
        "train",
        f"pairs={fewer}",
        *SMALL,
        f"cache_dir={tmp_path / 'cache'}",
        "num_steps=1",
        f"output_dir={tmp_path / 'a'}",
    )
    theirs = Path(cache.removeprefix("cache_dir="))
    (table,) = (tmp_path / "cache").glob("table-*")
    assert not (theirs / table.name).exists()


def test_bad_input_is_one_line(refused, grids, pairs, adapter, tmp_path) -> None:
    there = f"output_dir={tmp_path}"
    assert "dsd-curate" in refused("train", f"pairs={tmp_path / 'nothing'}", there)
    assert "dsd-curate" in refused("train", f"pairs={grids}", there)
    assert "batch_size=5" in refused("train", f"pairs={pairs}", "batch_size=5", "accumulation=2", there)
    assert "text_dropout=1.5" in refused("train", f"pairs={pairs}", "text_dropout=1.5", there)
    assert "num_steps=0" in refused("train", f"pairs={pairs}", "num_steps=0", there)
    assert "some_heads" in refused("train", f"pairs={pairs}", "lora.targets=some_heads", f"output_dir={tmp_path / 'b'}")
    assert "seed: 0 there, 1 now" in refused(
        "train", f"pairs={pairs}", *SMALL, "num_steps=4", "seed=1", f"output_dir={adapter}"
    )


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
def test_trackers_hear_of_every_step(run, pairs, cache, tmp_path, monkeypatch, tracker) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    run(
        "train",
        f"pairs={pairs}",
        *SMALL,
        cache,
        "num_steps=2",
        f"loggers=[{tracker}]",
        f"output_dir={tmp_path / 'out'}",
    )
    pattern = {"tensorboard": "events.out.tfevents.*", "wandb": "*.wandb"}[tracker]
    written = [file for file in tmp_path.rglob(pattern) if file.is_file() and not file.is_symlink()]
    assert any(b"samples_per_second" in file.read_bytes() for file in written)
