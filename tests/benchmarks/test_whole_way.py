"""Every benchmark the whole way: jobs -> pictures -> the benchmark's own layout -> numbers, ours and others' alike."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import miniatures
import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from dsd.publish.commands import publish
from dsd.runs.shards import read_failures, read_shards

MAKERS = {name: getattr(miniatures, name) for name in ("dreambench_plus", "dreambench", "omnicontext", "sconeeval")}
SMALL = ("method=copy_paste", "settings.height=64", "settings.width=64", "device=cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    """All four data sets."""
    folder = tmp_path_factory.mktemp("data")
    return {name: make(folder / name) for name, make in MAKERS.items()}


@pytest.fixture(scope="module")
def drawn(data, run_once, tmp_path_factory) -> dict[str, Path]:
    """What copying gives for all four."""
    folder = tmp_path_factory.mktemp("drawn")
    for name, path in data.items():
        run_once("infer", f"jobs={name}", f"jobs.path={path}", *SMALL, "png=false", f"output_dir={folder / name}")
    return {name: folder / name for name in data}


@pytest.fixture
def evaluate(run, embedding, tmp_path) -> Callable[..., dict]:
    """Evaluate runs by the tiny DINOv2; returns the summary, with what was said."""

    def evaluate(runs: dict[str, object], *more: str, out: str = "report") -> dict:
        named = ", ".join(f"{name}: {folder}" for name, folder in runs.items())
        said = run("evaluate", f"results={{{named}}}", "measure=similarity", "~measure.clip", "~measure.dino",
                   "num_resamples=200", f"measure.dinov2.features.path={embedding}", "device=cpu",
                   f"output_dir={tmp_path / out}", *more)  # fmt: skip
        return {**json.loads((tmp_path / out / "summary.json").read_text()), "said": said}

    return evaluate


def value(summary: dict, arm: str) -> float:
    return summary["arms"][arm]["dinov2_image"]["value"]


@pytest.mark.parametrize("name", MAKERS)
def test_pictures_go_out_in_the_benchmark_s_layout_and_come_back(name, data, drawn, run, evaluate, tmp_path) -> None:
    """JPEG of the best quality changes the numbers by rounding; PNG not at all. Without its own jobs a folder of
    pictures alone says nothing."""  # fmt: skip
    out = tmp_path / "samples" / "copy"
    run("publish", f"results={drawn[name]}", f"layout={name}", f"local={out}", main=publish)
    summary = evaluate({"ours": drawn[name], "theirs": out}, f"jobs={name}", f"jobs.path={data[name]}", "baseline=ours")
    assert summary["coverage"]["theirs"] == summary["coverage"]["ours"]
    compared = summary["comparisons"]["theirs - ours"]
    assert compared["n"] == len(read_shards(drawn[name], "results"))
    assert value(summary, "theirs") == pytest.approx(value(summary, "ours"), abs=0.01)
    assert compared["won"]["value"] == pytest.approx(0.5, abs=0.5)
    if name in ("omnicontext", "sconeeval"):
        assert value(summary, "theirs") == value(summary, "ours")
        assert compared["won"]["value"] == 0.5
        assert not compared["apart"]
        assert "cannot tell them apart" in summary["said"]
        assert (out / "multi_character" / "multi_character-0001.png").is_file()
    else:
        collection = {"dreambench_plus": miniatures.COLLECTIONS[1], "dreambench": "Café mug"}[name]
        place = f"{collection}/3_0"
        files = [f"src_image/{place}.jpg", f"tgt_image/{place}.jpg", f"text/{place}.txt"]
        assert [file for file in files if not (out / file).is_file()] == []


def test_samples_alone_have_references_and_prompts(drawn, run, evaluate, tmp_path) -> None:
    """Their references were encoded anew, and are paired with ours all the same."""
    out = tmp_path / "samples"
    run("publish", f"results={drawn['dreambench_plus']}", "layout=dreambench_plus", f"local={out}", main=publish)
    summary = evaluate({"ours": drawn["dreambench_plus"], "theirs": out}, "baseline=ours")
    assert summary["comparisons"]["theirs - ours"]["n"] == 54
    assert summary["comparisons"]["theirs - ours"]["subjects"] == 6
    by = summary["arms"]["theirs"]["by"]["dinov2_image"]
    assert list(by["columns"]) == ["animal", "human", "object", "style"]
    columns = [column["value"] for column in by["columns"].values()]
    assert by["mean"]["value"] == pytest.approx(np.mean(columns), abs=1e-4)
    assert value(summary, "theirs") == pytest.approx(np.average(columns, weights=[2, 1, 2, 1]), abs=1e-4)


def test_missing_pictures_are_counted_and_never_zeros(data, drawn, run, evaluate, tmp_path) -> None:
    out = tmp_path / "theirs"
    run("publish", f"results={drawn['omnicontext']}", "layout=omnicontext", f"local={out}", main=publish)
    for file in ("single_object/single_object-0000.png", "multi_character/multi_character-0001.png"):
        (out / file).unlink()
    Image.new("RGB", (8, 8)).save(out / "stray.png")
    more = ("jobs=omnicontext", f"jobs.path={data['omnicontext']}")
    summary = evaluate({"ours": drawn["omnicontext"], "theirs": out}, *more, "baseline=ours")
    assert summary["coverage"]["theirs"] == {"jobs": 6, "no_picture": 2}
    assert summary["arms"]["theirs"]["dinov2_image"]["n"] == 4
    assert summary["comparisons"]["theirs - ours"]["value"] == 0, "on the four common jobs the pictures are the same"
    assert "4 of 6" in (tmp_path / "report" / "table.md").read_text()
    assert "1 pictures belong to no job" in summary["said"]
    assert "comparisons use the jobs that both arms have" in summary["said"]


def test_a_folder_named_by_job_and_parquet(data, drawn, evaluate, tmp_path) -> None:
    rows = read_shards(drawn["sconeeval"], "results")
    folder = tmp_path / "named"
    folder.mkdir()
    for row in rows:
        row["image"].save(folder / f"{row['job']}.webp", lossless=True)
    rows.select_columns(["job", "image"]).to_parquet(tmp_path / "named.parquet")
    rows.select_columns(["image", "reference", "prompt", "category"]).to_parquet(tmp_path / "whole.parquet")
    more = ("jobs=sconeeval", f"jobs.path={data['sconeeval']}")
    runs = {"a": drawn["sconeeval"], "b": folder, "c": tmp_path / "named.parquet", "d": tmp_path / "whole.parquet"}
    whole = runs.pop("d")
    summary = evaluate(runs, *more)
    assert value(summary, "a") == value(summary, "b") == value(summary, "c")
    alone = evaluate({"a": drawn["sconeeval"], "d": whole}, out="alone")
    assert value(alone, "a") == value(alone, "d")


def test_what_cannot_be_read_is_one_line(data, drawn, refused, embedding, tmp_path) -> None:
    measure = ("measure=similarity", "~measure.clip", "~measure.dino",
               f"measure.dinov2.features.path={embedding}", "device=cpu",
               f"output_dir={tmp_path / 'report'}")  # fmt: skip
    folder = tmp_path / "pictures"
    folder.mkdir()
    miniatures.picture(1).save(folder / "stranger.png")
    said = refused("evaluate", f"results={{x: {folder}}}", *measure)
    assert "pictures without references and prompts; give the jobs as well" in said
    jobs = ("jobs=sconeeval", f"jobs.path={data['sconeeval']}")
    assert "none of its 1 pictures belongs to a job" in refused("evaluate", f"results={{x: {folder}}}", *jobs, *measure)
    (tmp_path / "tgt").mkdir()
    shutil.copytree(folder, tmp_path / "tgt" / "tgt_image" / "object_00_t-shirt")
    (tmp_path / "tgt/tgt_image/object_00_t-shirt/stranger.png").rename(
        tmp_path / "tgt/tgt_image/object_00_t-shirt/3_0.png"
    )
    said = refused("evaluate", f"results={{x: {tmp_path / 'tgt'}}}", *measure)
    assert "src_image/object_00_t-shirt/3_0.png is missing" in said
    Dataset.from_dict({"picture": [1]}).to_parquet(tmp_path / "odd.parquet")
    assert "row 0: image: " in refused("evaluate", f"results={{x: {tmp_path / 'odd.parquet'}}}", *jobs, *measure)
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    assert "not a readable Parquet file" in refused("evaluate", f"results={{x: {tmp_path / 'cut.parquet'}}}", *measure)
    said = refused("evaluate", f"results={{x: {drawn['sconeeval']}}}", "published=nobody", *measure)
    assert "published=nobody: no such file; choose dreambench_plus" in said


def test_a_layout_of_another_benchmark_is_refused(drawn, refused, tmp_path) -> None:
    ask = (f"results={drawn['omnicontext']}", f"local={tmp_path / 'out'}")
    assert "go together" in refused("publish", *ask, main=publish)
    said = refused("publish", f"results={drawn['dreambench']}", "layout=omnicontext", f"local={tmp_path / 'out'}",
                   main=publish)  # fmt: skip
    assert "does not begin with its task type" in said
    assert not (tmp_path / "out").exists()


def test_jobs_of_many_references_are_not_attempted_by_a_canvas(data, adapter, run, evaluate, tmp_path) -> None:
    said = run("infer", "jobs=omnicontext", f"jobs.path={data['omnicontext']}", f"adapter={adapter}", "device=cpu",
               "settings.num_inference_steps=1", f"output_dir={tmp_path / 'out'}")  # fmt: skip
    assert "2 pictures by student (0 failed, 4 not attempted)" in said
    reasons = {failure["reason"] for failure in read_failures(tmp_path / "out", "results")}
    assert reasons == {f"not attempted: {n} references, student takes at most 1" for n in (2, 3)}
    summary = evaluate({"student": tmp_path / "out"})
    assert summary["coverage"]["student"] == {"jobs": 6, "not_attempted": 4}
    assert summary["arms"]["student"]["dinov2_image"]["n"] == 2
    assert "2 of 6" in (tmp_path / "report" / "table.md").read_text()


def test_a_set_is_divided_and_limited_like_any(data, run, tmp_path) -> None:
    ask = ("jobs=dreambench_plus", f"jobs.path={data['dreambench_plus']}", "jobs.limit=8", "rows_per_shard=2", *SMALL,
           "png=false", f"output_dir={tmp_path / 'out'}")  # fmt: skip
    for shard in (1, 0):
        run("infer", *ask, f"shard={shard}", "num_shards=2")
    rows = read_shards(tmp_path / "out", "results")
    assert len(rows) == len(set(rows["job"])) == 8
    assert len({job.rsplit("-", 1)[0] for job in rows["job"]}) == 6
