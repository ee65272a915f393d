"""What the next block to go would cost, given those that are gone: importance as a sum over pairs.

A quadratic form is fitted to the measured kept sets, in closed form: an effect of each block and one
of each pair, spread as single removals cost. It is cruder than the predictor, and answers for all
blocks at once by adding one row a drop.
"""

from dataclasses import dataclass

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.quality.predictor import LEAST_SINGLE, Sets, basis_of

# Of 0.003 to 10 this predicts left-out calibration rows of the shipped tables best, and it is flat there.
PAIRS = 0.03  # weight of the pairs, the blocks' being one
NUGGET = 0.05  # nats, of a row: what no pair explains


@dataclass(frozen=True, slots=True, eq=False)
class Increments:
    """A fitted form: nll of a set is the sum over its dropped blocks and their pairs."""

    block: FloatArray  # nats when a block goes alone, [N]
    pair: FloatArray  # nats more where another one is gone, symmetric, 0 on its diagonal, [N, N]

    def of(self, gone: BoolArray) -> FloatArray:
        """By how much nll rises when each block goes, nats; bool [..., N] -> float64 [..., N]."""
        rises: FloatArray = self.block + gone.astype(np.float64) @ self.pair
        return rises


def fit(sets: Sets) -> Increments:
    """Fit to measured sets, those of other texts among them."""
    spread = np.sqrt(np.maximum(basis_of(sets).single, LEAST_SINGLE))
    dropped = (~sets.kept).astype(np.float64) * spread
    linear = dropped @ dropped.T
    noise = np.diag(sets.nll_se**2 + NUGGET**2)
    rows = np.linalg.solve(linear + PAIRS * linear**2 + noise, sets.nll)
    both = PAIRS * dropped.T @ (rows[:, None] * dropped) * np.outer(spread, spread)
    pair = 2 * both
    np.fill_diagonal(pair, 0.0)
    return Increments(spread * (rows @ dropped) + np.diag(both), pair)
