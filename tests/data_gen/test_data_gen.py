"""Prompts -> grids: the same grids however the work is divided or interrupted."""

import json
import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, load_dataset
from PIL import Image

from dsd.data_gen.prompts import JsonlPrompts
from dsd.data_gen.teachers import PipelineTeacher
from dsd.errors import UserError
from dsd.io.records import Prompt
from dsd.models.loading import load_pipeline
from dsd.models.speed import Speed
from dsd.runs.manifest import read_manifest
from dsd.runs.shards import read_failures, read_shards
from dsd.toybox.prompts import Oracle

BASE = Path(__file__).parents[1] / "data" / "published_tiny" / "base"
EAGER = Speed("eager", True, False, None, False, None)
ORACLE = ("teacher=oracle", "num_grids=12", "rows_per_shard=4")


class Broken(Oracle):
    """Cannot draw anything."""

    def __call__(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Image.Image]:
        raise ValueError("out of paint")


class FallsOver(Oracle):
    """Cannot draw every fourth sheet."""

    def __call__(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Image.Image]:
        if any(prompt.index % 4 == 3 for prompt in prompts):
            raise ValueError("out of paint")
        return super().__call__(prompts, seeds)


def raw(folder: Path) -> list[dict]:
    """Rows with the pictures' bytes, without where they were made."""
    rows: Dataset = read_shards(folder, "grids").with_format("arrow")
    return rows[:].drop(["config_hash"]).to_pylist()


def test_shards_and_batches_change_nothing(run, grids, tmp_path) -> None:
    parts = (*ORACLE, f"output_dir={tmp_path}", "num_shards=2", "batch_size=3")
    said = run("data_gen", *parts, "rows_per_shard=8", "shard=1")
    assert "others are still at work" in said
    run("data_gen", *parts, "rows_per_shard=8", "shard=0")
    assert raw(tmp_path) == raw(grids)
    assert read_manifest(tmp_path, "data_gen")["counts"] == {"grids": 12, "failed": 0}
    assert "done already" in run("data_gen", *parts, "rows_per_shard=8", "shard=0")
    assert (tmp_path / "overview.png").exists()


def test_killed_at_random_moments_is_unbroken(run, start, tmp_path) -> None:
    """With one open shard all the time: what was drawn of it before a kill is not drawn again."""
    command = (
        "teacher=oracle",
        "num_grids=300",
        "rows_per_shard=300",
        "batch_size=4",
        f"output_dir={tmp_path / 'killed'}",
    )
    rng, rows = random.Random(0), tmp_path / "killed" / "parts" / "grids-00000-of-00001" / "rows"
    before: dict[Path, int] = {}
    for _ in range(3):
        process = start("data_gen", *command)
        wanted = len(before) + rng.randrange(1, 15)
        while len(list(rows.glob("part-*.parquet"))) < wanted and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.random() / 20)
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = {file: file.stat().st_mtime_ns for file in rows.glob("part-*.parquet")}
        assert before.items() <= now.items()
        assert len(now) > len(before)
        before = now
    said = run("data_gen", *command)
    run("data_gen", "teacher=oracle", "num_grids=300", "rows_per_shard=300", f"output_dir={tmp_path / 'unbroken'}")
    assert raw(tmp_path / "killed") == raw(tmp_path / "unbroken")
    assert "300 grids (0 failed)" in said
    assert not (tmp_path / "killed" / "parts").exists()
    stats = json.loads((tmp_path / "killed" / "grids-00000-of-00001.stats.json").read_text())
    assert stats["rows"] == 300
    assert stats["failed"] == {}
    assert stats["seconds"] > 0
    assert stats["bytes"] == (tmp_path / "killed" / "grids" / "grids-00000-of-00001.parquet").stat().st_size


def test_a_shard_s_size_in_mb(run, tmp_path) -> None:
    """64-pixel panels: 24,576 bytes a grid are reckoned, so 1 MB is 41 grids."""
    run("data_gen", "teacher=oracle", "num_grids=82", "rows_per_shard=null", "shard_mb=1", f"output_dir={tmp_path}")
    assert [
        len(load_dataset("parquet", data_files=str(f), split="train")) for f in sorted((tmp_path / "grids").iterdir())
    ] == [41, 41]


def test_killed_and_run_again_is_unbroken(run, start, tmp_path) -> None:
    command = ("teacher=oracle", "num_grids=400", "rows_per_shard=20")
    process = start("data_gen", *command, f"output_dir={tmp_path / 'killed'}")
    shards = tmp_path / "killed" / "grids"
    while len(list(shards.glob("grids-*.parquet"))) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {file: file.stat().st_mtime_ns for file in shards.glob("grids-*.parquet")}
    assert 3 <= len(before) < 20
    run("data_gen", *command, f"output_dir={tmp_path / 'killed'}")
    run("data_gen", *command, f"output_dir={tmp_path / 'unbroken'}")
    assert raw(tmp_path / "killed") == raw(tmp_path / "unbroken")
    assert all(file.stat().st_mtime_ns == made for file, made in before.items())  # nothing was made twice
    assert sorted(f.name for f in shards.iterdir()) == sorted(f"grids-{i:05d}-of-00020.parquet" for i in range(20))


def test_grids_load_as_a_public_data_set(grids) -> None:
    rows = load_dataset("parquet", data_dir=str(grids / "grids"), split="train")
    assert rows[0]["image"].size == (128, 128)
    assert [row["index"] for row in rows] == list(range(12))
    assert len(set(rows["seed"])) == 12


def test_a_batch_that_fails_is_recorded_and_counted(run, tmp_path) -> None:
    teacher = "teacher._target_=test_data_gen.FallsOver"
    said = run("data_gen", *ORACLE, teacher, f"output_dir={tmp_path}", "batch_size=1")
    failures = read_failures(tmp_path, "grids")
    assert [failure["index"] for failure in failures] == [3, 7, 11]
    assert all("out of paint" in failure["reason"] and failure["prompt"] for failure in failures)
    assert read_manifest(tmp_path, "data_gen")["counts"] == {"grids": 9, "failed": 3}
    assert "(3 failed)" in said


def test_a_run_without_any_grid_is_one_line(refused, tmp_path) -> None:
    """Whenever it is run, and no picture is named that is not there."""
    for _ in range(2):
        said = refused("data_gen", *ORACLE, "teacher._target_=test_data_gen.Broken", f"output_dir={tmp_path}")
        assert "no grid was drawn, the first because: ValueError('out of paint')" in said
        assert "overview.png" not in said
        assert not (tmp_path / "manifest.json").exists()


def test_a_picture_depends_on_its_seed_alone() -> None:
    teacher = PipelineTeacher(str(BASE), "float32", 16, 16, 16, 2, 3.5, EAGER, device="cpu")
    prompts = [Prompt(i, f"sheet {i}", "1x2", ["", ""], "", "same", "") for i in range(3)]
    teacher.prepare(prompts)
    together = teacher(prompts, [5, 6, 7])
    alone = teacher(prompts[1:2], [6])[0]
    assert alone.size == (32, 16)
    assert np.abs(np.asarray(together[1], int) - np.asarray(alone, int)).max() <= 1
    assert np.asarray(together[0]).tobytes() != np.asarray(together[1]).tobytes()


@pytest.mark.parametrize("steps", [1, 3])
def test_modulations_are_computed_once_a_batch(steps) -> None:
    """speed=exact computes ahead for the teacher, too: the same grids, and the norms' matrices run once."""
    prompts = [Prompt(i, f"sheet {i}", "1x2", ["", ""], "", "same", "") for i in range(2)]
    drawn, calls = [], []
    for speed in (EAGER, replace(EAGER, precompute=True)):
        teacher = PipelineTeacher(str(BASE), "float32", 16, 16, 16, steps, 3.5, speed, device="cpu")
        seen: list[int] = []
        norm = teacher.drawer.transformer.transformer_blocks[0].norm1.linear
        norm.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        teacher.prepare(prompts)
        drawn.append([np.asarray(grid, int) for _ in range(2) for grid in teacher(prompts, [5, 6])])
        calls.append(len(seen))
    assert calls == [2 * steps, 2]
    assert all(np.abs(ours - theirs).max() <= 1 for ours, theirs in zip(*drawn, strict=True))


def test_large_grids_are_decoded_one_by_one(monkeypatch) -> None:
    """A batch of 16 grids of 1024 pixels was decoded at once."""
    decoded: dict[bool, list[int]] = {}
    for large in (True, False):
        monkeypatch.setattr("dsd.data_gen.teachers.SLICED", 16 * 16 if large else 17 * 16)
        teacher = PipelineTeacher(str(BASE), "float32", 16, 16, 16, 2, 3.5, EAGER, device="cpu")
        seen = decoded[large] = []
        teacher.drawer.vae.decoder.register_forward_hook(lambda _, inputs, __, seen=seen: seen.append(len(inputs[0])))
        prompts = [Prompt(i, f"sheet {i}", "1x2", ["", ""], "", "same", "") for i in range(3)]
        teacher.prepare(prompts)
        teacher(prompts, [5, 6, 7])
    assert decoded == {True: [1, 1, 1], False: [3]}


def test_text_is_read_first_and_changes_nothing() -> None:
    """Every distinct prompt is encoded once, before the first grid, by encoders that the drawing pipeline lacks."""
    teacher = PipelineTeacher(str(BASE), "float32", 16, 16, 16, 2, 3.5, EAGER, device="cpu")
    calls: list[int] = []
    teacher.text.reader.text_encoder_2.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    prompts = [Prompt(i, f"sheet {i % 2}", "1x2", ["", ""], "", "same", "") for i in range(4)]
    teacher.prepare(prompts)
    assert calls == [2]
    assert all(part is None for name, part in teacher.drawer.components.items() if "text" in name or "token" in name)
    ours = teacher(prompts, [1, 2, 3, 4])
    assert calls == [2]
    stock = load_pipeline(str(BASE), "float32")
    theirs = stock(
        [prompt.prompt for prompt in prompts], generator=[torch.Generator().manual_seed(seed) for seed in (1, 2, 3, 4)],
        height=16, width=32, num_inference_steps=2, guidance_scale=3.5, max_sequence_length=16,
    ).images  # fmt: skip
    assert all(np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1 for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["num_grids=0"], "num_grids=0"),
        (["shard=2", "num_shards=2"], "shard=2"),
        (["seed=1"], "seed: 0 there, 1 now"),
        (["sede=1"], "sede"),
        (["num_grids=many"], "num_grids"),
        (["prompts.layout=3x7", "output_dir=other"], "3x7"),
        (["model.path=/nowhere", "teacher=pipeline", "output_dir=other"], "/nowhere"),
        (["device=warp", "teacher=pipeline", "output_dir=other"], "warp"),
    ],
)
def test_bad_input_is_one_line(refused, grids, tmp_path, monkeypatch, overrides, words) -> None:
    monkeypatch.chdir(tmp_path)
    before = raw(grids)
    defaults = ("teacher=oracle", "num_grids=12", "rows_per_shard=8", f"output_dir={grids}")
    names = {override.split("=")[0] for override in overrides}
    assert words in refused("data_gen", *(d for d in defaults if d.split("=")[0] not in names), *overrides)
    assert raw(grids) == before


def test_a_refused_first_run_takes_no_folder(run, refused, tmp_path) -> None:
    """Neither prompts nor a model that do not exist bind the folder to their config."""
    wanted = ("num_grids=2", f"output_dir={tmp_path}")
    assert "nowhere.jsonl" in refused("data_gen", *wanted, "prompts=jsonl", "prompts.path=nowhere.jsonl")
    assert "/nowhere" in refused("data_gen", *wanted, "model.path=/nowhere")
    run("data_gen", *wanted, "teacher=oracle")
    assert "seed: 0 there, 1 now" in refused("data_gen", *wanted, "teacher=oracle", "seed=1")


def test_a_full_disk_loses_nothing(run, refused, small_disk, tmp_path) -> None:
    """Parts and shards that were whole stay; with more space the same command goes on."""
    disk = small_disk("1m")
    command = ("teacher=oracle", "num_grids=160", "rows_per_shard=40", "batch_size=8", f"output_dir={disk / 'grids'}")
    assert "no space left on device" in refused("data_gen", *command)
    whole = {file: file.stat().st_mtime_ns for file in disk.rglob("grids-*.parquet")}
    assert whole
    small_disk("50m")
    run("data_gen", *command)
    run("data_gen", *command[:-1], f"output_dir={tmp_path / 'unbroken'}")
    assert raw(disk / "grids") == raw(tmp_path / "unbroken")
    assert all(file.stat().st_mtime_ns == made for file, made in whole.items())


def test_prompts_of_a_file(run, refused, tmp_path) -> None:
    file, command = tmp_path / "prompts.jsonl", ("prompts=jsonl", "teacher=oracle", "num_grids=3")
    panels = ["a red round critter, big, on the left, beach", "a red round critter, small, at right, snow, night"]
    row = {"prompt": "two panels of the same red round critter", "layout": "1x2", "panel_captions": panels}
    file.write_text(json.dumps(row) + "\n\n" + json.dumps(row | {"subject": "critter"}) + "\n")
    run("data_gen", *command, f"prompts.path={file}", f"output_dir={tmp_path / 'grids'}")
    grids = read_shards(tmp_path / "grids", "grids")
    assert [row["subject"] for row in grids] == ["", "critter", ""]
    assert grids[0]["image"].size == (128, 64)
    for bad, words in (
        (row | {"layuot": 1}, "prompts.jsonl:1: layuot: Extra inputs"),
        (row | {"prompt": " "}, "the prompt is empty"),
        (row | {"panel_captions": panels[:1]}, "list of 2"),
        (row | {"relation": "twin"}, "'twin'"),
        (row | {"layout": "9x9"}, "'9x9'"),
    ):
        file.write_text(json.dumps(bad))
        assert words in refused("data_gen", *command, f"prompts.path={file}", f"output_dir={tmp_path / 'bad'}")


def test_a_file_of_prompts_is_known_by_what_it_says(run, refused, tmp_path) -> None:
    """Moved, it is the same; edited, it is another."""
    panels = ["a red round critter, big, on the left, beach", "a red round critter, small, at right, snow, night"]
    row = {"prompt": "two panels\u2028of the same red round critter", "layout": "1x2", "panel_captions": panels}
    file, moved = tmp_path / "prompts.jsonl", tmp_path / "moved.jsonl"
    file.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    command = ("prompts=jsonl", "teacher=oracle", "num_grids=1", f"output_dir={tmp_path / 'grids'}")
    run("data_gen", *command, f"prompts.path={file}")
    assert read_shards(tmp_path / "grids", "grids")["prompt"] == [row["prompt"]]
    file.rename(moved)
    assert "done already" in run("data_gen", *command, f"prompts.path={moved}")
    moved.write_text(json.dumps(row | {"prompt": "two other panels of a red round critter"}))
    assert "inputs.prompts: " in refused("data_gen", *command, f"prompts.path={moved}")


PANELS = '"layout": "1x1", "panel_captions": ["a"]'


@pytest.mark.parametrize(
    "data",
    [
        b'{"prompt": null, %b}' % PANELS.encode(), b"[1, 2]", b"null", b'"a"', b"3", b"{", b"", b"\n\n",
        b'{"prompt": "caf\xe9", %b}' % PANELS.encode(), f'{{"prompt": "a", {PANELS}}}'.encode("utf-16"),
        b'{"prompt": "\\ud800", %b}' % PANELS.encode(), b'{"prompt": 3, %b}' % PANELS.encode(),
        b'{"prompt": "a", "layout": "1x1", "panel_captions": [null]}',
        b'{"prompt": "a", "layout": ["1x1"], "panel_captions": ["a"]}', None,
    ],
)  # fmt: skip
def test_any_file_of_prompts_is_prompts_or_one_line(tmp_path, data) -> None:
    file = tmp_path / "prompts.jsonl"
    os.mkfifo(file) if data is None else file.write_bytes(data)
    with pytest.raises(UserError, match=r"prompts\.jsonl"):
        JsonlPrompts(str(file))
