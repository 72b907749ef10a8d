"""Evaluation knows nothing of the toybox: another measure alone is enough, and the toybox's refuses what is foreign."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from worlds import curated_run, grids_run, infer_run, leave

from dsd.io.records import Result
from dsd.runs.shards import read_shards

SIMILAR = ["measure=[similarity]", "~measure.clip", "~measure.dino", "device=cpu", "num_resamples=200"]


def foreign_run(folder: Path, prompt: str = "a porcelain robot in a kitchen") -> Path:
    """Results whose subjects and prompts have nothing to do with the toybox."""
    made = read_shards(infer_run(folder.with_name("source"), "copy_paste", num=6), "results")
    rows = [Result(**{**row, "prompt": f"{prompt}, number {i}", "truth": ""}) for i, row in enumerate(made)]
    return leave(folder, "infer", {"results": (Result, rows)})


def test_teachers_without_truth_are_compared_by_yield_and_cost(run, embedding: Path, tmp_path: Path) -> None:
    pairs = curated_run(tmp_path / "pairs", grids_run(tmp_path / "grids"), seconds=9.0)
    (pairs / "config.yaml").write_text(f"grids: {tmp_path / 'grids'}\n")
    path, out = f"measure.dinov2.features.path={embedding}", tmp_path / "report"
    said = run("evaluate", *SIMILAR, path, f"teachers={{one: {pairs}}}", f"output_dir={out}")
    assert "can tell whether two panels show one subject" in said
    found = json.loads((out / "summary.json").read_text())["teachers"]["one"]
    assert (found["precision"], found["recall"], found["entropy"]) == (None, None, {})
    assert found["kept_per_1000_s"] == pytest.approx(1000 * found["kept"] / 50, abs=0.1)


def test_similarity_alone_is_enough(run: Callable[..., str], embedding: Path, tmp_path: Path) -> None:
    student = foreign_run(tmp_path / "student")
    other = infer_run(tmp_path / "other", "text_only")
    run("evaluate", f"results={{student: {student}, text_only: {other}}}", f"measure.dinov2.features.path={embedding}",
        f"output_dir={tmp_path / 'report'}", *SIMILAR)  # fmt: skip
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert list(summary["measures"]) == ["dinov2"]
    copied, drawn = (summary["arms"][arm]["dinov2_image"] for arm in ("student", "text_only"))
    assert copied["value"] == pytest.approx(1, abs=1e-4)
    assert drawn["value"] < 1
    assert summary["compared"] == "dinov2_image"
    assert list(summary["comparisons"]) == ["student / text_only"]
    html = (tmp_path / "report" / "report.html").read_text()
    assert "dinov2 image 1.00" in html
    assert "critter" not in html.split('id="gallery"')[0]


def test_both_measures_at_once(run: Callable[..., str], embedding: Path, tmp_path: Path) -> None:
    student, grids = infer_run(tmp_path / "student", "perfect"), grids_run(tmp_path / "grids")
    chosen = [
        "measure=[toybox,similarity]",
        "~measure.clip",
        "~measure.dino",
        f"measure.dinov2.features.path={embedding}",
    ]
    run("evaluate", f"results={{student: {student}}}", f"grids={grids}", *chosen, "num_resamples=200", "device=cpu",
        "measure.toybox.recogniser._target_=worlds.PixelRecogniser", f"output_dir={tmp_path / 'report'}")  # fmt: skip
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["arms"]["student"]["CPxPF"]["value"] == 1
    assert 0 < summary["arms"]["student"]["dinov2_image"]["value"] < 1
    assert summary["teacher"]["agreement"]["value"] == 0.875
    assert summary["compared"] == "CPxPF"
    assert summary["left_out"] == ""


def test_without_a_measure_of_grids_their_sections_are_left_out_and_it_is_said(
    run: Callable[..., str], embedding: Path, tmp_path: Path
) -> None:
    student, grids = foreign_run(tmp_path / "student"), grids_run(tmp_path / "grids")
    curated = curated_run(tmp_path / "curated", grids)
    said = run("evaluate", f"results={{student: {student}}}", f"grids={grids}", f"curated={curated}", *SIMILAR,
               f"measure.dinov2.features.path={embedding}", f"output_dir={tmp_path / 'report'}")  # fmt: skip
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["teacher"] is None
    assert summary["curation"]["accuracy"] is None
    assert summary["curation"]["kept"] > 0
    assert "no measure (dinov2) can tell whether two panels show one subject" in said
    html = (tmp_path / "report" / "report.html").read_text()
    assert "Left out: no measure (dinov2) can tell" in html
    assert "●" not in html


def test_the_toybox_s_measure_refuses_foreign_prompts(refused: Callable[..., str], tmp_path: Path) -> None:
    student = foreign_run(tmp_path / "student")
    said = refused("evaluate", f"results={{student: {student}}}", f"output_dir={tmp_path / 'report'}", "device=cpu")
    assert "results.student, job 000: measure toybox cannot score it" in said
    assert "porcelain, robot, kitchen" in said
    assert not (tmp_path / "report" / "summary.json").exists()


def test_two_measures_with_one_name_are_refused(refused: Callable[..., str], embedding: Path, tmp_path: Path) -> None:
    student = infer_run(tmp_path / "student", "perfect", num=2)
    again = (
        "+measure.again={_target_: dsd.metrics.similarity.Similarity, features: {_target_: "
        f"dsd.models.embeddings.TransformersFeatures, name: dinov2, path: {embedding}}}}}"
    )
    said = refused("evaluate", f"results={{student: {student}}}", *SIMILAR, again,
                   f"measure.dinov2.features.path={embedding}", f"output_dir={tmp_path / 'report'}")  # fmt: skip
    assert "dinov2 and again both give dinov2_image" in said


def test_evaluation_imports_no_toybox() -> None:
    code = (
        "import sys, pkgutil, importlib, dsd.evaluate, dsd.metrics\n"
        "for room in (dsd.evaluate, dsd.metrics):\n"
        "    for module in pkgutil.walk_packages(room.__path__, room.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "print([name for name in sys.modules if name.startswith('dsd.toybox')])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
