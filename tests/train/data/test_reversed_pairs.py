"""Reversed pairs: what dsd-infer drew is the reference, the untouched picture the target."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dsd.errors import UserError
from dsd.io.records import Result, features
from dsd.runs.manifest import write_manifest
from dsd.runs.shards import Shard, write_shard
from dsd.train.data.reversed_pairs import ReversedPairs
from dsd.train.data.sources import RawPair, Unread


def picture(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8))


def results(folder: Path, *sizes: tuple[int, int], several: int | None = None) -> Path:
    """A folder of dsd-infer: edited pictures of 64 x 64 whose references have these sizes."""
    rows = [
        Result(
            job=f"job-{n}", image=picture(n), reference=picture(100 + n, size),
            others=[picture(9)] if n == several else [], prompt=f"au crépuscule {n}", seed=n, method="zero_shot",
            category="", kind="", truth="", config_hash="0",
        )
        for n, size in enumerate(sizes)
    ]  # fmt: skip
    (folder / "results").mkdir(parents=True)
    shard = Shard(0, 0, len(rows), folder / "results" / "results-00000-of-00001.parquet")
    write_shard(shard, rows, features(Result), 0.0)
    write_manifest(folder, "infer", {"results": len(rows)})
    return folder


def read(source: ReversedPairs) -> list[RawPair | Unread]:
    return list(source.block(range(len(source))))


def reason(pair: RawPair | Unread) -> str:
    assert isinstance(pair, Unread), pair
    return pair.reason


def test_the_untouched_picture_is_the_target(tmp_path) -> None:
    folder = results(tmp_path / "drawn", (64, 64), (64, 64))
    for n, pair in enumerate(read(ReversedPairs(str(folder), caption="the same picture, soft daylight"))):
        assert pair.reference.open().tobytes() == picture(n).tobytes()
        assert pair.target.open().tobytes() == picture(100 + n).tobytes()
        assert pair.description == pair.instruction == "the same picture, soft daylight"
    by_column = read(ReversedPairs(str(folder), column="prompt"))
    assert [pair.description for pair in by_column] == ["au crépuscule 0", "au crépuscule 1"]


def test_captions_by_job(tmp_path) -> None:
    folder = results(tmp_path / "drawn", (64, 64), (64, 64))
    file = tmp_path / "captions.jsonl"
    file.write_text(json.dumps({"job": "job-1", "caption": "à l'aube", "instruction": "make it dawn"}) + "\n")
    missing, told = read(ReversedPairs(str(folder), captions=str(file)))
    assert reason(missing) == f"job job-0: no line for it in {file}"
    assert (told.description, told.instruction) == ("à l'aube", "make it dawn")
    file.write_text('{"job": 1, "caption": "a"}\n')
    with pytest.raises(UserError, match=r"captions.jsonl:1: job: Input should be a valid string; each line is"):
        ReversedPairs(str(folder), captions=str(file))


def test_the_target_is_cropped_as_the_reference_was_fitted(tmp_path) -> None:
    folder = results(tmp_path / "drawn", (96, 64), (128, 128), (64, 81), (65, 64))
    wide, large, tall, rounded = read(ReversedPairs(str(folder), caption="a"))
    assert wide.target.open().tobytes() == picture(100, (96, 64)).crop((16, 0, 80, 64)).tobytes()
    assert (large.target.box, tall.target.size(), rounded.target.box) == (None, (64, 64), None)
    whole = [pair for pair in read(ReversedPairs(str(folder), caption="a", fit=None)) if isinstance(pair, RawPair)]
    assert [pair.target.size() for pair in whole] == [(128, 128), (65, 64)]
    assert reason(read(ReversedPairs(str(folder), caption="a", fit=None))[0]) == (
        "untouched 96 x 64, edited 64 x 64 pixels: aligned pairs need equal proportions"
    )


def test_what_is_no_edit_of_one_picture_is_left_out(tmp_path) -> None:
    folder = results(tmp_path / "drawn", (64, 64), (64, 64), several=1)
    assert reason(read(ReversedPairs(str(folder), caption="a"))[1]).startswith("job job-1: drawn of several references")


def test_wrong_settings_are_one_line(tmp_path) -> None:
    folder = str(results(tmp_path / "drawn", (64, 64)))
    for given in ({}, {"caption": "a", "column": "prompt"}):
        with pytest.raises(UserError, match=r"data=reversed: give one of data.caption="):
            ReversedPairs(folder, **given)
    with pytest.raises(UserError, match=r"data.column=none: no column of texts in .*; there are job, prompt, method"):
        ReversedPairs(folder, column="none")
    with pytest.raises(UserError, match=r"data.column=image: no column of texts"):
        ReversedPairs(folder, column="image")
    with pytest.raises(UserError, match=r"data.fit=pad: crop or null is needed"):
        ReversedPairs(folder, caption="a", fit="pad")
    with pytest.raises(UserError, match=r"none.jsonl: no such file"):
        ReversedPairs(folder, captions=str(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="no such folder; run `dsd-infer"):
        ReversedPairs(str(tmp_path / "nowhere"), caption="a")
    with pytest.raises(UserError, match="no results in it"):
        ReversedPairs(str(results(tmp_path / "empty")), caption="a")


def test_reversed_pairs_are_known_by_content_and_not_by_place(tmp_path) -> None:
    folder = results(tmp_path / "drawn", (64, 64))
    moved = shutil.copytree(folder, tmp_path / "moved")
    first = ReversedPairs(str(folder), caption="a").fingerprint
    assert ReversedPairs(str(moved), caption="a").fingerprint == first
    for name in ("one", "two"):
        (tmp_path / name).write_text('{"job": "job-0", "caption": "a"}\n')
    by_file = [ReversedPairs(str(folder), captions=str(tmp_path / name)).fingerprint for name in ("one", "two")]
    assert by_file == [first, first]  # the same pairs
    assert ReversedPairs(str(folder), caption="b").fingerprint != first
    other = results(tmp_path / "other", (64, 65))
    assert ReversedPairs(str(other), caption="a").fingerprint != first
