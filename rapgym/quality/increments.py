"""What the next block to go would cost, given those that are gone: importance as a sum over pairs.

A quadratic form is fitted to the measured kept sets, in closed form: an effect of each block and one
of each pair, spread as single removals cost. It is cruder than the predictor, and answers for all
blocks at once by adding one row a drop.
"""

import hashlib
from dataclasses import dataclass
from functools import cache

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.errors import InvalidTable
from rapgym.files import places
from rapgym.quality.predictor import LEAST_SINGLE, Sets, basis_of

# Of 0.003 to 10 this predicts left-out calibration rows of the shipped tables best, and it is flat there.
PAIRS = 0.03  # weight of the pairs, the blocks' being one
NUGGET = 0.05  # nats, of a row: what no pair explains
# Fits to the tables that came with rapgym, by the digest of what they are fitted to: a fit is then the same on
# every machine to the last bit, and the first reset need not wait for one. Calibration columns alone are in it,
# and it does not lie among the tables, which are hidden from policies that have a process of their own.
STORED = places.INCREMENTS


@dataclass(frozen=True, slots=True, eq=False)
class Increments:
    """A fitted form: nll of a set is the sum over its dropped blocks and their pairs."""

    block: FloatArray  # nats when a block goes alone, [N]
    pair: FloatArray  # nats more where another one is gone, symmetric, 0 on its diagonal, [N, N]

    def of(self, gone: BoolArray) -> FloatArray:
        """By how much nll rises when each block goes, nats; bool [..., N] -> float64 [..., N]."""
        rises: FloatArray = self.block + gone.astype(np.float64) @ self.pair
        return rises


def of_sets(sets: Sets) -> Increments:
    """The form of some measured sets: the stored one, or a fit.

    Raises:
        InvalidTable: the file of what is stored is damaged or gone.
    """
    found = _stored().get(digest(sets))
    return fit(sets) if found is None else found


@cache
def _stored() -> dict[bytes, Increments]:
    try:
        rows = np.load(STORED)
        return {bytes(row["sets"]): Increments(row["block"], row["pair"]) for row in rows}
    except (OSError, EOFError, ValueError, LookupError) as error:
        raise InvalidTable(
            f"{STORED} came with rapgym and cannot be read ({error}): install rapgym anew"
        ) from error


def record(sets: Sets) -> np.ndarray:
    """A fit as `STORED` keeps it: one structured row, [1]."""
    made, n = fit(sets), sets.kept.shape[1]
    row = np.zeros(1, [("sets", "V32"), ("block", "<f8", (n,)), ("pair", "<f8", (n, n))])
    row["sets"], row["block"], row["pair"] = digest(sets), made.block, made.pair
    return row


def digest(sets: Sets) -> bytes:
    """Of all that a fit depends on, sha256."""
    found = hashlib.sha256(np.array([PAIRS, NUGGET, LEAST_SINGLE]).tobytes())
    for part in (sets.kept, sets.nll, sets.nll_se):
        found.update(np.ascontiguousarray(part).tobytes())
    return found.digest()


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
