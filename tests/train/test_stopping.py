"""Told to stop, all ranks leave after the same step."""

import os
import signal
import subprocess
import sys
import time

import pytest


@pytest.mark.slow
def test_one_rank_is_told_and_all_stop(pairs, adapter, tmp_path) -> None:
    """A rank that left by itself made the other wait for its gradients for ever."""
    settings = ["lora=toybox", "batch_size=4", "log_every=1", "device=cpu", "num_steps=500", "checkpoint_every=1000",
                f"pairs={pairs}", f"cache_dir={adapter / 'cache'}", f"output_dir={tmp_path}"]  # fmt: skip
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    process = subprocess.Popen([*torchrun, "-m", "dsd.train", *settings], stderr=subprocess.PIPE, text=True)
    ranks: list[int] = []
    try:
        while not (tmp_path / "metrics.jsonl").exists():
            assert process.poll() is None
            time.sleep(0.1)
        found = subprocess.run(["pgrep", "--parent", str(process.pid)], capture_output=True, text=True, check=True)
        ranks = [int(line) for line in found.stdout.split()]
        assert len(ranks) == 2
        os.kill(ranks[-1], signal.SIGUSR1)
        _, said = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            for pid in (process.pid, *ranks):
                os.kill(pid, signal.SIGKILL)
    assert process.returncode == 0, said
    assert said.count("told to stop") >= 1
    assert len(list((tmp_path / "checkpoints").glob("step-*"))) == 1
    assert not (tmp_path / "manifest.json").exists()
