"""A rank is killed or hangs in the middle: the job ends in bounded time and one line, and goes on bit for bit."""

import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

STEPS = 9
WAYS = [
    pytest.param("ddp", signal.SIGKILL),
    *(
        pytest.param(launcher, number, marks=pytest.mark.long)
        for launcher in ("ddp", "zero2", "fsdp2")
        for number in (signal.SIGKILL, signal.SIGSTOP)
        if (launcher, number) != ("ddp", signal.SIGKILL)
    ),
]


def lines(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def ranks_of(process: subprocess.Popen) -> list[psutil.Process]:
    """By rank: torchrun starts them in this order."""
    return sorted(psutil.Process(process.pid).children(), key=lambda rank: int(rank.environ()["RANK"]))


@pytest.mark.process
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("launcher", "number"), WAYS)
def test_a_lost_rank_ends_the_job(spawn, pairs, adapter, tmp_path, launcher, number) -> None:
    """The others waited for half an hour, or ended in a traceback of gloo's."""
    command = (
        "-m", "dsd.train", f"launcher={launcher}", f"pairs={pairs}", f"cache_dir={adapter / 'cache'}", "batch_size=4",
        "learning_rate=1e-3", "log_every=1", "device=cpu", f"num_steps={STEPS}", "checkpoint_every=2",
    )  # fmt: skip

    def start(folder: str, *more: str) -> subprocess.Popen:
        ours = (f"output_dir={tmp_path / folder}", *more)
        return spawn(*command, *ours, processes=2, stderr=subprocess.PIPE)

    process = start("broken", "timeout_minutes=0.5")
    while lines(tmp_path / "broken") < 3:
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.01)
    lost = ranks_of(process)[1]
    lost.send_signal(number)
    began = time.monotonic()
    _, said = process.communicate(timeout=300)
    assert process.returncode != 0
    assert time.monotonic() - began < 30 + 30 + 60, "its time-out, torchrun's patience, and a slow machine"
    assert spawn.alive() == []
    how = "has ended" if number == signal.SIGKILL else "is stopped"
    ours = [line for line in said.splitlines() if line.startswith("dsd-train: error: ")]
    assert len(ours) == 1, said[-4000:]
    assert f"rank 1 {how} (process {lost.pid} on " in ours[0]
    assert not (tmp_path / "broken" / "manifest.json").exists()

    for folder in ("broken", "unbroken"):
        process = start(folder)
        _, said = process.communicate(timeout=900)
        assert process.returncode == 0, said[-3000:]
    found, expected = (load_file(tmp_path / name / "adapter.safetensors") for name in ("broken", "unbroken"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    assert lines(tmp_path / "broken") == STEPS
