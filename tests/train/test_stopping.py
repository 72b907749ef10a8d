"""All ranks leave after the same step: when one is told to stop, and when one sees a loss that is no number."""

import signal
import subprocess
import time
from types import SimpleNamespace

import psutil
import pytest
import torch

from dsd.errors import UserError
from dsd.train.checkpoint import TrainState
from dsd.train.finite import Loss, Losses
from dsd.train.stopping import Stopping

ONE_RANK_SEES_NAN = """
import torch
from accelerate import Accelerator
from dsd.errors import UserError
from dsd.train.finite import Loss, Losses
accelerator = Accelerator(cpu=True)
rank, losses = accelerator.process_index, Losses(accelerator)
for step in range(5):
    own = torch.tensor(float("nan") if rank == 1 and step >= 3 else 1.0)
    losses.add(Loss(step, accelerator.reduce(own, "mean"), own, (10 * rank + step,), torch.ones(())))
try:
    losses.refuse_nan()
except UserError as error:
    print("refused:", error, flush=True)
    raise SystemExit(2)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_rank_is_told_and_all_stop(spawn, pairs, adapter, tmp_path) -> None:
    """A rank that left by itself made the other wait for its gradients for ever."""
    settings = ["batch_size=4", "log_every=1", "device=cpu", "num_steps=500", "checkpoint_every=1000",
                f"pairs={pairs}", f"cache_dir={adapter / 'cache'}", f"output_dir={tmp_path}"]  # fmt: skip
    process = spawn("-m", "dsd.train", *settings, processes=2, stderr=subprocess.PIPE)
    while not (tmp_path / "metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.1)
    ranks = psutil.Process(process.pid).children()
    assert len(ranks) == 2
    ranks[-1].send_signal(signal.SIGUSR1)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert said.count("told to stop") == 1, "the main rank speaks for all"
    assert len(list((tmp_path / "checkpoints").glob("step-*"))) == 1
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_rank_sees_nan_and_all_stop(spawn, tmp_path) -> None:
    """It stopped alone, and the others waited for its gradients until their time-out."""
    (tmp_path / "script.py").write_text(ONE_RANK_SEES_NAN)
    process = spawn(tmp_path / "script.py", processes=2, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    said, _ = process.communicate()
    assert process.returncode != 0
    assert said.count("refused:") == 1
    assert "the loss of step 3 is nan on rank 1, of the pairs 13;" in said


def test_the_first_bad_step_is_named() -> None:
    losses = Losses(SimpleNamespace(is_main_process=True, process_index=0))
    losses.refuse_nan()
    for step, value in enumerate((1.0, 2.0)):
        losses.add(Loss(step, torch.tensor(value), torch.tensor(value), (step,), torch.ones(())))
    losses.refuse_nan()
    assert not losses.unchecked
    for step, value in enumerate((1.0, float("inf"), float("nan")), start=2):
        losses.add(Loss(step, torch.tensor(value), torch.tensor(value), (step, step + 100), torch.ones(())))
    with pytest.raises(UserError, match=r"the loss of step 3 is inf, of the pairs 3, 103; .* the last checkpoint is"):
        losses.refuse_nan()


def test_a_training_leaves_the_handlers_of_signals_as_they_were() -> None:
    """A program that trains in its own process could not be terminated any more."""
    before = signal.getsignal(signal.SIGTERM)
    with Stopping(SimpleNamespace(num_processes=1), TrainState()) as stopping:
        assert not stopping()
        signal.raise_signal(signal.SIGTERM)
        assert stopping.told
    assert signal.getsignal(signal.SIGTERM) is before
