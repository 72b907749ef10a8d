"""Files that are there whole or not at all; a manifest that vouches for a folder."""

import json
import os
from pathlib import Path

import pytest

from dsd.errors import UserError
from dsd.io.files import atomic
from dsd.runs.manifest import read_manifest, write_manifest


def finished(folder: Path) -> Path:
    """A folder as a finished data_gen leaves it, with one shard of four bytes."""
    (folder / "grids").mkdir(parents=True)
    (folder / "grids" / "grids-00000-of-00001.parquet").write_bytes(b"rows")
    write_manifest(folder, "data_gen", {"grids": 1}, config_hash="0123456789ab")
    return folder


def test_atomic_replaces_on_success_and_leaves_the_old_on_failure(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "curve.png"
    with atomic(target) as temporary:
        temporary.write_text("old")
        assert not target.exists()
        assert temporary.suffix == ".png"

    def fails() -> None:
        with atomic(target) as temporary:
            temporary.write_text("ne")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fails()
    assert target.read_text() == "old"
    assert os.listdir(target.parent) == ["curve.png"]


def test_atomic_makes_folders_too(tmp_path: Path) -> None:
    with atomic(tmp_path / "step-10") as temporary:
        (temporary / "model").mkdir(parents=True)
        (temporary / "model" / "weights").write_text("w")
    assert (tmp_path / "step-10" / "model" / "weights").read_text() == "w"
    assert os.listdir(tmp_path) == ["step-10"]


def test_a_manifest_is_read_back(tmp_path: Path) -> None:
    manifest = read_manifest(finished(tmp_path / "grids"), "data_gen")
    assert manifest["counts"] == {"grids": 1}
    assert manifest["peak_memory_mb"] > 10
    assert manifest["config_hash"] == "0123456789ab"
    assert manifest["files"] == {"grids/grids-00000-of-00001.parquet": 4}


def test_a_missing_folder_names_the_command_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such folder; run `dsd-data-gen output_dir=.*/none` first"):
        read_manifest(tmp_path / "none", "data_gen")


def test_an_unfinished_folder_is_refused(tmp_path: Path) -> None:
    (finished(tmp_path) / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"no manifest.json; run `dsd-data-gen output_dir=.*` again to finish it"):
        read_manifest(tmp_path, "data_gen")


def test_a_stage_out_of_order_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="made by dsd-data-gen, but the output of dsd-curate is wanted"):
        read_manifest(finished(tmp_path), "curation")


def test_a_listed_file_that_is_cut_short_or_missing_is_named(tmp_path: Path) -> None:
    shard = finished(tmp_path) / "grids" / "grids-00000-of-00001.parquet"
    shard.write_bytes(b"ro")
    with pytest.raises(UserError, match=r"grids-00000-of-00001.parquet has 2 bytes instead of 4; delete"):
        read_manifest(tmp_path, "data_gen")
    shard.unlink()
    with pytest.raises(UserError, match=r"grids-00000-of-00001.parquet is missing"):
        read_manifest(tmp_path, "data_gen")


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"stage": "data_gen", "files": 3})])
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str) -> None:
    (finished(tmp_path) / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest.json: not a manifest"):
        read_manifest(tmp_path, "data_gen")
