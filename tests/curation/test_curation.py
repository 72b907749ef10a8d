"""Grids -> pairs: who is judged, what is kept and why, and that thresholds cost no second judgement."""

import json
import shutil
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image, ImageFilter

from dsd.curation.judge import Judgement, Refusal
from dsd.curation.quality import quality
from dsd.curation.selection import Bounds, Selection, check_scores
from dsd.curation.verdicts import checked
from dsd.errors import UserError
from dsd.io.pictures import cut
from dsd.io.records import Grid, Verdict, features
from dsd.runs.manifest import read_manifest, write_manifest
from dsd.runs.shards import Shard, read_failures, read_shard, read_shards, write_shard
from dsd.toybox.judge import HeldOutSubjects, ToyboxJudge

UNCURATED = ("selection.require_same=false", "selection.minimum.confidence=null")


class Reluctant(ToyboxJudge):
    """Refuses every second pair that it is shown, as a provider's safety filter would."""

    def judge(self, references: Sequence[Image.Image], targets: Sequence[Image.Image]) -> list[Judgement | Refusal]:
        answers = super().judge(references, targets)
        return [Refusal("safety filter") if number % 2 else answer for number, answer in enumerate(answers)]


def rows(folder: Path, name: str) -> list[dict]:
    return read_shards(folder, name).with_format("arrow")[:].drop(["config_hash"]).to_pylist()


def test_every_panel_pair_is_judged_once_and_kept_in_both_directions(grids, pairs) -> None:
    verdicts, kept, rejected = (read_shards(pairs, name) for name in ("verdicts", "pairs", "rejected"))
    assert [(v["grid"], v["first"], v["second"]) for v in verdicts] == [
        (grid, first, second) for grid in range(12) for first in range(4) for second in range(first + 1, 4)
    ]
    assert len(kept) + len(rejected) == 2 * len(verdicts)
    assert len(kept) > 0.8 * 2 * len(verdicts)  # these sheets were drawn without error
    there = {(p["grid"], p["reference_panel"], p["target_panel"]) for p in kept}
    assert there == {(grid, target, reference) for grid, reference, target in there}
    sheets = read_shards(grids, "grids")
    for pair in kept.select(range(0, len(kept), 7)):
        sheet = sheets[pair["grid"]]
        panels = cut(sheet["image"], sheet["layout"])
        assert pair["image"].tobytes() == panels[pair["target_panel"]].tobytes()
        assert pair["conditioning"].tobytes() == panels[pair["reference_panel"]].tobytes()
        assert (pair["seed"], pair["prompt"]) == (sheet["seed"], sheet["prompt"])
    assert {"image", "conditioning", "caption"} <= set(load_dataset("parquet", data_dir=f"{pairs}/pairs")["train"][0])
    counts = read_manifest(pairs, "curation")["counts"]
    assert counts == {
        "judged": 72,
        "pairs": len(kept),
        "rejected": len(rejected),
        "refused": 0,
        "failed": 0,
        "unanswered": 0,
    }


def test_the_caption_describes_the_target(grids, pairs) -> None:
    asked = read_shards(grids, "grids")
    from dsd.toybox.grammar import read

    pair = read_shards(pairs, "pairs")[5]
    expected = read(asked[pair["grid"]]["panel_captions"][pair["target_panel"]])
    assert read(pair["caption"]) == expected
    assert read(pair["instruction"]) == {
        name: value for name, value in expected.items() if name not in ("colour", "body")
    }


def test_thresholds_are_swept_without_judging_again(run, grids, pairs, tmp_path) -> None:
    shared = f"verdicts_dir={pairs}"
    broken = "judge.path=/nowhere"  # would be refused if it were loaded, but belongs to what verdicts follow from
    run("curation", f"grids={grids}", f"output_dir={tmp_path / 'all'}", shared, *UNCURATED, "device=cpu")
    assert len(rows(tmp_path / "all", "pairs")) >= len(rows(pairs, "pairs"))
    strict = "selection.minimum.confidence=1.1"
    said = run("curation", f"grids={grids}", f"output_dir={tmp_path / 'none'}", shared, strict, code=2)
    assert "no pair was kept" in said
    said = run("curation", f"grids={grids}", f"output_dir={tmp_path / 'other'}", shared, broken, code=2)
    assert "belongs to another config" in said
    assert not (tmp_path / "all" / "verdicts").exists()


def test_killed_and_run_again_is_unbroken(run, start, grids, pairs, tmp_path) -> None:
    settings = (f"grids={grids}", f"output_dir={tmp_path}", "rows_per_shard=1", "batch_size=1", "device=cpu")
    process = start("curation", *settings)
    while len(list((tmp_path / "verdicts").glob("verdicts-*.parquet"))) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run("curation", *settings)
    for name in ("pairs", "rejected"):
        ours, theirs = rows(tmp_path, name), rows(pairs, name)
        assert [{**row, "scores": ""} for row in ours] == [{**row, "scores": ""} for row in theirs]
        for one, other in zip(ours, theirs, strict=True):  # sums in another order, in another batch
            assert json.loads(one["scores"]) == pytest.approx(json.loads(other["scores"]), abs=1e-4)
    assert "done already" in run("curation", *settings)


def test_refusals_are_failures_with_a_reason(run, grids, tmp_path) -> None:
    said = run("curation", f"grids={grids}", f"output_dir={tmp_path}", "judge._target_=test_curation.Reluctant")
    failures = read_failures(tmp_path, "verdicts")
    assert len(failures) == 36
    assert failures[0] == {"grid": 0, "first": 0, "second": 2, "reason": "safety filter"}
    assert read_manifest(tmp_path, "curation")["counts"]["refused"] == 36
    assert "36 refused" in said


def test_quality_of_a_panel(grids) -> None:
    panel = cut(read_shards(grids, "grids")[0]["image"], "2x2")[0]
    black, flat = Image.new("RGB", (64, 64)), Image.new("RGB", (64, 64), (90, 120, 200))
    blurred = panel.filter(ImageFilter.GaussianBlur(2))
    assert quality(black) == {"brightness": 0, "contrast": 0, "sharpness": 0}
    assert quality(flat)["contrast"] == 0 < 50 < quality(flat)["brightness"]
    assert quality(blurred)["sharpness"] < quality(panel)["sharpness"] / 20
    assert quality(blurred)["brightness"] == pytest.approx(quality(panel)["brightness"], abs=2)


def test_defective_panels_never_reach_the_judge(run, grids, tmp_path) -> None:
    source = read_shards(grids, "grids")[0]
    black = Image.new("RGB", (64, 64))
    blurred = cut(source["image"], "2x2")[0].filter(ImageFilter.GaussianBlur(2))
    source["image"].paste(blurred, (0, 0))
    source["image"].paste(black, (64, 64))
    folder = tmp_path / "grids"
    write_shard(Shard(0, 0, 1, folder / "grids" / "grids-00000-of-00001.parquet"), [Grid(**source)], features(Grid))
    write_manifest(folder, "data_gen", {"grids": 1}, config_hash="c0ffee")
    run(
        "curation",
        f"grids={folder}",
        f"output_dir={tmp_path / 'pairs'}",
        "device=cpu",
        "prefilter.minimum.sharpness=500",
    )
    found = read_shards(tmp_path / "pairs", "rejected")
    shows = [(row["rejection"], {row["reference_panel"], row["target_panel"]}) for row in found]
    black_ones = [reason for reason, panels in shows if 3 in panels]
    blurred_ones = [reason for reason, panels in shows if 0 in panels and 3 not in panels]
    assert len(black_ones) == 6
    assert len(blurred_ones) == 4
    assert all(reason == "low brightness: 0.000, the bound is 12: not shown to the judge" for reason in black_ones)
    assert all(reason.startswith("low sharpness: ") for reason in blurred_ones)


def test_sets_of_references_for_one_target(run, grids, tmp_path) -> None:
    run("curation", f"grids={grids}", f"output_dir={tmp_path}", *UNCURATED, "max_references=2", "rows_per_shard=5")
    pairs, sets = read_shards(tmp_path, "pairs"), read_shards(tmp_path, "sets")
    references: dict = {}
    for row in pairs:
        references.setdefault((row["grid"], row["target_panel"]), []).append(row)
    wanted = {key: rows[:2] for key, rows in references.items() if len(rows) > 1}
    assert [(row["grid"], row["target_panel"]) for row in sets] == sorted(wanted)
    for row in sets:
        chosen = sorted(references[row["grid"], row["target_panel"]], key=lambda r: r["reference_panel"])[:2]
        assert row["reference_panels"] == [r["reference_panel"] for r in chosen]
        assert [image.tobytes() for image in row["references"]] == [r["conditioning"].tobytes() for r in chosen]
        assert row["image"].tobytes() == chosen[0]["image"].tobytes()
        assert row["caption"] == chosen[0]["caption"]


def test_pairs_are_divided_as_verdicts_are(run, grids, tmp_path) -> None:
    """Two workers, three shards, no prefilter's shard lost: the same pairs as one worker makes."""
    parts = (f"grids={grids}", "num_shards=2", "rows_per_shard=5", f"output_dir={tmp_path / 'two'}")
    assert "others are still at work" in run("curation", *parts, "shard=1")
    run("curation", *parts, "shard=0")
    run("curation", f"grids={grids}", "rows_per_shard=12", f"output_dir={tmp_path / 'one'}")
    for name in ("pairs", "rejected"):
        two, one = (
            read_shards(tmp_path / folder, name).remove_columns(["config_hash", "scores"]) for folder in ("two", "one")
        )
        assert two.with_format("arrow")[:].equals(one.with_format("arrow")[:])
        assert sum(1 for _ in (tmp_path / "two" / name).iterdir()) == 3
    assert json.loads((tmp_path / "two" / "pairs-00001-of-00003.stats.json").read_text())["rows"] > 0


def test_a_full_disk_loses_nothing(run, refused, small_disk, grids, tmp_path) -> None:
    disk = small_disk("400k")
    settings = (f"grids={grids}", "rows_per_shard=2", *UNCURATED)
    assert "no space left on device" in refused("curation", *settings, f"output_dir={disk / 'pairs'}")
    assert list(disk.rglob("verdicts-*.parquet"))
    small_disk("50m")
    run("curation", *settings, f"output_dir={disk / 'pairs'}")
    run("curation", *settings, f"output_dir={tmp_path / 'unbroken'}")
    ours, theirs = (read_shards(f, "pairs").with_format("arrow")[:] for f in (disk / "pairs", tmp_path / "unbroken"))
    assert ours.drop(["config_hash"]).equals(theirs.drop(["config_hash"]))


@pytest.mark.parametrize(
    "key", ["selection.minimum.confidence", "prefilter.minimum.sharpness", "+prefilter.maximum.contrast"]
)
@pytest.mark.parametrize("bound", ["nan", "inf"])
def test_a_bound_of_nan_is_refused(refused, grids, tmp_path, key, bound) -> None:
    said = refused("curation", f"grids={grids}", f"output_dir={tmp_path / 'out'}", f"{key}={bound}")
    assert "a finite number is needed" in said
    assert not (tmp_path / "out").exists()


def zeroed(file: Path, begin: int, end: int) -> None:
    """Write zeros into a file, whose size stays."""
    data = bytearray(file.read_bytes())
    data[begin:end] = bytes(end - begin)
    file.write_bytes(data)


@pytest.mark.parametrize("place", [n / 40 for n in range(40)])
def test_damaged_verdicts_are_one_line(pairs, tmp_path, place) -> None:
    """Zeros in any place of a shard of verdicts: Parquet's checksums find them, unless they are in mere statistics."""
    source = pairs / "verdicts" / "verdicts-00000-of-00001.parquet"
    file = tmp_path / source.name
    shutil.copy(source, file)
    begin = int(place * file.stat().st_size)
    zeroed(file, begin, begin + 16)
    with suppress(UserError):
        found = checked(read_shard(file), str(file))
        assert [vars(verdict) for verdict in found] == read_shards(pairs, "verdicts").to_list()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scores": "{"}, "scores: "), ({"scores": "[1]"}, "not a JSON object"), ({"scores": '{"a": NaN}'}, "finite"),
        ({"first": 3, "second": 1}, "panels 3 and 1"), ({"grid": 77}, "which is not of this shard"),
        ({"second": 9}, "has no panel 9"), ({"grid": 0, "first": 0, "second": 1}, "a second verdict"),
    ],
)  # fmt: skip
def test_verdicts_that_make_no_sense_are_one_line(refused, grids, pairs, tmp_path, change, words) -> None:
    shutil.copytree(pairs / "verdicts_config", tmp_path / "old" / "verdicts_config")
    rows = read_shards(pairs, "verdicts").to_list()
    rows[5] |= change
    file = tmp_path / "old" / "verdicts" / "verdicts-00000-of-00001.parquet"
    write_shard(Shard(0, 0, 12, file), rows, features(Verdict))
    said = refused("curation", f"grids={grids}", f"verdicts_dir={tmp_path / 'old'}", f"output_dir={tmp_path / 'new'}")
    assert words in said


def test_a_damaged_picture_of_a_grid_is_a_failure(run, grids, tmp_path) -> None:
    """Its size is right, so the manifest says nothing; the other grids are judged."""
    folder = tmp_path / "grids"
    shutil.copytree(grids, folder)
    file = folder / "grids" / "grids-00000-of-00002.parquet"
    data = file.read_bytes()
    at = data.index(b"IDAT", data.index(b"IDAT") + 4) + 40
    zeroed(file, at, at + 60)
    said = run("curation", f"grids={folder}", f"output_dir={tmp_path / 'pairs'}", "device=cpu")
    failures = read_failures(tmp_path / "pairs", "verdicts")
    assert ["the picture is damaged" in failure["reason"] for failure in failures] == [True]
    assert read_manifest(tmp_path / "pairs", "curation")["counts"]["failed"] == 1
    assert "0 refused, 1 failed, 0 unanswered" in said


def test_panels_are_cut_row_by_row() -> None:
    sheet = Image.fromarray(np.arange(7 * 9 * 3, dtype=np.uint8).reshape(7, 9, 3))
    panels = cut(sheet, "2x2")
    assert [panel.size for panel in panels] == [(4, 3)] * 4
    assert [panel.getpixel((0, 0)) for panel in panels] == [
        sheet.getpixel(at) for at in ((0, 0), (4, 0), (0, 3), (4, 3))
    ]


def verdict(**fields: object) -> Verdict:
    told = {"same": True, "scores": json.dumps({"similarity": 0.8}), "defect": "", "reason": "alike"} | fields
    return Verdict(**{name: told.get(name, 0) for name in Verdict.__dataclass_fields__})


def test_why_a_pair_is_not_kept() -> None:
    bounded = Selection(bounds=Bounds({"similarity": 0.7, "confidence": None}, {"similarity": 0.9}))
    assert bounded.rejection(verdict()) == ""
    assert (
        bounded.rejection(verdict(same=False, reason="belly red and blue"))
        == "not the same subject: belly red and blue"
    )
    assert bounded.rejection(verdict(scores='{"similarity": 0.6}')) == "low similarity: 0.600, the bound is 0.7"
    assert bounded.rejection(verdict(scores='{"similarity": 0.95}')) == "high similarity: 0.950, the bound is 0.9"
    assert bounded.rejection(verdict(scores="{}")).startswith("no similarity: this score was not given")
    held_out = "a violet square critter with striped belly, red hat, round eyes"
    assert Selection(exclude=Never()).rejection(verdict(first_description=held_out)).startswith("evaluation subject")


class Never(HeldOutSubjects):
    """Excludes every pair."""

    def __call__(self, verdict: Verdict) -> bool:
        return True


def test_a_bound_names_a_score_that_somebody_gives() -> None:
    check_scores("selection", Bounds({"similarity": 1.0, "beauty": None}), ToyboxJudge.scores)
    with pytest.raises(UserError, match=r"selection\.maximum\.similarty: no such score \(did you mean similarity\?\)"):
        check_scores("selection", Bounds(maximum={"similarty": 1.0}), ToyboxJudge.scores)


def test_bounds_and_exclusions_that_cannot_work_are_refused_before_the_folder_is_claimed(
    refused, grids, tmp_path
) -> None:
    ask = (f"grids={grids}", f"output_dir={tmp_path / 'out'}", "judge.path=/nowhere")
    bound = refused("curation", *ask, "+selection.minimum.beauty=1")
    assert (
        "selection.minimum.beauty: no such score; the scores here are brightness, contrast, sharpness, similar" in bound
    )
    assert "prefilter.minimum.confidence: no such score" in refused("curation", *ask, "+prefilter.minimum.confidence=1")
    nowhere = refused("curation", *ask, "selection.exclude._target_=dsd.toybox.judge.nobody")
    assert "dsd.toybox.judge.nobody" in nowhere
    unknown = refused("curation", *ask, "selection.exclude._target_=collections.Counter")
    assert "selection.exclude: Counter does not say whose verdicts it reads" in unknown
    assert "judge._target_=collections.nobody" in refused("curation", *ask, "judge._target_=collections.nobody")
    assert not (tmp_path / "out").exists()


def test_bad_input_is_one_line(refused, grids, pairs, tmp_path) -> None:
    assert "dsd-data-gen" in refused("curation", f"grids={tmp_path / 'nothing'}", f"output_dir={tmp_path / 'a'}")
    assert "dsd-data-gen" in refused("curation", f"grids={pairs}", f"output_dir={tmp_path / 'b'}")
    cut_short = tmp_path / "grids"
    (cut_short / "grids").mkdir(parents=True)
    for file in (grids / "grids").iterdir():
        (cut_short / "grids" / file.name).write_bytes(file.read_bytes()[:5000])
    (cut_short / "manifest.json").write_text((grids / "manifest.json").read_text())
    assert "grids-00000-of-00002.parquet" in refused("curation", f"grids={cut_short}", f"output_dir={tmp_path / 'c'}")
    assert "confidance" in refused(
        "curation", f"grids={grids}", "selection.confidance=1", f"output_dir={tmp_path / 'd'}"
    )
    assert "at least 1 is needed" in refused("curation", f"grids={grids}", "max_references=0", f"output_dir={tmp_path}")


def test_verdicts_of_other_grids_and_of_other_versions_are_refused(run, refused, grids, pairs, tmp_path) -> None:
    """Verdicts belong to what the grids show, not to where they lie."""
    run("data_gen", "teacher=oracle", "num_grids=12", "rows_per_shard=8", "seed=1", f"output_dir={tmp_path / 'grids'}")
    ask = (f"verdicts_dir={pairs}", "device=cpu", "rows_per_shard=64")
    said = refused("curation", f"grids={tmp_path / 'grids'}", *ask, f"output_dir={tmp_path / 'out'}")
    assert "belongs to another config (inputs.grids: " in said
    assert "choose another verdicts_dir=" in said
    old = tmp_path / "old"
    shutil.copytree(pairs / "verdicts", old / "verdicts")
    (old / "verdicts_config").mkdir()
    (old / "verdicts_config" / "config.yaml").write_text("judge: {_target_: dsd.toybox.judge.ToyboxJudge}\n")
    said = refused("curation", f"grids={grids}", f"verdicts_dir={old}", f"output_dir={tmp_path / 'new'}")
    assert "was begun by dsd 0.1" in said
    assert "choose another verdicts_dir=" in said


def test_a_sweep_of_thresholds_leaves_one_table(run, grids, pairs, tmp_path) -> None:
    run("curation", "-m", f"grids={grids}", f"verdicts_dir={pairs}", "selection.minimum.confidence=0,0.5,0.99",
        f"hydra.sweep.dir={tmp_path}")  # fmt: skip
    lines = (tmp_path / "overview.csv").read_text().splitlines()
    columns = lines[0].split(",")
    assert "selection.minimum.confidence" in columns
    kept = [int(line.split(",")[columns.index("pairs")]) for line in lines[1:]]
    assert kept[0] >= kept[1] > kept[2]
    assert Image.open(tmp_path / "overview.png").width > 200
