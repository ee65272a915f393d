"""The watchdog: takes decisions from a policy that costs more than the reference policy would.

A state machine for each lane, and a pure function of what it is told: the same rows give the same
state, so a log replays. It sees two costs a row, calibration columns: of the policy's decisions and
of the reference policy's, each on a trajectory of its own (`rapgym.guard.shadow`). Both are summed over the
last rows, and compared twice: before a row is served, with what is known of it (`foresee`), and once
it has ended (`advance`). While the reference decides, the policy is still asked, and what its
decisions would have cost decides whether it gets the lane back.

`TRANSITIONS` is the machine; docs/watchdog.md shows a drawing of it.
"""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Self

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray, freeze, holds_in_all
from rapgym.errors import InvalidSpec


class Mode(IntEnum):
    """Who decides."""

    POLICY = 0  # the policy
    REFERENCE = 1  # the reference policy, until the policy's shadow has proven itself
    REVERTED = 2  # the reference policy, for good


_POLICY = int(
    Mode.POLICY
)  # to NumPy a member of an enum is a stranger, and takes ten times as long


@dataclass(frozen=True, slots=True)
class Rules:
    """When decisions are taken away, and when they are handed back.

    The numbers were chosen on train rows (rapgym/studies/watchdog.py), none on test rows.
    """

    window_rows: int = 24  # over which costs are summed, fewer after a change of mode
    factor: float = 1.05  # trips where the policy's sum exceeds the reference's times this ...
    tolerance: float = 0.3  # ... and so many mean rows that are not served; half after each trip
    look_ahead: float = (
        0.5  # trips before a row where this is foreseen beyond that factor, units of C
    )
    hand_back_factor: float = 1.0  # hands back where the shadow's sum is at most this much ...
    hand_back_rows: int = 24  # ... over the last so many rows since the trip
    trips: int = 3  # with this one the lane is reverted for good
    ample_rows: int = (
        8  # so many rows on end short of dense, at a price, with memory to spare: trips
    )

    def __post_init__(self) -> None:
        if min(self.window_rows, self.hand_back_rows, self.trips, self.ample_rows) < 1:
            raise InvalidSpec("rows and trips of a watchdog are at least 1")
        if self.hand_back_rows > self.window_rows:
            raise InvalidSpec("a watchdog remembers window_rows: hand_back_rows cannot be more")
        if not (
            0 < self.hand_back_factor <= self.factor < np.inf
            and min(self.tolerance, self.look_ahead) >= 0
        ):
            raise InvalidSpec(
                "a watchdog needs 0 < hand_back_factor <= factor, or it would hand back what it takes "
                "at once, and tolerance and look_ahead of at least 0"
            )


@dataclass(frozen=True, slots=True)
class Costs:
    """What one row costs by the policy's decisions and by the reference's, in units of C, [B] each.

    Served costs are weighted as rewards are: 1 is a mean row of train that is not served at all.
    Foreseen ones are of a token: 1 is one that is not served.
    """

    policy: FloatArray
    reference: FloatArray


@dataclass(frozen=True, slots=True)
class WatchdogState:
    """What the watchdog remembers of each of B lanes."""

    mode: IntArray  # Mode, [B]
    trips: IntArray  # [B]
    rows: IntArray  # judged since the mode began, [B]
    ample: IntArray  # rows on end in which the policy wasted ample memory, [B]
    policy: FloatArray  # cost of the last rows since the mode began, newest last, [B, window_rows]
    reference: FloatArray  # likewise, [B, window_rows]

    def __post_init__(self) -> None:
        freeze(self)

    @classmethod
    def start(cls, rules: Rules, lanes: int) -> Self:
        """The policy decides everywhere."""
        none = np.zeros(lanes, dtype=np.int64)
        nothing = np.zeros((lanes, rules.window_rows))
        return cls(none, none, none, none, nothing, nothing)

    @property
    def policy_decides(self) -> BoolArray:
        """bool [B]."""
        return self.mode == _POLICY


def foresee(rules: Rules, state: WatchdogState, foreseen: Costs) -> WatchdogState:
    """The state in which a row is decided: a proposal that is plainly bad trips before it is served.

    Args:
        foreseen: what both decisions cost a token should memory stay as it is in the row's first
            second.
    """
    good = _at_most(foreseen.policy - rules.look_ahead, foreseen.reference, rules.factor)
    if holds_in_all(good):  # the usual row
        return state
    trips = state.policy_decides & ~good
    return _tripped(rules, state, trips) if trips.any() else state


def advance(
    rules: Rules, state: WatchdogState, costs: Costs, wasted: BoolArray | None = None
) -> WatchdogState:
    """The state after a row.

    Args:
        state: as `foresee` left it.
        costs: of the whole row.
        wasted: lanes in which memory was ample all the row and the policy, short of dense, cost more
            than the reference, [B]; none unless stated.
    """
    policy, reference = (
        _shifted(state.policy, costs.policy),
        _shifted(state.reference, costs.reference),
    )
    decides = state.policy_decides
    ample = (
        np.where(decides & wasted, state.ample + 1, 0) if wasted is not None else state.ample * 0
    )
    state = replace(state, rows=state.rows + 1, ample=ample, policy=policy, reference=reference)
    tolerance = (
        rules.tolerance * 0.5**state.trips
    )  # so all trips together cost little more than two
    dear = ~_at_most(policy.sum(axis=1) - tolerance, reference.sum(axis=1), rules.factor)
    trips = decides & (dear | (ample >= rules.ample_rows))
    last = slice(rules.window_rows - rules.hand_back_rows, None)
    proven = _at_most(
        policy[:, last].sum(axis=1), reference[:, last].sum(axis=1), rules.hand_back_factor
    )
    returns = (state.mode == Mode.REFERENCE) & (state.rows >= rules.hand_back_rows) & proven
    if returns.any():
        state = _began(state, returns, np.full(len(returns), Mode.POLICY))
    return _tripped(rules, state, trips) if trips.any() else state


def _at_most(policy: FloatArray, reference: FloatArray, factor: float) -> BoolArray:
    # Dropping blocks can help, so a cost may be below zero: a factor leaves room on the same side.
    return policy <= reference + (factor - 1) * np.abs(reference)


def _shifted(window: FloatArray, newest: FloatArray) -> FloatArray:
    return np.concatenate([window[:, 1:], newest[:, None]], axis=1)


def _tripped(rules: Rules, state: WatchdogState, trips: BoolArray) -> WatchdogState:
    state = replace(state, trips=state.trips + trips)
    last = state.trips >= rules.trips
    return _began(state, trips, np.where(last, Mode.REVERTED, Mode.REFERENCE))


def _began(state: WatchdogState, changes: BoolArray, mode: IntArray) -> WatchdogState:
    """Lanes that change go to a mode, and forget what they knew of costs."""
    stays = ~changes
    return replace(
        state,
        mode=np.where(changes, mode, state.mode).astype(np.int64),
        rows=state.rows * stays,
        ample=state.ample * stays,
        policy=np.where(changes[:, None], 0.0, state.policy),
        reference=np.where(changes[:, None], 0.0, state.reference),
    )


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of mode, and what leads to it."""

    before: Mode
    after: Mode
    when: str


TRANSITIONS = (
    Transition(Mode.POLICY, Mode.REFERENCE, "it costs too much, foreseen or served"),
    Transition(Mode.POLICY, Mode.REFERENCE, "ample memory wasted for ample_rows"),
    Transition(Mode.POLICY, Mode.REVERTED, "either, and it is trip number trips"),
    Transition(Mode.REFERENCE, Mode.POLICY, "its shadow costs no more over hand_back_rows"),
)
