"""Every way of sharing the work, in two processes on this machine; a run may change it in the middle."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

STEPS = 6


def launch(spawn: Callable, launcher: str, processes: int, *overrides: str) -> None:
    command = ("-m", "dsd.train", f"launcher={launcher}", *overrides)
    process = spawn(*command, processes=processes, stderr=subprocess.PIPE)
    _, said = process.communicate()
    assert process.returncode == 0, said[-3000:]


def forget_after(folder: Path, step: int) -> None:
    """As if the run had been killed then."""
    (folder / "manifest.json").unlink()
    (folder / "adapter.safetensors").unlink()
    for path in (folder / "checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_goes_on_under_any_launcher(spawn, pairs, adapter, tmp_path) -> None:
    """DDP -> ZeRO-2 -> ZeRO-3 -> FSDP2 -> one process: each adapter is the unbroken run's, and none has a hole."""
    settings = (
        f"pairs={pairs}", f"cache_dir={adapter / 'cache'}", "batch_size=4", "learning_rate=1e-3",
        "log_every=1", "device=cpu", f"num_steps={STEPS}", "checkpoint_every=1", "keep_checkpoints=10",
        "ema_half_life=8",  # the adapter is the average; each launcher keeps its part of it
    )  # fmt: skip
    launch(spawn, "ddp", 1, *settings, f"output_dir={tmp_path / 'unbroken'}")
    expected = load_file(tmp_path / "unbroken" / "adapter.safetensors")
    folder = tmp_path / "changing"
    ways = (("ddp", 2, 2), ("zero2", 2, 1), ("zero3", 2, 2), ("fsdp2", 2, 2), ("zero2", 2, 2), ("ddp", 1, 1))
    for begun, (launcher, processes, parts) in enumerate(ways):
        if begun:
            forget_after(folder, begun)
        launch(spawn, launcher, processes, *settings, f"accumulation={parts}", f"output_dir={folder}")
        found = load_file(folder / "adapter.safetensors")
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            assert tensor.shape == expected[name].shape
            difference = float((tensor - expected[name]).abs().max())
            assert difference < 1e-5, (launcher, begun, name, difference)
        steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").open()]
        assert steps == list(range(1, STEPS + 1)), launcher


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sharded_weights_of_two_kinds(spawn, pairs, tmp_path) -> None:
    """A bf16 base below a LoRA in fp32, as FLUX is trained: FSDP2 gathers both, and the loss is DDP's."""
    settings = (
        "data=dsd_data", f"data.path={pairs / 'pairs'}", "data.num=4", f"cache_dir={tmp_path / 'cache'}",
        "batch_size=2", "num_steps=2",
        "log_every=1", "device=cpu", "model.dtype=bfloat16", "mixed_precision=bf16",
    )  # fmt: skip
    losses = []
    for launcher, processes in (("ddp", 1), ("fsdp2", 2)):
        folder = tmp_path / launcher
        launch(spawn, launcher, processes, *settings, f"output_dir={folder}")
        losses.append([json.loads(line)["loss"] for line in (folder / "metrics.jsonl").open()])
        assert all(tensor.dtype == torch.float32 for tensor in load_file(folder / "adapter.safetensors").values())
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_a_launcher_for_many_refuses_to_run_alone(refused, pairs, tmp_path) -> None:
    said = refused("train", f"pairs={pairs}", "launcher=zero2", "device=cpu", f"output_dir={tmp_path}")
    assert "launcher=zero2 divides the work of several processes; start them with torchrun" in said
