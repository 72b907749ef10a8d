"""Precision, recall, F1 and Cohen's kappa of yes-or-no decisions, with intervals by resampling units.

P pairs, each of one unit (a grid); R resamples, U units.
"""

from collections.abc import Sequence

import numpy as np

from dsd.metrics.intervals import Estimate, estimate, share, unit_weights


class Classification:
    """Compares decisions about P pairs with their truth."""

    def __init__(
        self, truth: np.ndarray, units: Sequence[int] | np.ndarray, num_resamples: int, rng: np.random.Generator
    ) -> None:
        """Take the truth of each pair (P,), bool, and the number of its unit (P,)."""
        self.truth = np.asarray(truth, bool)
        _, self.unit = np.unique(units, return_inverse=True)
        self.weights = unit_weights(rng, int(self.unit.max(initial=-1)) + 1, num_resamples)  # (1 + R, U)

    def __call__(self, said: np.ndarray) -> dict[str, Estimate]:
        """Estimate precision, recall, F1 and kappa of the decisions (P,), bool."""
        both, yes, true, every = (
            self.weights @ self.count(x) for x in (said & self.truth, said, self.truth, np.ones_like(self.truth))
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            observed = (every - yes - true + 2 * both) / every
            chance = (yes * true + (every - yes) * (every - true)) / every**2
            return {
                "precision": estimate(both / yes, int(said.sum())),
                "recall": estimate(both / true, int(self.truth.sum())),
                "f1": estimate(2 * both / (yes + true), len(self.truth)),
                "kappa": estimate((observed - chance) / (1 - chance), len(self.truth)),
            }

    def share(self, hits: np.ndarray, among: np.ndarray) -> Estimate:
        """Estimate the share of pairs in `among` (P,), bool, that are in `hits` (P,), bool."""
        rates = share(self.weights, self.count(hits & among), self.count(among))
        return estimate(rates, int(among.sum()))

    def count(self, chosen: np.ndarray) -> np.ndarray:
        """Count the chosen pairs (P,), bool, of each unit: (U,)."""
        return np.bincount(self.unit, chosen, minlength=self.weights.shape[1])
