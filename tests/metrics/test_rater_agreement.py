"""Agreement: alpha as its literature computes it, rankings as ConsistencyRank-Bench does, intervals that cover."""

import math

import numpy as np
import pytest

from dsd.metrics.agreement import alpha, mean_of, ranking_agreement
from dsd.metrics.intervals import estimate, share, unit_weights

NAN = math.nan
KRIPPENDORFF = [  # Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, example C
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
]


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_is_the_published_one(level, published) -> None:
    found = alpha(np.array(KRIPPENDORFF), range(12), level, 200, np.random.default_rng(0))
    assert found["value"] == pytest.approx(published, abs=5e-4)
    assert found["n"] == 11
    assert found["low"] < published < found["high"]


def test_alpha_of_raters_that_never_vary_is_not_defined() -> None:
    found = alpha(np.ones((2, 5)), range(5), "interval", 100, np.random.default_rng(0))
    assert (found["value"], found["low"], found["n"]) == (None, None, 5)


def test_a_subject_is_resampled_with_all_its_ratings() -> None:
    """Ten copies of each rating tell no more than one: the interval is as wide."""
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 5, 40)
    raters = np.clip(np.stack([truth, truth + rng.integers(-1, 2, 40)]), 0, 4).astype(float)
    once = alpha(raters, range(40), "interval", 400, np.random.default_rng(2))
    ten = alpha(np.repeat(raters, 10, axis=1), np.repeat(range(40), 10), "interval", 400, np.random.default_rng(2))
    assert ten["high"] - ten["low"] == pytest.approx(once["high"] - once["low"], rel=0.1)


def test_rankings_are_compared_by_every_published_number() -> None:
    found = ranking_agreement([0.9, 0.1, 0.5, 0.3], [0, 2, 3, 1])
    assert found == {"accuracy": 1, "kendalltau": 1, "spearmanr": 1, "footrule_distance": 0, "top1_accuracy": 1,
                     "bottom1_accuracy": 1}  # fmt: skip
    found = ranking_agreement([0.9, 0.5, 0.1], [1, 0, 2])
    assert (found["top1_accuracy"], found["bottom1_accuracy"], found["footrule_distance"]) == (0, 1, 2)
    assert found["accuracy"] == pytest.approx(1 / 3)


def test_intervals_of_200_simulated_sets_cover_the_truth() -> None:
    """A judge of 0 to 4 with noise, 60 subjects of 9 pictures: 95 % intervals cover 92 to 97 % of the time.

    Subjects differ in how well they are preserved, so the pictures of one are not independent.
    """
    covered = {"CP": 0, "CPxPF": 0}
    for number in range(200):
        rng = np.random.default_rng((6, number))
        skill, follows = rng.beta(4, 2, (60, 1)), rng.beta(6, 2, (60, 1))
        cp, pf = (rng.binomial(4, np.repeat(p, 9, axis=1)) / 4 for p in (skill, follows))
        weights, counts = unit_weights(rng, 60, 400), np.full(60, 9.0)
        means = {name: share(weights, values.sum(axis=1), counts) for name, values in (("CP", cp), ("PF", pf))}
        true = {"CP": 4 / 6, "CPxPF": 4 / 6 * 6 / 8}
        for name, samples in {"CP": means["CP"], "CPxPF": means["CP"] * means["PF"]}.items():
            found = estimate(samples, 540)
            covered[name] += found["low"] <= true[name] <= found["high"]
    assert all(0.92 <= count / 200 <= 0.97 for count in covered.values()), covered


def test_a_mean_resamples_units() -> None:
    found = mean_of([0, 0, 1, 1], ["a", "a", "b", "b"], 200, np.random.default_rng(0))
    assert (found["value"], found["low"], found["high"], found["n"]) == (0.5, 0, 1, 4)
    assert mean_of([], [], 100, np.random.default_rng(0))["value"] is None
