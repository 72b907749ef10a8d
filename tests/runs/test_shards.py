"""Shards: rows that come back as they were, whoever wrote them and after however many kills."""

import dataclasses
import errno
import hashlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from datasets import load_dataset
from PIL import Image

import dsd.runs.shards
from dsd.errors import UserError
from dsd.io.records import LAYOUTS, Grid, Pair, Prompt, features, layout_shape
from dsd.runs.run import Run
from dsd.runs.shards import (
    Failure,
    Shard,
    pending_shards,
    read_failures,
    read_shards,
    remove_leftovers,
    write_shard,
    write_shard_in_parts,
)

NUM_ITEMS, ROWS = 10, 4

# a run that can be killed in the middle of its second shard: it waits there, having written some rows
WRITER = f"""
import sys, time
from pathlib import Path
from tests.runs.test_shards import NUM_ITEMS, ROWS, grids
from dsd.io.records import Grid, features
from dsd.runs.shards import pending_shards, remove_leftovers, write_shard
import dsd.runs.shards
dsd.runs.shards.ROWS_PER_GROUP = 1
def slow(shard):
    for grid in grids(shard.start, shard.stop):
        yield grid
        if sys.argv[2] == "wait" and grid.index == 5:
            print("halfway", flush=True)
            time.sleep(60)
todo = pending_shards(sys.argv[1], "grids", {NUM_ITEMS}, {ROWS})
remove_leftovers(Path(sys.argv[1]), todo)
for shard in todo:
    write_shard(shard, slow(shard), features(Grid))
"""


def grids(start: int, stop: int) -> Iterator[Grid]:
    for i in range(start, stop):
        image = Image.linear_gradient("L").resize((16, 8)).rotate(i).convert("RGB")
        yield Grid(i, image, f"prompt {i}", "1x2", ["left", "right"], "a fox", "same", 100 + i, 8, 16, "0123456789ab")


def write_all(folder: Path, shard: int = 0, num_shards: int = 1) -> None:
    for s in pending_shards(folder, "grids", NUM_ITEMS, ROWS, shard, num_shards):
        write_shard(s, grids(s.start, s.stop), features(Grid))


def digests(folder: Path) -> dict[str, str]:
    files = (f for f in folder.rglob("*") if f.is_file() and not f.name.endswith(".stats.json"))  # they hold seconds
    return {f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    write_all(tmp_path)
    rows = read_shards(tmp_path, "grids")
    assert rows.features == features(Grid)
    for row, grid in zip(rows, grids(0, NUM_ITEMS), strict=True):
        back = Grid(**row)
        assert back.image.tobytes() == grid.image.tobytes()
        assert {**vars(back), "image": None} == {**vars(grid), "image": None}


def test_load_dataset_reads_the_folder_as_it_is(tmp_path: Path) -> None:
    write_all(tmp_path)
    rows = load_dataset("parquet", data_dir=str(tmp_path / "grids"), split="train")
    assert rows["index"][:] == list(range(NUM_ITEMS))
    assert rows[3]["image"].size == (16, 8)


def test_an_image_from_a_file_is_embedded(tmp_path: Path) -> None:
    """`datasets` alone would keep the file's path, and lose the picture with the file."""
    next(grids(0, 1)).image.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        write_shard(
            Shard(0, 0, 1, tmp_path / "x" / "x-00000-of-00001.parquet"),
            [{**vars(next(grids(0, 1))), "image": image}],
            features(Grid),
        )
    (tmp_path / "a.png").unlink()
    assert read_shards(tmp_path, "x")[0]["image"].tobytes() == next(grids(0, 1)).image.tobytes()


@pytest.mark.parametrize("num_shards", [1, 2, 5])
def test_any_division_of_the_work_makes_the_same_files(tmp_path: Path, num_shards: int) -> None:
    write_all(tmp_path / "one")
    for shard in reversed(range(num_shards)):
        write_all(tmp_path / "many", shard, num_shards)
    assert digests(tmp_path / "many") == digests(tmp_path / "one")
    assert pending_shards(tmp_path / "many", "grids", NUM_ITEMS, ROWS) == []


def test_killed_in_the_middle_of_a_shard_a_run_goes_on_and_equals_an_unbroken_one(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", WRITER, str(tmp_path / "killed")]
    with subprocess.Popen([*command, "wait"], cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "halfway\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    left = sorted(os.listdir(tmp_path / "killed" / "grids"))
    assert len(left) == 2
    assert left[0].startswith(".tmp-"), "the kill came while a shard was being written"
    assert left[1] == "grids-00000-of-00003.parquet"
    subprocess.run([*command, "go"], cwd=root, check=True)
    subprocess.run([*command[:-1], str(tmp_path / "unbroken"), "go"], cwd=root, check=True)
    assert digests(tmp_path / "killed") == digests(tmp_path / "unbroken")
    assert len(read_shards(tmp_path / "killed", "grids")) == NUM_ITEMS


@pytest.fixture
def listed() -> Iterator[list[str]]:
    """Every listing of a folder from here on, by its path. An audit hook cannot be removed, so it is silenced."""
    found: list[str] = []
    active = [True]

    def hook(event: str, arguments: tuple) -> None:
        if active and event in ("os.listdir", "os.scandir"):
            found.append(str(arguments[0]))

    sys.addaudithook(hook)
    yield found
    active.clear()


@pytest.mark.parametrize("in_parts", [False, True])
def test_writing_lists_a_folder_as_often_for_many_shards_as_for_few(
    tmp_path: Path, listed: list[str], in_parts: bool
) -> None:
    """Each shard's writer once listed the folder of all shards: n x n names."""

    def write(shard: Shard, bar: object) -> None:
        if in_parts:
            write_shard_in_parts(shard, lambda start: [(shard.stop, list(grids(start, shard.stop)))], features(Grid))
        else:
            write_shard(shard, grids(shard.start, shard.stop), features(Grid))

    counts = []
    for num in (2, 12):
        folder = tmp_path / str(num)
        listed.clear()
        assert Run("data_gen", folder, "", 0, 1, {}).make_shards("grids", num, 1, "grid", lambda: write)
        counts.append(listed.count(str(folder / "grids")))
        assert len(list((folder / "grids").iterdir())) == num
    assert counts[0] == counts[1] > 0


def test_leftovers_of_another_worker_stay(tmp_path: Path) -> None:
    """They may be files that it is writing at this moment."""
    names = [f".tmp-0badf00d-{name}-{i:05d}-of-00003.parquet" for i in range(3) for name in ("grids", "beside")]
    names += [f".tmp-0badf00d-grids-{i:05d}-of-00003.stats.json" for i in range(3)]
    names += [".tmp-0badf00d-overview.png"]
    for number, name in enumerate(names):
        folder = tmp_path / ("grids", "beside")[number % 2] if name.endswith("parquet") else tmp_path
        folder.mkdir(exist_ok=True)
        (folder / name).write_text("half")
    remove_leftovers(tmp_path, pending_shards(tmp_path, "grids", NUM_ITEMS, ROWS, 1, 3))
    left = [file.name for file in tmp_path.rglob(".tmp-*")]
    assert sorted(left) == sorted(name for name in names if "00001-of" not in name)


def test_no_space_left_leaves_no_half_shard(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk; the second run, with room, completes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_all(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path / "grids") == []
    write_all(tmp_path)
    assert len(read_shards(tmp_path, "grids")) == NUM_ITEMS


def test_a_record_that_fails_is_noted_and_the_rest_is_written(tmp_path: Path) -> None:
    (shard,) = pending_shards(tmp_path, "grids", 3, 3)
    rows = [*grids(0, 1), Failure({"index": 1}, "the teacher drew a blank"), *grids(2, 3)]
    for _ in range(2):  # a second writing doubles nothing
        assert write_shard(shard, iter(rows), features(Grid)) == 2
        assert read_shards(tmp_path, "grids")["index"][:] == [0, 2]
        assert read_failures(tmp_path, "grids") == [{"index": 1, "reason": "the teacher drew a blank"}]
    write_shard(shard, grids(0, 3), features(Grid))
    assert read_failures(tmp_path, "grids") == []


def test_empty_shards_are_legal(tmp_path: Path) -> None:
    (shard,) = pending_shards(tmp_path, "pairs", 0, ROWS)
    assert write_shard(shard, [], features(Pair)) == 0
    assert pending_shards(tmp_path, "pairs", 0, ROWS) == []
    empty = read_shards(tmp_path, "pairs")
    assert len(empty) == 0
    assert empty.features == features(Pair)


@pytest.mark.parametrize(("empty", "left"), [(0, range(4, 10)), (1, [0, 1, 2, 3, 8, 9]), (2, range(8))])
def test_one_empty_shard_among_others(tmp_path: Path, empty: int, left: Iterable[int]) -> None:
    """Every row of a shard may have failed, also of the first one."""
    for shard in pending_shards(tmp_path, "grids", NUM_ITEMS, ROWS):
        write_shard(shard, grids(shard.start, shard.stop) if shard.index != empty else [], features(Grid))
    assert read_shards(tmp_path, "grids", columns=["index"])["index"][:] == list(left)


@pytest.mark.parametrize("cut", [slice(0, 0), slice(0, -50), slice(0, 1000)])
def test_a_half_written_shard_is_named(tmp_path: Path, cut: slice) -> None:
    write_all(tmp_path)
    path = tmp_path / "grids" / "grids-00001-of-00003.parquet"
    path.write_bytes(path.read_bytes()[cut])
    with pytest.raises(
        UserError, match=r"grids-00001-of-00003.parquet is damaged or half-written .* delete it and run"
    ):
        read_shards(tmp_path, "grids")


def test_a_shard_damaged_inside_is_named(tmp_path: Path) -> None:
    write_all(tmp_path)
    path = tmp_path / "grids" / "grids-00001-of-00003.parquet"
    content = bytearray(path.read_bytes())
    content[100:300] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"grids-00001-of-00003.parquet is damaged"):
        read_shards(tmp_path, "grids")


def test_missing_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no shards"):
        read_shards(tmp_path, "grids")
    write_all(tmp_path)
    (tmp_path / "grids" / "grids-00001-of-00003.parquet").unlink()
    with pytest.raises(UserError, match=r"grids-00001-of-00003.parquet is missing"):
        read_shards(tmp_path, "grids")


def test_another_division_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    write_all(tmp_path)
    with pytest.raises(UserError, match=r"grids-00000-of-00003.parquet divides the work otherwise than now \(into 2\)"):
        pending_shards(tmp_path, "grids", NUM_ITEMS, 5)


def test_every_record_has_columns() -> None:
    assert list(features(Pair))[:3] == ["image", "conditioning", "caption"]
    assert features(Prompt)["panel_captions"].feature.dtype == "string"


def test_a_layout_is_rows_by_columns() -> None:
    assert {layout: layout_shape(layout) for layout in LAYOUTS} == LAYOUTS
    assert layout_shape("1x4") == (1, 4)
    with pytest.raises(UserError, match="layout '3 by 3' is unknown; choose one of 1x1"):
        layout_shape("3 by 3")


def test_one_part_is_written_while_the_next_is_made(tmp_path: Path, monkeypatch) -> None:
    """And what goes wrong in writing is said; what was whole is not made again."""
    begun, made, original = threading.Event(), [], dsd.runs.shards.write_shard

    def write(shard: Shard, rows: Iterable, *rest: object) -> int:
        begun.set()
        while len(made) < 2:  # else this would wait for ever
            time.sleep(0.001)
        if shard.start == 4 and len(made) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(shard, rows, *rest)

    def parts_from(start: int) -> Iterator[tuple[int, list[Grid]]]:
        for first in range(start, 6, 2):
            if first:
                assert begun.wait(10)
            made.append(first)
            yield first + 2, list(grids(first, first + 2))

    monkeypatch.setattr(dsd.runs.shards, "write_shard", write)
    (shard,) = pending_shards(tmp_path, "grids", 6, 6)
    with pytest.raises(OSError, match="No space"):
        write_shard_in_parts(shard, parts_from, features(Grid))
    assert pending_shards(tmp_path, "grids", 6, 6)
    write_shard_in_parts(shard, parts_from, features(Grid))
    assert made == [0, 2, 4, 4]
    assert read_shards(tmp_path, "grids")["index"] == list(range(6))


def test_a_first_part_without_rows(tmp_path: Path) -> None:
    """The first batch of jobs may fail as a whole; `datasets` cannot read a first row group without rows."""
    (shard,) = pending_shards(tmp_path, "grids", 4, 4)
    parts = [(2, [Failure({"index": i}, "no") for i in range(2)]), (4, list(grids(2, 4)))]
    write_shard_in_parts(shard, lambda start: iter(parts), features(Grid))
    assert read_shards(tmp_path, "grids")["index"][:] == [2, 3]
    assert [row["index"] for row in read_failures(tmp_path, "grids")] == [0, 1]


def test_a_picture_of_many_rows_is_encoded_once(tmp_path: Path, monkeypatch) -> None:
    """A panel is in many pairs."""
    encodes, save = [], Image.Image.save

    def counted(image: Image.Image, *rest: object, **more: object) -> None:
        encodes.append(image)
        save(image, *rest, **more)

    monkeypatch.setattr(Image.Image, "save", counted)
    (shard,) = pending_shards(tmp_path, "grids", 4, 4)
    (first,) = grids(0, 1)
    write_shard(shard, [dataclasses.replace(first, index=index) for index in range(4)], features(Grid))
    assert len(encodes) == 1
    assert [image.tobytes() for image in read_shards(tmp_path, "grids")["image"]] == [first.image.tobytes()] * 4
