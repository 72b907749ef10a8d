"""Intervals cover the truth as often as they say."""

import json

import numpy as np

from dsd.metrics.intervals import estimate, share, unit_weights


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
