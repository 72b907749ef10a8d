"""Disks that are full or read-only, names that are too long, files that cannot be read: one line, no traceback."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_secrets import call

from dsd.io.files import atomic, refuse_unwritable, remove_all_stale

EXAMPLES = Path(__file__).parents[2] / "examples"
OUTPUT = {"publish": "local"}  # the key of the output folder, where it is no output_dir


def commands(grids: Path, pairs: Path, adapter: Path, drawn: Path) -> dict[str, tuple[str, str, list[str]]]:
    """Every command by its stage: module, name of its function, and settings for a quick run."""
    return {
        "data_gen": ("dsd.data_gen.__main__", "main", ["teacher=oracle", "num_grids=2"]),
        "curation": ("dsd.curation.__main__", "main", [f"grids={grids}", "device=cpu"]),
        "train": ("dsd.train.__main__", "main", [f"pairs={pairs}", "num_steps=1", "batch_size=2", "device=cpu"]),
        "infer": ("dsd.infer.__main__", "main",
                  ["jobs=folder", f"jobs.path={EXAMPLES}", "method=copy_paste", "device=cpu"]),
        "evaluate": ("dsd.evaluate.__main__", "main", [f"results={{a: {drawn}}}", "num_resamples=100", "device=cpu"]),
        "export": ("dsd.publish.commands", "export", [f"adapter={adapter}", "to=merged", "dtype=fp32"]),
        "publish": ("dsd.publish.commands", "publish", [f"pairs={pairs}"]),
    }  # fmt: skip


STAGES = ("data_gen", "curation", "train", "infer", "evaluate", "export", "publish")


@pytest.fixture(scope="module")
def made(grids: Path, pairs: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    from worlds import infer_run

    return commands(grids, pairs, adapter, infer_run(tmp_path_factory.mktemp("disks") / "drawn", "perfect", 2))


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A file system that refuses every write, also root's."""
    folder = tmp_path / "read_only"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], capture_output=True, check=False)


def refused(made: dict, stage: str, output: Path | str) -> str:
    module, name, overrides = made[stage]
    code, said = call(module, *overrides, f"{OUTPUT.get(stage, 'output_dir')}={output}", name=name)
    assert code == 2, said
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if ": error: " in line]
    return line


@pytest.mark.parametrize("stage", STAGES)
def test_a_read_only_disk(made, read_only, stage) -> None:
    assert "Read-only file system" in refused(made, stage, read_only / "out")


@pytest.mark.parametrize("stage", STAGES)
def test_a_name_that_is_too_long(made, tmp_path, stage) -> None:
    assert "File name too long" in refused(made, stage, tmp_path / ("x" * 300))


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk(made, small_disk: Callable[[str], Path], stage) -> None:
    """Filled to the last byte before the command begins."""
    disk = small_disk("64k")
    with open(disk / "ballast", "wb", buffering=0) as file:
        while True:
            try:
                file.write(b"x" * 4096)
            except OSError:
                break
    assert "no space left on device" in refused(made, stage, disk / "out").lower()


@pytest.mark.parametrize("stage", STAGES)
def test_a_file_in_the_way(made, tmp_path, stage) -> None:
    (tmp_path / "file").write_text("x")
    assert "file" in refused(made, stage, tmp_path / "file" / "out")


def test_what_cannot_be_written_is_known_before_the_work(tmp_path: Path) -> None:
    refuse_unwritable(tmp_path / "new" / "a.png")
    assert os.listdir(tmp_path) == []
    with pytest.raises(OSError, match="File name too long"):
        refuse_unwritable(tmp_path / ("x" * 250))


def test_others_can_read_what_is_written_and_a_kill_s_leftovers_go(tmp_path: Path) -> None:
    with atomic(tmp_path / "a.txt") as temporary:
        temporary.touch(mode=0o600)
    assert (tmp_path / "a.txt").stat().st_mode & 0o044 == 0o044
    (tmp_path / ".tmp-0badf00d-overview.png").write_text("half")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / ".tmp-0badf00d-a.png").write_text("half")
    remove_all_stale(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "images"]
    assert os.listdir(tmp_path / "images")
    remove_all_stale(tmp_path, below=True)
    assert not os.listdir(tmp_path / "images")
