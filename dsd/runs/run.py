"""One run of a stage in its output folder: begun, divided into shards, finished by a manifest.

    run = begin(cfg)
    if run is None:                       # the stage has finished there already
        return
    if run.make_shards("grids", cfg.num_grids, rows_per_shard, "grid", make_writer):
        ...                               # all shards of all workers are there: what people look at
        run.finish({"grids": 64}, "64 grids (0 failed)", look=output_dir / "overview.png")

Work is divided by position over the parts that `shard` and `num_shards` name and, within a part, over the ranks that
torchrun started. Which process makes a shard changes nothing in it.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from dsd.errors import UserError
from dsd.io.files import remove_all_stale
from dsd.runs.identity import LOCKS, claim
from dsd.runs.manifest import command_name, is_finished, write_manifest
from dsd.runs.progress import progress
from dsd.runs.settings import SCHEMAS
from dsd.runs.shards import Shard, pending_shards, remove_leftovers

log = logging.getLogger(__name__)
Writer = Callable[[Shard, Any], None]  # writes one shard; the second argument is the progress bar


@dataclass
class Run:
    """A stage at work in its folder. It holds a lock until the process ends."""

    stage: str
    output_dir: Path
    config_hash: str
    worker: int  # which of `workers` processes this is
    workers: int
    inputs: Mapping[str, str]
    locks: list[FileLock] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @property
    def is_main(self) -> bool:
        """Whether this process speaks for those that torchrun started with it."""
        return int(os.environ.get("RANK", 0)) == 0

    def seconds(self) -> float:
        """Time since the run began."""
        return round(time.monotonic() - self.began, 1)

    def make_shards(
        self, name: str, num_items: int, rows_per_shard: int, unit: str, make_writer: Callable[[], Writer],
        folder: Path | None = None,
    ) -> bool:  # fmt: skip
        """Write this worker's pending shards; return whether this process is to finish the stage.

        `make_writer` loads what is needed and is called only if a shard is pending. False where other workers are not
        done, or where one of them finishes the stage. `folder` holds the shards, by default the output folder.
        """
        where = folder or self.output_dir
        todo = pending_shards(where, name, num_items, rows_per_shard, self.worker, self.workers)
        if todo:
            remove_leftovers(where, todo)
            write, total = make_writer(), sum(shard.stop - shard.start for shard in todo)
            with progress(total, name, unit, shown=int(os.environ.get("LOCAL_RANK", 0)) == 0) as bar:
                for shard in todo:
                    write(shard, bar)
        if pending_shards(where, name, num_items, rows_per_shard):
            log.info("%s: part %d of %d is done; others are still at work", self.stage, self.worker, self.workers)
            return False
        self.locks.append(lock_of(self.output_dir, "finish"))
        self.locks[-1].acquire()  # of workers that end together, one finishes and the others wait
        remove_all_stale(self.output_dir, below=True)
        return not is_finished(self.output_dir, self.stage)

    def finish(
        self, counts: Mapping[str, int], said: str, look: Path | None = None, files: list[Path] | None = None,
        **extra: Any,
    ) -> None:  # fmt: skip
        """Write the manifest, the last file of a stage, and say in one line what was done and where it is."""
        extra = {"seconds": self.seconds(), **({"inputs": dict(self.inputs)} if self.inputs else {}), **extra}
        if look is not None:
            extra["look"] = look.relative_to(self.output_dir).as_posix()
        write_manifest(self.output_dir, self.stage, counts, files, config_hash=self.config_hash, **extra)
        log.info("%s: %s in %s%s", self.stage, said, self.output_dir, f"; look at {look}" if look is not None else "")


def begin(cfg: DictConfig, inputs: Mapping[str, str] | None = None) -> Run | None:
    """Claim `cfg.output_dir` for this config and these inputs (fingerprints by name).

    None, said in one line, where the stage has finished there. UserError where the folder belongs to another config,
    or where another process works in it.
    """
    schema = OmegaConf.get_type(cfg)
    stage = next(name for name, known in SCHEMAS.items() if known is schema)
    output_dir = Path(cfg.output_dir)
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    worker = cfg.get("shard", 0) * ranks + rank
    workers = cfg.get("num_shards", 1) * ranks
    digest = claim(output_dir, cfg, inputs)
    if is_finished(output_dir, stage):
        log.info("%s: done already, in %s", stage, output_dir)
        return None
    lock = take_lock(output_dir, stage, worker)
    return Run(stage, output_dir, digest, worker, workers, inputs or {}, [lock])


def lock_of(folder: Path, role: str) -> FileLock:
    """Make the lock of a role in a folder. The kernel releases it when the process ends, however that happens."""
    (folder / LOCKS).mkdir(parents=True, exist_ok=True)
    return FileLock(folder / LOCKS / f"{role}.lock", thread_local=False)


def take_lock(folder: Path, stage: str, worker: int) -> FileLock:
    """Lock a folder for one worker of a stage. UserError names the process that holds it."""
    lock, holder = lock_of(folder, f"{stage}-{worker}"), folder / LOCKS / f"{stage}-{worker}.txt"
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        who = holder.read_text(encoding="utf-8").strip() if holder.is_file() else "another process"
        raise UserError(
            f"{folder}: {who} is at work here ({command_name(stage)}); wait for it, or choose another output_dir="
        ) from error
    holder.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
    return lock
