"""Numbers of which less is better: who wins, what tables, plots and rankings say of them."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dsd.evaluate.arms import all_names, measure_arms
from dsd.evaluate.figures import measures_figure
from dsd.evaluate.formats import latex
from dsd.evaluate.raters import compare_rankings
from dsd.evaluate.scoring import Scored
from dsd.evaluate.table import tables
from dsd.metrics.measure import Drawing, Scale, Scores

SCALE = Scale(("error", "share"), headline="error", explained="", unit="share", units={"error": "px"}, lower=("error",))


def arm(error: float) -> list[Scored]:
    return [Scored(f"s{i}", "p", {"error": error + i, "share": 0.5}) for i in range(6)]


def summary_of(scale: Scale) -> dict[str, Any]:
    names = all_names([scale])
    arms, comparisons = measure_arms({"near": arm(0.1), "far": arm(3.0)}, names, 200, np.random.default_rng(0), "far")
    for row in arms.values():
        row["jobs"] = 6
    return {"measures": {"m": asdict(scale)}, "arms": arms, "comparisons": comparisons, "compared": names.compared,
            "published": None, "coverage": {}, "teacher": None, "curation": None}  # fmt: skip


@pytest.mark.parametrize(("lower", "won"), [(("error",), 1.0), ((), 0.0)])
def test_less_wins_where_less_is_better(lower, won) -> None:
    scale = Scale(SCALE.names, headline="error", explained="", lower=lower)
    found = summary_of(scale)["comparisons"]["near - far"]
    assert (found["value"], found["won"]["value"], found["apart"]) == (-2.9, won, True)


def test_tables_mark_the_direction() -> None:
    found = tables(summary_of(SCALE))
    assert found["arms m"][0] == ["arm", "runs", "pictures", "error ↓", "share"]
    assert found["comparisons"][0][0] == "error ↓ of"
    assert r"error $\downarrow$ & share" in latex(found["arms m"])


def test_each_unit_has_a_plot_that_holds_its_numbers() -> None:
    axes = measures_figure(summary_of(SCALE)).axes
    assert [one.get_xlabel() for one in axes] == ["px", "share"]
    assert [one.get_legend().get_texts()[0].get_text() for one in axes] == ["error ↓", "share"]
    assert axes[0].get_xlim()[1] > 5
    assert axes[1].get_xlim()[1] == pytest.approx(1.02)


class Darkness:
    """The mean grey level, named as more or as less is better."""

    grids = None

    def __init__(self, lower: tuple[str, ...]) -> None:
        self.scale = Scale(("grey",), headline="grey", explained="", lower=lower)

    def objection(self, prompt: str, truth: str) -> str:
        return ""

    def self_check(self) -> None:
        return

    def __call__(self, drawings: list[Drawing]) -> list[Scores]:
        return [{"grey": float(np.asarray(drawing.picture).mean())} for drawing in drawings]


@pytest.mark.parametrize(("lower", "first"), [(("grey",), 1.0), ((), 0.0)])
def test_rankings_put_the_least_first(lower, first, tmp_path) -> None:
    """People like the darkest best."""
    folder = tmp_path / "images" / "a"
    folder.mkdir(parents=True)
    names = ["dark.png", "grey.png", "light.png"]
    for name, level in zip([*names, "ref.png"], (10, 100, 200, 10), strict=True):
        Image.new("RGB", (8, 8), (level,) * 3).save(folder / name)
    listed = '["light.png", "dark.png", "grey.png"]', '["dark.png", "grey.png", "light.png"]'
    (tmp_path / "consistency_full_rank.jsonl").write_text(
        f'{{"folder": "a", "ref_image": "ref.png", "comp_images": {listed[0]}, "rank_images": {listed[1]}}}\n'
    )
    found = compare_rankings(str(tmp_path), {"m": Darkness(lower)}, 100, 0)
    assert found["grey"]["top1_accuracy"]["value"] == first
