import json
from itertools import pairwise

import numpy as np
import pytest
from worlds import PixelRecogniser, grids_run, infer_run

from dsd.evaluate.__main__ import score_results
from dsd.evaluate.judged import Judged, count_reasons, filters, measure_curation, thresholds
from dsd.evaluate.measures import chance, measure_arms, same_jobs, score
from dsd.evaluate.sheets import measure_teacher, read_sheets
from dsd.metrics.intervals import estimate, share, unit_weights
from dsd.runs.shards import read_shards
from dsd.toybox import captions
from dsd.toybox.world import SUBJECT, sample_contexts, sample_subjects, words

RESAMPLES = 300


def scored_runs(tmp_path, **methods):
    """{run: (method, options)} -> scored jobs by run."""
    results = {
        run: read_shards(infer_run(tmp_path / run, method, **options), "results")
        for run, (method, options) in methods.items()
    }
    return score_results(results, PixelRecogniser(), batch_size=5)


def test_a_perfect_student_scores_one_and_copying_keeps_the_subject_alone(tmp_path) -> None:
    scored, accuracy = scored_runs(
        tmp_path, student=("perfect", {}), copy_paste=("copy_paste", {}), text_only=("text_only", {"num": 12})
    )
    arms, comparisons = measure_arms(scored, RESAMPLES, np.random.default_rng(0))
    assert all(arms["student"][name]["value"] == 1 for name in ("CP", "CP_strict", "PF", "CPxPF", "named"))
    assert arms["copy_paste"]["CP"]["value"] == 1
    assert arms["copy_paste"]["PF"]["value"] < 0.6
    assert arms["text_only"]["PF"]["value"] == arms["text_only"]["named"]["value"] == 1
    assert arms["text_only"]["CP"]["value"] < 0.5
    ratio = comparisons["student / text_only"]
    assert ratio["value"] == pytest.approx(1 / arms["text_only"]["CPxPF"]["value"], rel=1e-3)
    assert ratio["low"] < ratio["value"] < ratio["high"]
    assert accuracy["accuracy"] == 1
    assert same_jobs(scored.values())


def test_every_arm_is_compared_with_a_chosen_baseline(tmp_path) -> None:
    scored, _ = scored_runs(tmp_path, a=("text_only", {}), b=("perfect", {}), c=("perfect", {}))
    arms, comparisons = measure_arms(scored, RESAMPLES, np.random.default_rng(0), baseline="a")
    assert list(comparisons) == ["b - a", "c - a"]
    gained = comparisons["b - a"]
    assert gained["value"] == pytest.approx(1 - arms["a"]["CPxPF"]["value"], abs=1e-4)
    assert 0 < gained["low"] < gained["value"] < gained["high"]


def test_strangers_score_what_chance_says(tmp_path) -> None:
    """4,000 random subjects against random truths: CP and its parts come out at their expected values."""
    rng = np.random.default_rng(0)
    rows, others = sample_subjects(rng, 4000), sample_subjects(rng, 4000)
    prompt = "a red round critter, big, on the left, meadow"
    seen = {"scene": "snow", "position": "left", "size": "big", "tilt": "upright", "light": "day"}
    scores = [score(words(other, SUBJECT) | seen, words(row, SUBJECT), prompt) for row, other in zip(rows, others)]
    for name, expected in chance().items():
        if name in scores[0] and name != "PF":
            assert np.mean([s[name] for s in scores]) == pytest.approx(expected, abs=0.02), name
    assert scores[0]["PF"] == pytest.approx(4 / 5)


def test_an_unknown_truth_is_read_off_the_reference(tmp_path) -> None:
    scored, accuracy = scored_runs(tmp_path, student=("perfect", {"truth": ""}))
    assert all(job.measures["CP"] == 1 for job in scored["student"])
    assert accuracy == {}


def test_runs_of_one_arm_are_averaged_and_widen_its_interval(tmp_path) -> None:
    scored, _ = scored_runs(tmp_path, a=("perfect", {}), b=("text_only", {}), c=("text_only", {"seed": 1}))
    one, _ = measure_arms({"text_only": scored["b"]}, RESAMPLES, np.random.default_rng(0))
    two, _ = measure_arms({"x/0": scored["a"], "x/1": scored["b"]}, RESAMPLES, np.random.default_rng(0))
    value = two["x"]["CP"]["value"]
    assert value == pytest.approx((1 + one["text_only"]["CP"]["value"]) / 2, abs=1e-4)
    assert set(two["x"]["runs"]) == {"x/0", "x/1"}
    assert two["x"]["CP"]["low"] < one["text_only"]["CP"]["high"]
    assert two["x"]["CP"]["high"] == 1, "both runs drawn may be the perfect one"


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Shares of correlated units: of 200 intervals about 95 % hold the true mean (a binomial's slack: 89 %)."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        hits = 4.0 * (rng.random(60) < 0.6)  # all four jobs of a reference succeed or fail together
        found = estimate(share(unit_weights(rng, 60, 400), hits, np.full(60, 4.0)), 240)
        covered += found["low"] <= 0.6 <= found["high"]
    assert 0.89 <= covered / 200 <= 0.995


def test_a_share_of_nothing_is_null() -> None:
    weights = unit_weights(np.random.default_rng(0), 3, 10)
    nothing = estimate(share(weights, np.zeros(3), np.zeros(3)), 0)
    assert nothing == {"value": None, "low": None, "high": None, "n": 0}
    assert json.loads(json.dumps(nothing, allow_nan=False)) == nothing


def test_the_teacher_of_true_sheets_agrees_but_where_it_was_spoilt(tmp_path) -> None:
    grids = read_shards(grids_run(tmp_path / "grids", num=8, odd=2), "grids")
    sheets = read_sheets(grids, PixelRecogniser(), batch_size=7)
    teacher = measure_teacher(list(sheets.values()), RESAMPLES, np.random.default_rng(0))
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


def test_prompts_settle_the_whole_context() -> None:
    rng = np.random.default_rng(0)
    said = captions.read(captions.panel(rng, sample_subjects(rng, 1)[0], sample_contexts(rng, 1)[0]))
    assert len(said) == 7
