"""The watchdog: a state machine that equals its diagram, and keeps what it promises of costs."""

from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapgym.errors import InvalidSpec
from rapgym.guard.watchdog import TRANSITIONS, Costs, Mode, Rules, WatchdogState, advance, foresee

DOCS = Path(__file__).parents[2] / "docs" / "watchdog.md"
RULES = Rules(window_rows=4, factor=1.1, tolerance=0.5, look_ahead=0.6, hand_back_factor=1.0,
              hand_back_rows=3, trips=2, ample_rows=3)  # fmt: skip


def costs(policy: float, reference: float) -> Costs:
    return Costs(np.array([policy]), np.array([reference]))


def lived(
    rows: list[tuple[float, float]], rules: Rules = RULES, wasted: bool = False
) -> list[WatchdogState]:
    """States before the first row and after each, one lane, nothing foreseen."""
    states = [WatchdogState.start(rules, 1)]
    for row in rows:
        states.append(advance(rules, states[-1], costs(*row), np.array([wasted])))
    return states


def mode(state: WatchdogState) -> Mode:
    return Mode(int(state.mode[0]))


def test_the_page_states_the_rules_that_hold() -> None:
    page = DOCS.read_text()
    for field in fields(Rules):
        assert f"| `{field.name}` | {field.default} |" in page, field.name


row = st.tuples(st.sampled_from([0.0, 0.1, 0.4, 1.0, -0.2]), st.sampled_from([0.0, 0.1, 0.4]),
                st.sampled_from([0.0, 0.9]), st.booleans())  # fmt: skip


@given(st.lists(row, max_size=40))
def test_modes_change_as_drawn_and_in_no_other_way(
    rows: list[tuple[float, float, float, bool]],
) -> None:
    drawn, state = {(t.before, t.after) for t in TRANSITIONS}, WatchdogState.start(RULES, 1)
    for policy, reference, ahead, wasted in rows:
        for later in (
            foresee(RULES, state, costs(ahead, 0.0)),
            advance(RULES, foresee(RULES, state, costs(ahead, 0.0)), costs(policy, reference),
                    np.array([wasted])),
        ):  # fmt: skip
            before = mode(state)
            assert before == mode(later) or (before, mode(later)) in drawn
            state = later
        assert (mode(state) == Mode.REVERTED) == (state.trips[0] >= RULES.trips)


def test_every_drawn_change_happens() -> None:
    bad, even = (1.0, 0.1), (0.1, 0.1)
    seen: set[tuple[Mode, Mode]] = set()
    for rows, wasted in (([bad, even, even, even, bad], False), ([even] * 3, True)):
        states = lived(rows, wasted=wasted)
        seen |= {(mode(a), mode(b)) for a, b in pairwise(states)}
    assert {(t.before, t.after) for t in TRANSITIONS} <= seen


def test_it_trips_when_the_window_exceeds_factor_and_tolerance() -> None:
    # 0.4 a row against 0.2: after k rows 0.4 k > 1.1 * 0.2 k + 0.5 from k = 3 on.
    modes = [mode(state) for state in lived([(0.4, 0.2)] * 3)]
    assert modes == [Mode.POLICY, Mode.POLICY, Mode.POLICY, Mode.REFERENCE]


def test_what_has_left_the_window_is_forgotten() -> None:
    rows = [(0.45, 0.0), *[(0.2, 0.2)] * 4, (0.45, 0.0)]
    assert all(mode(state) == Mode.POLICY for state in lived(rows))
    assert mode(lived([(0.45, 0.0), (0.45, 0.0)])[-1]) == Mode.REFERENCE


def test_a_plainly_bad_proposal_trips_before_its_row() -> None:
    start = WatchdogState.start(RULES, 1)
    assert mode(foresee(RULES, start, costs(0.9, 0.2))) == Mode.REFERENCE
    assert mode(foresee(RULES, start, costs(0.8, 0.2))) == Mode.POLICY, "0.8 <= 1.1 * 0.2 + 0.6"


def test_it_hands_back_after_as_many_rows_as_stated_and_no_sooner() -> None:
    rows = [(1.0, 0.0), *[(0.1, 0.1)] * 3]
    modes = [mode(state) for state in lived(rows)][1:]
    assert modes == [Mode.REFERENCE, Mode.REFERENCE, Mode.REFERENCE, Mode.POLICY]


def test_handing_back_is_harder_than_keeping() -> None:
    """1.05 times the reference's cost would not have tripped; in shadow it is not good enough."""
    assert mode(lived([(0.42, 0.4)] * 12)[-1]) == Mode.POLICY
    assert mode(lived([(1.0, 0.0), *[(0.42, 0.4)] * 12])[-1]) == Mode.REFERENCE


def test_the_last_trip_is_for_good() -> None:
    rows = [(1.0, 0.0), *[(0.0, 0.1)] * 3, (1.0, 0.0), *[(0.0, 0.1)] * 20]
    assert mode(lived(rows)[-1]) == Mode.REVERTED


def test_tolerance_halves_with_each_trip() -> None:
    back = [(1.0, 0.0), *[(0.0, 0.1)] * 3]
    assert mode(lived([(0.3, 0.0)])[-1]) == Mode.POLICY
    assert mode(lived([*back, (0.3, 0.0)])[-1]) == Mode.REVERTED


def test_ample_memory_may_be_wasted_for_so_many_rows() -> None:
    states = lived([(0.01, 0.0)] * 3, wasted=True)
    assert [mode(state) for state in states[2:]] == [Mode.POLICY, Mode.REFERENCE]


def test_rows_of_wasted_memory_count_only_on_end() -> None:
    state = WatchdogState.start(RULES, 1)
    for wasted, on_end in ((True, 1), (True, 2), (False, 0), (True, 1), (True, 2)):
        state = advance(RULES, state, costs(0.01, 0.0), np.array([wasted]))
        assert state.ample[0] == on_end
    assert mode(state) == Mode.POLICY
    assert mode(advance(RULES, state, costs(0.01, 0.0), np.array([True]))) == Mode.REFERENCE


def test_costs_below_zero_trip_no_policy_that_equals_the_reference() -> None:
    """Dropping blocks can help; 1.1 times a gain must not become a demand for more."""
    assert mode(lived([(-2.0, -2.0)] * 8)[-1]) == Mode.POLICY


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_what_the_policy_may_cost_is_bounded(rows: list[tuple[float, float]]) -> None:
    """While it decides: each window within factor and tolerance, but for the row that trips."""
    state, paid, due = WatchdogState.start(RULES, 1), 0.0, 0.0
    for policy, reference in rows:
        decides = bool(state.policy_decides[0])
        paid, due = paid + decides * policy, due + decides * reference
        state = advance(RULES, state, costs(policy, reference))
    windows = len(rows) // RULES.window_rows + 1 + RULES.trips  # begun
    overshoot = RULES.trips * 1.0  # a row costs at most 1 here
    assert paid <= RULES.factor * due + RULES.tolerance * windows + overshoot + 1e-9


def test_lanes_do_not_know_of_each_other() -> None:
    rng = np.random.default_rng(0)
    share = np.array([0.5, 0.8, 0.9, 1.0, 1.3])
    rows = [Costs(rng.random(5) * share, rng.random(5)) for _ in range(60)]
    together, alone = WatchdogState.start(RULES, 5), [WatchdogState.start(RULES, 1)] * 5
    for each in rows:
        ahead = Costs(each.policy * 0.9, each.reference)
        together = advance(RULES, foresee(RULES, together, ahead), each)
        alone = [
            advance(RULES, foresee(RULES, state, Costs(ahead.policy[[i]], ahead.reference[[i]])),
                    Costs(each.policy[[i]], each.reference[[i]]))
            for i, state in enumerate(alone)
        ]  # fmt: skip
    assert len({*together.trips.tolist()}) > 1, "lanes differ"
    for field in fields(WatchdogState):
        apart = np.concatenate([getattr(state, field.name) for state in alone])
        assert (getattr(together, field.name) == apart).all(), field.name


def test_a_state_cannot_be_changed_in_place() -> None:
    state = WatchdogState.start(RULES, 2)
    with pytest.raises(ValueError, match="read-only"):
        state.mode[0] = Mode.REVERTED


@pytest.mark.parametrize("change", [
    {"window_rows": 0}, {"trips": 0}, {"hand_back_rows": 25}, {"hand_back_factor": 1.2},
    {"tolerance": -1.0}, {"factor": float("nan")}, {"look_ahead": -0.1}, {"ample_rows": 0},
])  # fmt: skip
def test_rules_that_contradict_themselves_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(InvalidSpec, match=r"watchdog"):
        Rules(**change)  # type: ignore[arg-type]
