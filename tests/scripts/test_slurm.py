"""The job scripts: their logic with small stand-ins for Slurm's commands, and all of it on a real Slurm."""

import contextlib
import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dsd.runs.manifest import read_manifest
from dsd.runs.shards import read_shards

pytestmark = pytest.mark.timeout(1800)
ROOT = Path(__file__).parents[2]
SLURM = ROOT / "scripts" / "slurm"
SBATCH = sorted(SLURM.glob("*.sbatch"))
NO_GPU = ("--gpus-per-node=0", "--cpus-per-task=1")
FAKES = {
    "scontrol": """if [[ $1 == show ]]; then echo node1; echo node2; else echo "$@" >> asked; fi""",
    "srun": """while [[ $1 == --* ]]; do shift; done
        "$@" &
        echo $! > task
        trap 'kill -USR1 $(<task)' USR1
        trap : TERM
        while kill -0 $! 2>/dev/null; do wait $!; done
        wait $!""",
    # Asked for its config it names a folder; as torchrun it starts RANK, which saves when it hears USR1; a stage ends.
    "python": """if [[ "$*" == *--cfg* ]]; then echo "# @package output_dir"; echo out; exit; fi
        if [[ $* == *distributed.run* ]]; then
          mkdir -p out; touch out/config.yaml; echo "$@" > torchrun
          "$REAL_PYTHON" -c "$RANK" &
          wait $!
          exit $?
        fi
        exit ${CODE:-0}""",
    "sbatch": """echo "$@" >> asked; echo $((100 + $(wc -l < asked)));""",
    "squeue": """echo $QUEUE""",
}

RANK = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(1)
    pathlib.Path("saved").touch()
    sys.exit()
signal.signal(signal.SIGUSR1, save)
pathlib.Path("ready").touch()
time.sleep(1800)  # until it is told to stop, or the test ends
"""


@pytest.mark.parametrize("script", sorted(f for f in SLURM.iterdir() if f.is_file()), ids=lambda file: file.name)
def test_it_is_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("script", SBATCH, ids=lambda file: file.name)
def test_directives_are_ones_that_slurm_reads(script: Path) -> None:
    lines = script.read_text().splitlines()
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [line for line in lines if line.startswith("#SBATCH")]
    assert not any(line.startswith("#SBATCH") for line in lines[first_command:]), "Slurm stops reading at a command"
    words = [word for line in directives for word in shlex.split(line.removeprefix("#SBATCH"), comments=True)]
    assert all(re.fullmatch(r"--[a-z-]+(=\S+)?", word) for word in words)
    options = dict((*word.split("=", 1), "")[:2] for word in words)
    assert {"--requeue", "--signal", "--output", "--gpus-per-node", "--time"} <= set(options)
    assert options["--signal"].startswith("B:USR1@")
    assert options["--open-mode"] == "append"


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start a script beside stand-ins for Slurm and Python, in a folder in which the repository's scripts are.

    Whatever the scripts have started is killed when the test ends.
    """
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    (tmp_path / "bin").mkdir()
    for name, body in FAKES.items():
        (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    started: list[subprocess.Popen] = []

    def begin(script: str, *arguments: str, **variables: str) -> subprocess.Popen:
        slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_GPUS_ON_NODE": "4"}
        slurm |= {"REAL_PYTHON": sys.executable, "RANK": RANK}
        environment = os.environ | slurm | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"} | variables
        started.append(
            subprocess.Popen(
                ["bash", f"scripts/slurm/{script}", *arguments], cwd=tmp_path, env=environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            )
        )  # fmt: skip
        return started[-1]

    yield begin
    for job in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()


def wait_for(what: Callable[[], object], seconds: float = 900) -> None:
    """Wait for an event; the limit is there against hangs alone."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.05)


def asked(folder: Path) -> str:
    return (folder / "asked").read_text() if (folder / "asked").exists() else ""


@pytest.mark.process
@pytest.mark.parametrize("how", ["time", "preempted", "cancelled"])
def test_training_that_is_told_to_stop_is_queued_again(begin, tmp_path, how) -> None:
    """Time: this shell gets USR1. Preempted: the task alone gets TERM. Cancelled: both do, and nothing is queued."""
    job = begin("train.sbatch", "seed=1")
    wait_for((tmp_path / "ready").exists)
    if how == "time":
        job.send_signal(signal.SIGUSR1)
    else:
        if how == "cancelled":
            job.send_signal(signal.SIGTERM)  # waits in the shell until its next command, which is before the task's end
        os.kill(int((tmp_path / "task").read_text()), signal.SIGTERM)
    said, _ = job.communicate(timeout=900)
    assert job.returncode == 0, said
    assert (tmp_path / "saved").exists(), "the rank saved in its own time"
    assert asked(tmp_path) == ("" if how == "cancelled" else "requeue 7\n")


@pytest.mark.process
def test_training_that_is_done_or_fails_is_not_queued_again(begin, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").touch()
    job = begin("train.sbatch", "seed=1", LAUNCHER="fsdp2")
    wait_for((tmp_path / "ready").exists)
    os.kill(int((tmp_path / "task").read_text()), signal.SIGUSR1)
    said, _ = job.communicate(timeout=900)
    assert (job.returncode, asked(tmp_path)) == (0, ""), said
    command = (tmp_path / "torchrun").read_text()
    for part in ("--nnodes=2", "--nproc_per_node=4", "--rdzv_backend=c10d", "--rdzv_endpoint=node1:20007"):
        assert part in command
    assert command.endswith("-m dsd.train launcher=fsdp2 seed=1\n")
    (tmp_path / "bin" / "srun").write_text("#!/usr/bin/env bash\nexit 3\n")
    (tmp_path / "out" / "manifest.json").unlink()
    job = begin("train.sbatch")
    job.communicate(timeout=900)
    assert (job.returncode, asked(tmp_path)) == (3, "")


@pytest.mark.process
def test_a_preempted_task_of_an_array_is_queued_again_and_a_failed_one_is_not(begin, tmp_path) -> None:
    place = {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "1"}
    for code, expected, queued in ((143, 0, "requeue 5_1\n"), (2, 2, ""), (0, 0, "")):
        (tmp_path / "asked").unlink(missing_ok=True)
        job = begin("data_gen.sbatch", CODE=str(code), **place)
        said, _ = job.communicate(timeout=900)
        assert (job.returncode, asked(tmp_path)) == (expected, queued), said


@pytest.mark.process
def test_the_pipeline_is_a_chain(begin, tmp_path) -> None:
    """It changes into its own repository, so the stand-ins write where they are started: there is none to start."""
    log = tmp_path / "calls"
    (tmp_path / "bin" / "sbatch").write_text(
        f'#!/usr/bin/env bash\necho "$@" >> {log}; echo $((100 + $(wc -l < {log})))'
    )
    job = begin(
        "pipeline.sh", "experiment=toybox_demo", "train.num_steps=3", "infer.png=true",
        TASKS="3", NODES="2", OPTIONS="--partition=a", QUEUE="",
    )  # fmt: skip
    said, _ = job.communicate(timeout=900)
    assert job.returncode == 0, said
    calls = [shlex.split(line) for line in log.read_text().splitlines()]
    assert [call[-1] for call in calls][:2] == [f"experiment=toybox_demo/{s}" for s in ("data_gen", "curation")]
    assert calls[2][-2:] == ["experiment=toybox_demo/train", "num_steps=3"]
    assert [next((w for w in call if w.startswith("--dependency")), None) for call in calls] == [
        None, "--dependency=afterok:101", "--dependency=afterok:102", "--dependency=afterok:103",
    ]  # fmt: skip
    assert all("--partition=a" in call for call in calls)
    assert "--array=0-2" in calls[0]
    assert "--nodes=2" in calls[2]
    assert "--jobs=101,102,103,104" in said
    for overrides, variables, code in ((["experiment=x"], {"QUEUE": "one"}, 1), (["experiment=x", "a=1"], {}, 2)):
        job = begin("pipeline.sh", *overrides, **variables)
        said, _ = job.communicate(timeout=900)
        assert job.returncode == code, said
    assert len(log.read_text().splitlines()) == 4


def test_a_job_of_a_sweep_does_the_whole_of_its_work(run, tmp_path, monkeypatch) -> None:
    """submitit makes a sweep an array, so a job took itself for a part of another's work and wrote no manifest."""
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    run(
        "data_gen", "-m", "teacher=oracle", "num_grids=4", "rows_per_shard=2", "seed=0,1", f"hydra.sweep.dir={tmp_path}"
    )
    assert [read_manifest(tmp_path / job, "data_gen")["counts"]["grids"] for job in "01"] == [4, 4]


# On a real Slurm.


def sh(*command: object, **variables: str) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster of this machine, with scripts and code of this repository; a folder for logs."""
    needed = ("slurmctld", "slurmd", "munged", "sinfo")
    if os.geteuid() or not all(shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") for name in needed):
        pytest.skip("needs root and the packages slurmctld, slurmd, slurm-client and munge")
    logs = tmp_path_factory.mktemp("slurm")
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    place = {"DSD_SLURM_DIR": str(logs / "cluster"), "DSD_SLURM_PORT": str(6950 + 2 * worker)}
    before = dict(os.environ)
    exports = sh(SLURM / "local_cluster.sh", "start", **place)
    os.environ |= {
        "SLURM_CONF": re.search(r"SLURM_CONF=(\S+)", exports)[1],  # type: ignore[index]
        "PATH": f"{logs}/cluster/bin:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    yield logs
    os.environ.clear()
    os.environ |= before
    sh(SLURM / "local_cluster.sh", "stop", **place)


def submit(logs: Path, script: str, *arguments: str, options: tuple[str, ...] = ()) -> str:
    return sh(
        "sbatch", "--parsable", *NO_GPU, f"--output={logs}/%A_%a.log", *options, SLURM / script, *arguments
    ).strip()


def finish(*jobs: str, seconds: float = 900) -> None:
    """Wait until they have left the queue, and hold that every task has succeeded."""
    wait_for(lambda: not sh("squeue", "--noheader", f"--jobs={','.join(jobs)}"), seconds)
    for job in jobs:
        states = set(re.findall(r"JobState=(\S+)", sh("scontrol", "show", "job", job)))
        assert states == {"COMPLETED"}, f"job {job}: {states}"


def equal(one: Path, other: Path) -> bool:
    a, b = (load_file(folder / "adapter.safetensors") for folder in (one, other))
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


@pytest.mark.slurm
def test_an_array_makes_the_rows_of_one_run(cluster, grids, tmp_path) -> None:
    settings = ("teacher=oracle", "num_grids=12", "rows_per_shard=8", f"output_dir={tmp_path}")
    finish(submit(cluster, "data_gen.sbatch", *settings, options=("--array=0-1",)))
    ours, theirs = read_shards(tmp_path, "grids"), read_shards(grids, "grids")
    assert len(ours) == 12
    for row, expected in zip(ours, theirs, strict=True):
        assert row == expected
    assert read_manifest(tmp_path, "data_gen")["config_hash"] == read_manifest(grids, "data_gen")["config_hash"]


@pytest.mark.slurm
@pytest.mark.slow
def test_the_chain_runs(cluster, tmp_path) -> None:
    at = {name: tmp_path / name for name in ("grids", "pairs", "train", "infer")}
    overrides = [
        "data_gen.num_grids=12", "data_gen.rows_per_shard=8", "curate.rows_per_shard=8",
        f"data_gen.output_dir={at['grids']}", f"curate.grids={at['grids']}", f"curate.output_dir={at['pairs']}",
        f"train.pairs={at['pairs']}", f"train.output_dir={at['train']}", "train.num_steps=2",
        f"infer.adapter={at['train']}", f"infer.output_dir={at['infer']}", "infer.jobs.num_subjects=2",
    ]  # fmt: skip
    options = f"{shlex.join(NO_GPU)} --output={cluster}/%x-%A_%a.log"
    said = sh(SLURM / "pipeline.sh", "experiment=toybox_demo", *overrides, TASKS="2", OPTIONS=options)
    finish(*re.findall(r": job (\d+)", said))
    for stage, name in (("data_gen", "grids"), ("curation", "pairs"), ("train", "train"), ("infer", "infer")):
        assert read_manifest(at[name], stage)


@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.parametrize("how", ["preempted", "time"])
def test_a_preempted_training_is_an_unbroken_one(cluster, run, pairs, adapter, tmp_path, how) -> None:
    """Preempted by a job of a higher partition (TERM to the ranks), or told as at the end of its time (USR1)."""
    settings = ["batch_size=4", "learning_rate=1e-3", "log_every=1", "device=cpu", "num_steps=40",
                "checkpoint_every=1000", f"pairs={pairs}", f"cache_dir={adapter / 'cache'}"]  # fmt: skip
    ours, metrics = tmp_path / "ours", tmp_path / "ours" / "metrics.jsonl"
    job = submit(cluster, "train.sbatch", *settings, f"output_dir={ours}")
    wait_for(lambda: metrics.exists() and metrics.read_text())
    if how == "preempted":
        sh("sbatch", "--partition=high", "--ntasks=4", "--output=/dev/null", "--wrap=sleep 1")
    else:
        sh("scancel", "--batch", "--signal=USR1", job)
    finish(job)
    assert "Restarts=1" in sh("scontrol", "show", "job", job)
    log = (cluster / f"{job}_4294967294.log").read_text()  # what %a is outside of an array
    assert "told to stop" in log
    assert re.search(r"resuming at step \d", log)
    run("train", *settings, f"output_dir={tmp_path / 'unbroken'}")
    assert equal(ours, tmp_path / "unbroken")
    assert [json.loads(line)["step"] for line in metrics.open()] == list(range(1, 41))


@pytest.mark.slurm
@pytest.mark.slow
def test_a_sweep_through_submitit_ends_with_its_overview(cluster, pairs, adapter, tmp_path) -> None:
    launcher = ("hydra/launcher=slurm", "hydra.launcher.gpus_per_node=0", "hydra.launcher.cpus_per_task=1")
    settings = ("batch_size=4", "learning_rate=1e-3,1e-2", "log_every=2", "device=cpu", "num_steps=4")
    said = sh(
        sys.executable, "-m", "dsd.train", "-m", *launcher, f"hydra.sweep.dir={tmp_path}", *settings,
        f"pairs={pairs}", f"cache_dir={adapter / 'cache'}",
    )  # fmt: skip
    assert "look at" in said
    header, *rows = csv.reader((tmp_path / "overview.csv").open())
    assert [row[header.index("learning_rate")] for row in rows] == ["0.001", "0.01"]
    assert Image.open(tmp_path / "overview.png").width > 200
    assert equal(tmp_path / "0", adapter), "a job of the sweep is the run that it would be by itself"
