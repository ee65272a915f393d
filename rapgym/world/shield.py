"""The shield: whatever a policy returns, what is executed fits in memory.

DESIGN.md section 6 states its promises; tests/test_shield.py tries to break each of them.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from rapgym.arrays import BoolArray, IntArray
from rapgym.model import blocks
from rapgym.model.memory import spent


class Reason(IntEnum):
    """Which rule decided what is executed."""

    POLICY = 0  # the proposal fits and is executed unchanged
    REPAIRED = 1  # the proposal was cut until it fits
    FALLBACK = 2  # the policy's answer could not be read; the reference policy's stands in
    EMERGENCY = 3  # memory fell below what was in use, in the middle of a row
    WATCHDOG = 4  # the watchdog has put the reference policy in charge
    OVERRIDE = 5  # an operator has pinned a kept set
    REFUSED = 6  # not even the floor fits, or the policy prefers refusal to repair


def fit(proposal: BoolArray, costs: IntArray, budget: IntArray, order: IntArray) -> BoolArray:
    """Cut `proposal` until it fits, and no further.

    Args:
        proposal: bool [..., N].
        costs: bytes of each block if kept, int64 [..., N].
        budget: bytes for blocks, int64 [...].
        order: the blocks that may be dropped, cheapest loss of quality first; the others, the
            floor, always stay.

    Returns:
        kept, bool [..., N]: the floor and a subset of `proposal`; all of it where that already
        fits; no dropped block could return without breaking the budget. Where not even the
        floor fits, the floor: the caller refuses the row.
    """
    kept = proposal | blocks.floor_of(order, proposal.shape[-1])
    excess = spent(kept, costs) - budget
    if (excess > 0).any():
        kept[..., order] &= cut(np.where(kept, costs, 0)[..., order], excess)
    return kept


def cut(costs: IntArray, excess: IntArray) -> BoolArray:
    """Which blocks stay when as few as possible go, in a given order, to free `excess` bytes.

    Args:
        costs: bytes of each block in the order of dropping, 0 of one that is gone, int64 [..., D].
        excess: bytes to free, int64 [...]; none where it is not above 0.

    Returns:
        bool [..., D]: the shortest run from the front that frees enough goes, but for those of it
        that turn out not to be needed, the last tried first.
    """
    stays = np.cumsum(costs, axis=-1) - costs >= excess[..., None]
    slack = spent(~stays, costs) - excess
    # The last block to go may have freed more than was missing: give back what still fits.
    needless = ~stays & (costs <= slack[..., None])
    for position in np.flatnonzero(needless.any(axis=tuple(range(needless.ndim - 1))))[::-1]:
        returns = needless[..., position] & (costs[..., position] <= slack)
        stays[..., position] |= returns
        slack = slack - np.where(returns, costs[..., position], 0)
    return stays


def read_proposal(answer: object, n: int) -> BoolArray | None:
    """What a policy proposes for one row, or None where its answer is no proposal.

    A proposal is an array or sequence of n booleans, or of n numbers that are all 0 or 1. Nothing
    the object does can raise from here; it is copied, so that it cannot change afterwards. It must
    not hang: what a policy may take of time is for its process to bound.
    """
    try:
        with warnings.catch_warnings():
            # Old ways to become an array, such as torch's, warn; what is read must not depend on that.
            warnings.simplefilter("ignore")
            if not hasattr(type(answer), "__array__"):
                # NumPy would search a list that holds itself for ever.
                if not isinstance(answer, Sequence) or len(answer) != n:
                    return None
                answer = [answer[i] for i in range(n)]
                if not all(isinstance(entry, (int, float, np.generic)) for entry in answer):
                    return None
            array = np.asarray(answer)  # no copy yet: a view may be larger than any memory
        if array.shape != (n,) or array.dtype.kind not in "biuf":
            return None
        proposal = array.astype(bool)
        # NaN equals nothing, so it fails here too.
        return proposal if bool((array == proposal).all()) else None
    except KeyboardInterrupt:
        raise
    except BaseException:  # an object of a stranger may raise anything at all, SystemExit too
        return None


@dataclass(frozen=True, slots=True)
class Decision:
    """What is executed in each of B lanes, and by which rule."""

    kept: BoolArray  # [B, N]; the floor where refused
    refused: BoolArray  # [B]
    reason: IntArray  # Reason of each lane, [B]


def decide(
    proposal: BoolArray,
    costs: IntArray,
    budget: IntArray,
    order: IntArray,
    source: IntArray,
    refuses_misfit: BoolArray,
) -> Decision:
    """Turn proposals into what is executed.

    Args:
        proposal: bool [B, N]; bits of the floor are ignored.
        costs, budget, order: as `fit` takes them, [B, N], [B], [droppable].
        source: whose proposal it is, [B]: POLICY, FALLBACK, WATCHDOG or OVERRIDE.
        refuses_misfit: the policy declares `on_misfit="refuse"`, [B].
    """
    floor = blocks.floor_of(order, proposal.shape[-1])
    wanted = proposal | floor
    refused = spent(wanted, costs) > budget
    if not np.count_nonzero(refused):  # the usual row, and quicker: every proposal fits
        return Decision(wanted, refused, source.copy())
    kept = fit(proposal, costs, budget, order)
    repaired = (kept != wanted).any(axis=-1)
    refused = (spent(kept, costs) > budget) | (repaired & refuses_misfit)
    kept = np.where(refused[..., None], floor, kept)
    reason = np.where(repaired & (source == Reason.POLICY), Reason.REPAIRED, source)
    return Decision(kept, refused, np.where(refused, Reason.REFUSED, reason))
