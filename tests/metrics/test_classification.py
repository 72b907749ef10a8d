"""Precision, recall, F1 and kappa against counts by hand, and their intervals."""

import numpy as np
import pytest

from dsd.metrics.classification import Classification

TRUTH = np.array([True, True, True, False, False, False, False, True])
SAID = np.array([True, True, False, True, False, False, False, True])
UNITS = [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_four_numbers_by_hand() -> None:
    """3 hits, 1 false alarm, 1 miss, 3 right refusals: observed agreement 6/8, by chance 1/2."""
    found = Classification(TRUTH, UNITS, 300, np.random.default_rng(0))(SAID)
    assert {name: row["value"] for name, row in found.items()} == {
        "precision": 0.75, "recall": 0.75, "f1": 0.75, "kappa": 0.5
    }  # fmt: skip
    assert {name: row["n"] for name, row in found.items()} == {"precision": 4, "recall": 4, "f1": 8, "kappa": 8}
    assert all(row["low"] < row["value"] < row["high"] for row in found.values())


def test_a_perfect_decision_has_no_width() -> None:
    found = Classification(TRUTH, UNITS, 300, np.random.default_rng(0))(TRUTH)
    assert {tuple(row[key] for key in ("value", "low", "high")) for row in found.values()} == {(1.0, 1.0, 1.0)}


def test_a_share_of_some_pairs_only() -> None:
    compare = Classification(TRUTH, UNITS, 300, np.random.default_rng(0))
    found = compare.share(TRUTH == SAID, among=np.arange(8) < 4)
    assert (found["value"], found["n"]) == (0.5, 4)


def test_no_pairs_at_all_are_no_error() -> None:
    nothing = np.zeros(0, bool)
    found = Classification(nothing, [], 300, np.random.default_rng(0))(nothing)
    assert {row["value"] for row in found.values()} == {None}


@pytest.mark.parametrize("said", [np.zeros(8, bool), np.ones(8, bool)])
def test_a_decision_that_never_changes_has_kappa_zero(said) -> None:
    assert Classification(TRUTH, UNITS, 300, np.random.default_rng(0))(said)["kappa"]["value"] == 0
