"""The numbers of an evaluation, on pictures whose truth is known."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worlds import PixelRecogniser, grids_run, infer_run

from dsd.evaluate.accuracy import Judged, count_reasons, filters, measure_curation, thresholds
from dsd.evaluate.arms import all_names, measure_arms
from dsd.evaluate.consistency import measure_teacher, score_grids
from dsd.evaluate.scoring import Scored, same_jobs, score_results
from dsd.metrics.intervals import Estimate
from dsd.metrics.measure import Scale
from dsd.runs.shards import read_shards
from dsd.toybox.measure import ToyboxGrids, ToyboxMeasure

RESAMPLES = 300


def scored_runs(tmp_path: Path, **methods: tuple[str, dict[str, Any]]) -> tuple[dict[str, list[Scored]], ToyboxMeasure]:
    """{run: (method, options)} -> scored jobs by run, and the measure that scored them."""
    measure = ToyboxMeasure(PixelRecogniser())
    results = {
        run: read_shards(infer_run(tmp_path / run, method, **options), "results")
        for run, (method, options) in methods.items()
    }
    return score_results(results, {"toybox": measure}, batch_size=5), measure


def arms_of(scored: Mapping[str, list[Scored]], baseline: str | None = None) -> tuple[dict, dict[str, Estimate]]:
    names = all_names([ToyboxMeasure.scale])
    return measure_arms(scored, names, RESAMPLES, np.random.default_rng(0), baseline)


def test_a_perfect_student_scores_one_and_copying_keeps_the_subject_alone(tmp_path) -> None:
    scored, measure = scored_runs(
        tmp_path, student=("perfect", {}), copy_paste=("copy_paste", {}), text_only=("text_only", {"num": 12})
    )
    arms, comparisons = arms_of(scored)
    assert all(arms["student"][name]["value"] == 1 for name in ("CP", "CP_strict", "PF", "CPxPF", "named"))
    assert arms["copy_paste"]["CP"]["value"] == 1
    assert arms["copy_paste"]["PF"]["value"] < 0.6
    assert arms["text_only"]["PF"]["value"] == arms["text_only"]["named"]["value"] == 1
    assert arms["text_only"]["CP"]["value"] < 0.5
    ratio = comparisons["student / text_only"]
    assert ratio["value"] == pytest.approx(1 / arms["text_only"]["CPxPF"]["value"], rel=1e-3)
    assert ratio["low"] < ratio["value"] < ratio["high"]
    assert measure.self_check().numbers["accuracy"] == 1
    assert same_jobs(scored.values())


def test_every_arm_is_compared_with_a_chosen_baseline(tmp_path) -> None:
    scored, _ = scored_runs(tmp_path, a=("text_only", {}), b=("perfect", {}), c=("perfect", {}))
    arms, comparisons = arms_of(scored, baseline="a")
    assert list(comparisons) == ["b - a", "c - a"]
    gained = comparisons["b - a"]
    assert gained["value"] == pytest.approx(1 - arms["a"]["CPxPF"]["value"], abs=1e-4)
    assert 0 < gained["low"] < gained["value"] < gained["high"]


def test_an_unknown_truth_is_read_off_the_reference(tmp_path) -> None:
    scored, measure = scored_runs(tmp_path, student=("perfect", {"truth": ""}))
    assert all(job.scores["CP"] == 1 for job in scored["student"])
    assert measure.self_check() is None


def test_a_missing_number_is_not_a_zero() -> None:
    """A judge refused two of four pictures: the mean is over the others, and n says so."""
    names = all_names([Scale(("A", "B", "AxB"), headline="AxB", explained="", products={"AxB": ("A", "B")})])
    jobs = [Scored(str(i), "", {"A": 0.5, **({"B": 1.0} if i < 2 else {})}) for i in range(4)]
    arms, _ = measure_arms({"x": jobs}, names, RESAMPLES, np.random.default_rng(0))
    assert {name: (arms["x"][name]["value"], arms["x"][name]["n"]) for name in names.names} == {
        "A": (0.5, 4), "B": (1.0, 2), "AxB": (0.5, 2)
    }  # fmt: skip
    nothing = [Scored("0", "", {"A": 0.5})]
    arms, _ = measure_arms({"x": nothing}, names, RESAMPLES, np.random.default_rng(0))
    assert arms["x"]["B"] == {"value": None, "low": None, "high": None, "n": 0}
    assert arms["x"]["runs"]["x"] == {"A": 0.5, "B": None, "AxB": None}


def test_runs_of_one_arm_are_averaged_and_widen_its_interval(tmp_path) -> None:
    scored, _ = scored_runs(tmp_path, a=("perfect", {}), b=("text_only", {}), c=("text_only", {"seed": 1}))
    one, _ = arms_of({"text_only": scored["b"]})
    two, _ = arms_of({"x/0": scored["a"], "x/1": scored["b"]})
    value = two["x"]["CP"]["value"]
    assert value == pytest.approx((1 + one["text_only"]["CP"]["value"]) / 2, abs=1e-4)
    assert set(two["x"]["runs"]) == {"x/0", "x/1"}
    assert two["x"]["CP"]["low"] < one["text_only"]["CP"]["high"]
    assert two["x"]["CP"]["high"] == 1, "both runs drawn may be the perfect one"


def test_the_teacher_of_true_grids_agrees_but_where_it_was_spoilt(tmp_path) -> None:
    grids = read_shards(grids_run(tmp_path / "grids", num=8, odd=2), "grids")
    measure = ToyboxGrids(PixelRecogniser())
    scored = list(score_grids(grids, measure, batch_size=9).values())
    teacher = measure_teacher(scored, measure.scale, RESAMPLES, np.random.default_rng(0))
    assert teacher["PF"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 32}
    assert teacher["agreement"]["n"] == 48
    assert teacher["agreement"]["value"] == teacher["agreement_of"]["belly"]["value"] == 1 - 6 / 48
    assert teacher["agreement_of"]["eyes"]["value"] == teacher["agreement_named"]["value"] == 1
    assert teacher["chance"]["agreement"] == pytest.approx(1 / (8 * 5 * 8 * 3), abs=1e-6)


def test_precision_and_recall_of_selection_and_of_similarity() -> None:
    def pair(grid, said_same, kept, is_same, similarity):
        return Judged(grid, said_same, kept, is_same, similarity)

    judged = [
        pair(0, True, True, True, 0.9),
        pair(0, True, True, False, 0.8),
        pair(1, True, False, True, 0.7),
        pair(1, False, False, True, 0.3),
        pair(2, False, False, False, 0.5),
    ]
    found = measure_curation(judged, RESAMPLES, np.random.default_rng(0))
    assert (found["num_pairs"], found["num_same"]) == (5, 3)
    assert [found["kept"][k]["value"] for k in ("precision", "recall")] == [0.5, round(1 / 3, 4)]
    assert [found["verdict_same"][k]["value"] for k in ("precision", "recall")] == [round(2 / 3, 4)] * 2
    assert found["similarity_at_judge_recall"]["threshold"] == 0.7
    assert found["similarity_best_f1"]["threshold"] == 0.3
    assert found["similarity_best_f1"]["recall"]["value"] == 1


def test_each_filter_by_itself_and_all_together() -> None:
    """Pairs that a cheap filter threw out count against it, and have no score of the judge's."""
    bounds = filters({"prefilter": {"minimum": {"sharpness": 2}}, "selection": {"maximum": {"similarity": 0.9}}})

    def pair(grid: int, said_same: bool, is_same: bool, kept: bool, **scores: float) -> Judged:
        passes = {name: passes(scores) for name, passes in bounds.items()}
        return Judged(grid, said_same, kept, is_same, scores.get("similarity"), "similarity" in scores, passes)

    every = [
        pair(0, True, True, True, sharpness=3, similarity=0.8),
        pair(0, True, True, False, sharpness=3, similarity=0.95),
        pair(1, True, False, True, sharpness=3, similarity=0.7),
        pair(1, False, True, False, sharpness=1),
    ]
    found = measure_curation(every, RESAMPLES, np.random.default_rng(0))
    third = round(1 / 3, 4)
    assert {name: [row[k]["value"] for k in ("precision", "recall")] for name, row in found["filters"].items()} == {
        "sharpness ≥ 2": [round(2 / 3, 4), round(2 / 3, 4)],
        "similarity ≤ 0.9": [0.5, third],
        "the judge says same": [round(2 / 3, 4), round(2 / 3, 4)],
        "all together": [0.5, third],
    }
    assert found["num_pairs"] == 3


def test_equal_similarities_are_kept_together() -> None:
    similarity = np.array([0.9, 0.5, 0.5, 0.5])
    truth = np.array([True, True, False, False])
    chosen = thresholds(similarity, truth, said_same=np.array([True, False, False, False]))
    assert chosen == {"best_f1": 0.9, "at_judge_recall": 0.9}


def test_no_pairs_at_all_are_no_error() -> None:
    found = measure_curation([], RESAMPLES, np.random.default_rng(0))
    assert found["kept"]["precision"]["value"] is None


def test_reasons_are_counted_by_class() -> None:
    counts = count_reasons(["low confidence: 0.3", "not the same subject: belly", "low confidence: 0.1", "black panel"])
    assert counts == {"low confidence": 2, "not the same subject": 1, "black panel": 1}
    assert all(a >= b for a, b in pairwise(counts.values()))
