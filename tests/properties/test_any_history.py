"""Whatever happens to a divided stage (kills, edits, other divisions), nothing is lost, doubled or stale."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from omegaconf import OmegaConf

from dsd.errors import UserError
from dsd.runs.identity import fingerprint
from dsd.runs.manifest import read_manifest
from dsd.runs.run import Run, Writer, begin
from dsd.runs.settings import SCHEMAS, ShardSettings, setting
from dsd.runs.shards import Failure, Shard, read_failures, read_shards, write_shard_in_parts

NUM, ROWS = 7, 3
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a disk would wait for every fsync


@dataclass
class Copying(ShardSettings):
    """Copies the lines of a file."""

    lines: str = setting("the file", reads="file")
    factor: int = setting("what each line is multiplied by", 1)


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def features() -> Any:
    from datasets import Features, Value

    return Features({"position": Value("int64"), "value": Value("int64"), "config_hash": Value("string")})


class History(RuleBasedStateMachine):
    """Run, kill, edit the input, change a setting, divide otherwise, run again."""

    @initialize()
    def begin_folder(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dsd-history-", dir=MEMORY))
        self.input, self.made, self.fresh = self.folder / "lines.txt", 0, True
        self.bound: tuple[str, int] | None = None  # the content and factor that the folder belongs to
        self.write_lines(0)
        SCHEMAS["copying"] = Copying

    def teardown(self) -> None:
        SCHEMAS.pop("copying", None)
        shutil.rmtree(self.folder, ignore_errors=True)

    def write_lines(self, seed: int) -> None:
        self.lines = [seed * 100 + i for i in range(NUM)]
        self.input.write_text("\n".join(map(str, self.lines)))

    @rule(seed=st.integers(0, 2))
    def edit_the_input(self, seed: int) -> None:
        self.write_lines(seed)

    @rule()
    def delete_the_folder(self) -> None:
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        self.bound = None

    @rule(
        factor=st.integers(1, 2), shard=st.integers(0, 2), num_shards=st.integers(1, 3),
        kill_at=st.none() | st.integers(0, NUM - 1), batch=st.integers(1, 3),
    )  # fmt: skip
    def run(self, factor: int, shard: int, num_shards: int, kill_at: int | None, batch: int) -> None:
        schema = Copying(
            output_dir=str(self.folder / "out"), lines=str(self.input), factor=factor, shard=shard % num_shards,
            num_shards=num_shards,
        )  # fmt: skip
        current = None
        try:
            current = begin(OmegaConf.structured(schema), {"lines": fingerprint(self.input)})
            if current is None:
                assert self.bound == (self.input.read_text(), factor)
                return
            self.bound_now(factor)
            self.work(current, factor, kill_at, batch)
        except UserError as error:
            self.refused(str(error), factor)
        except Killed:
            pass
        finally:
            for lock in current.locks if current else []:
                lock.release()  # as the kernel would

    def refused(self, said: str, factor: int) -> None:
        assert "belongs to another config" in said
        assert self.bound not in (None, (self.input.read_text(), factor))

    def bound_now(self, factor: int) -> None:
        """Only a folder without results changes hands."""
        now = (self.input.read_text(), factor)
        kept = [f for f in (self.folder / "out").rglob("*.parquet") if not f.name.startswith(".tmp-")]
        assert self.bound in (None, now) or not kept
        self.bound = now

    def work(self, current: Run, factor: int, kill_at: int | None, batch: int) -> None:
        lines = list(map(int, self.input.read_text().split()))

        def parts(shard: Shard, start: int) -> Iterator[tuple[int, list[Any]]]:
            for first in range(start, shard.stop, batch):
                stop = min(first + batch, shard.stop)
                if kill_at is not None and first <= kill_at < stop:
                    (shard.path.parent / f".tmp-0badf00d-{shard.path.name}").parent.mkdir(parents=True, exist_ok=True)
                    (shard.path.parent / f".tmp-0badf00d-{shard.path.name}").write_text("half")
                    raise Killed
                yield stop, [
                    Failure({"position": i}, "multiple of 5") if lines[i] % 5 == 0 and lines[i]
                    else {"position": i, "value": lines[i] * factor, "config_hash": current.config_hash}
                    for i in range(first, stop)
                ]  # fmt: skip

        def make_writer() -> Writer:
            return lambda shard, bar: write_shard_in_parts(shard, lambda start: parts(shard, start), features())

        if current.make_shards("rows", NUM, ROWS, "row", make_writer):
            if kill_at == 0:  # killed while the overview was written
                (current.output_dir / ".tmp-0badf00d-overview.png").write_text("half")
                raise Killed
            rows, failures = read_shards(current.output_dir, "rows"), read_failures(current.output_dir, "rows")
            current.finish({"rows": len(rows), "failed": len(failures)}, "copied")

    @invariant()
    def a_finished_folder_is_right(self) -> None:
        out = self.folder / "out"
        if self.bound is None or not (out / "manifest.json").exists():
            return
        lines, factor = list(map(int, self.bound[0].split())), self.bound[1]
        manifest, rows = read_manifest(out, "copying"), read_shards(out, "rows")
        good = [i for i in range(NUM) if lines[i] % 5 or not lines[i]]
        assert [(row["position"], row["value"]) for row in rows] == [(i, lines[i] * factor) for i in good]
        assert [row["position"] for row in read_failures(out, "rows")] == [i for i in range(NUM) if i not in good]
        assert manifest["counts"] == {"rows": len(good), "failed": NUM - len(good)}
        assert set(rows["config_hash"]) == {manifest["config_hash"]}
        assert not list(out.rglob(".tmp-*"))
        assert json.loads((out / "manifest.json").read_text())["stage"] == "copying"


TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", 15)),
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
