"""dsd-curate geometry=: what moved or was repainted never reaches the judge; bounds are swept without judging again."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops
from worlds import leave, pictures

from dsd.curation.judging import Candidate, comparable
from dsd.io.records import Grid
from dsd.runs.shards import Failure, read_shards
from dsd.toybox.world import CONTEXT, SUBJECT, sample_contexts, sample_subjects

ALIGNED, MOVED, REPAINTED = range(0, 4), range(4, 7), range(7, 10)  # grids by number


@pytest.fixture(scope="module")
def relit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grids of one picture in two lights; in some the second panel is shifted by 3 pixels, in some another critter."""
    rng = np.random.default_rng(11)
    subjects, contexts = sample_subjects(rng, 10), sample_contexts(rng, 10)
    light, colour = list(CONTEXT).index("light"), list(SUBJECT).index("colour")
    contexts[:, light] = 0
    lit, others = contexts.copy(), subjects.copy()
    lit[:, light] = 1
    others[REPAINTED, colour] = (others[REPAINTED, colour] + 1) % len(SUBJECT["colour"])
    rows = []
    for i, (first, second) in enumerate(zip(pictures(subjects, contexts), pictures(others, lit), strict=True)):
        grid = Image.new("RGB", (128, 64))
        grid.paste(first, (0, 0))
        grid.paste(ImageChops.offset(second, 3, 0) if i in MOVED else second, (64, 0))
        rows.append(Grid(i, grid, "a critter twice", "1x2", ["", ""], "critter", "relight", i, 128, 64, "c0ffee"))
    return leave(tmp_path_factory.mktemp("relit") / "grids", "data_gen", {"grids": (Grid, rows)}, seconds=1.0)


def settings(grids: Path, folder: Path, *more: str, geometry: str = "[flow,edges,light,residual]") -> tuple[str, ...]:
    return (
        f"grids={grids}", f"output_dir={folder}", "judge=toybox_relight", f"geometry={geometry}",
        "selection.minimum.confidence=null", "selection.exclude=null", "device=cpu", *more,
    )  # fmt: skip


CONTRACT = ("+prefilter.maximum={drift: 0.5, residual: 45}", "+prefilter.minimum.light_change=5")


def test_what_moved_or_was_repainted_is_rejected_without_the_judge(run, relit, tmp_path) -> None:
    run("curation", *settings(relit, tmp_path, *CONTRACT))
    verdicts = {row["grid"]: row for row in read_shards(tmp_path, "verdicts")}
    assert [verdicts[i]["defect"].split(":")[0] for i in range(10)] == (
        [""] * len(ALIGNED) + ["high drift"] * len(MOVED) + ["high residual"] * len(REPAINTED)
    )
    assert {verdicts[i]["first_caption"] for i in (*MOVED, *REPAINTED)} == {""}, "nobody was asked about them"
    kept = {row["grid"] for row in read_shards(tmp_path, "pairs")}
    assert kept <= set(ALIGNED)
    assert len(kept) >= len(ALIGNED) - 1
    scores = json.loads(verdicts[MOVED[0]]["scores"])
    assert {"drift", "drift_p95", "edge_f1", "light_change", "brightness_change", "warmth_change", "residual"} <= set(
        scores
    )
    assert scores["drift"] == pytest.approx(3, abs=0.3)


def test_bounds_of_the_selection_are_swept_without_judging_again(run, relit, tmp_path) -> None:
    shared = (f"verdicts_dir={tmp_path / 'verdicts'}", "selection.require_same=false")
    run("curation", *settings(relit, tmp_path / "all", *shared))
    run("curation", *settings(relit, tmp_path / "still", *shared, "+selection.maximum.drift=0.5"))
    grids = [{row["grid"] for row in read_shards(tmp_path / name, "pairs")} for name in ("all", "still")]
    assert grids == [set(range(10)), {*ALIGNED, *REPAINTED}]
    assert not (tmp_path / "still" / "verdicts").exists()


@pytest.mark.parametrize(
    ("geometry", "given", "said"),
    [
        ("edges", ["+prefilter.maximum.drift=1"], "prefilter.maximum.drift: no such score without geometry=[flow]"),
        ("[flow]", ["+prefilter.maximum.drfit=1"], "prefilter.maximum.drfit: no such score (did you mean drift?)"),
        ("[flow,shape]", [], "shape"),
        ("depth", ["geometry.depth.path=nowhere"], "geometry.depth.path=nowhere: cannot be loaded"),
        ("patches", ["geometry.patches.checkpoint=weights.bin"], "a safetensors file is needed"),
    ],
)
def test_a_wrong_contract_is_one_line_before_any_work(refused, relit, tmp_path, geometry, given, said) -> None:
    assert said in refused("curation", *settings(relit, tmp_path / "pairs", *given, geometry=geometry))
    assert not (tmp_path / "pairs" / "verdicts").exists()


def test_panels_of_two_sizes_are_a_failure_that_says_so() -> None:
    wide, narrow = Image.new("RGB", (64, 48)), Image.new("RGB", (60, 48))
    fine, unequal = Candidate(0, 0, 1, wide, wide), Candidate(1, 0, 1, wide, narrow)
    pairs, (failure,) = comparable([fine, unequal])
    assert pairs == [fine]
    said = "pictures of 64x48 and 60x48 pixels cannot be compared by geometry=; cut grids by panels=exact"
    assert failure == Failure({"grid": 1, "first": 0, "second": 1}, f"failed: {said}")
