"""Teachers side by side, on folders whose truth is known."""

import json
from pathlib import Path

import pytest
import torch
from tiny_embeddings import tiny_clip
from worlds import curated_run, grids_run

from dsd.evaluate.teachers import distinct, entropy


@pytest.fixture
def teachers(tmp_path: Path) -> str:
    """Two teachers; in 1 and 5 of their 8 grids a panel shows another subject, and the judge errs once each."""
    for name, odd in (("good", 1), ("bad", 5)):
        grids = grids_run(tmp_path / name / "grids", odd=odd)
        pairs = curated_run(tmp_path / name / "pairs", grids, seconds=9.0)
        (pairs / "config.yaml").write_text(f"grids: {grids}\n")
    return f"teachers={{good: {tmp_path / 'good/pairs'}, bad: {tmp_path / 'bad/pairs'}}}"


def test_a_table_has_a_row_for_each_teacher(run, teachers, tmp_path) -> None:
    command = (teachers, f"output_dir={tmp_path / 'report'}", "num_resamples=200",
               "measure.toybox.recogniser._target_=worlds.PixelRecogniser")  # fmt: skip
    run("evaluate", *command)
    good, bad = json.loads((tmp_path / "report" / "summary.json").read_text())["teachers"].values()
    assert good["yield"]["value"] == pytest.approx(good["kept"] / (8 * 4 * 3), abs=1e-4)
    assert good["yield"]["value"] > bad["yield"]["value"]
    assert 1 > good["precision"]["value"] > bad["precision"]["value"]
    assert good["kept_per_1000_s"] == pytest.approx(1000 * good["kept"] / (41 + 9), abs=0.1)
    assert 0 < good["entropy"]["named"]["value"] <= good["entropy"]["named"]["most"] == 5
    header, _, *rows = (tmp_path / "report" / "table.md").read_text().splitlines()
    assert "named, of 5.00 bits" in header
    assert [row.split()[1] for row in rows] == ["good", "bad"]
    assert "done already" in run("evaluate", *command)


def test_an_embedding_counts_distinct_subjects(run, teachers, tmp_path) -> None:
    run("evaluate", teachers, "measure=similarity", "~measure.dinov2", "~measure.dino",
        "measure.clip.features.pretrained=null", f"measure.clip.features.model=local-dir:{tiny_clip(tmp_path)}",
        f"output_dir={tmp_path / 'report'}")  # fmt: skip
    found = json.loads((tmp_path / "report" / "summary.json").read_text())["teachers"]
    assert all(1 < teacher["distinct"]["clip"] <= 8 and not teacher["entropy"] for teacher in found.values())
    assert "distinct by clip" in (tmp_path / "report" / "table.md").read_text()


def test_bad_input_is_one_line(refused, teachers, tmp_path) -> None:
    assert "leave out results=" in refused("evaluate", teachers, "results={student: x}")
    (tmp_path / "good" / "pairs" / "config.yaml").write_text("seed: 0\n")
    assert "names no grids; curate again" in refused("evaluate", teachers)


def test_entropy_is_counted_in_bits() -> None:
    assert [entropy(counts) for counts in ([1, 1, 1, 1], [4], [2, 2])] == [2, 0, 1]


def test_distinct_pictures_are_counted() -> None:
    same, four = torch.nn.functional.normalize(torch.ones(8, 4), dim=1), torch.eye(4).repeat(2, 1)
    assert distinct(same) == pytest.approx(1)
    assert distinct(four) == pytest.approx(4)
