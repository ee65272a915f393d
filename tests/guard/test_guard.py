"""Between policy and step: who decides, in which order, and what the watchdog is told of it."""

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from toy_world import with_rows

from rapgym.arrays import BoolArray, FloatArray
from rapgym.baselines.keep_all import KeepAll
from rapgym.errors import InvalidPolicy, InvalidSpec
from rapgym.guard.guard import Guard, Guarding, Served, ruled, strict_lanes
from rapgym.guard.watchdog import Mode, Rules
from rapgym.policies.policy import Briefing, briefing
from rapgym.policies.reference import FrontierLookup
from rapgym.rollout import rollout
from rapgym.scenarios import worlds
from rapgym.scenarios.lanes import Lanes
from rapgym.scenarios.story import Scenario
from rapgym.world import simulator
from rapgym.world.records import Outcome, State, World
from rapgym.world.shield import Reason

# Dropping all that may be dropped costs the toy model 0.16 C a token.
RULES = Rules(
    window_rows=6, tolerance=0.2, look_ahead=0.05, hand_back_rows=4, trips=2, ample_rows=3
)


class Fixed:
    """Proposes what it is told to, whatever it sees; remembers what it saw."""

    def __init__(self, *sets: Any) -> None:
        self._sets = sets

    def reset(self, batch: int, briefing: Briefing) -> None:
        self.saw: list[FloatArray] = []

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> Any:
        self.saw.append(observation)
        chosen = self._sets[min(len(self.saw), len(self._sets)) - 1]
        return (
            None if chosen is None else np.tile(np.array(chosen, dtype=bool), (len(observation), 1))
        )


DENSE, FLOOR = [1] * 6, [1, 1, 0, 0, 0, 0]


def guarded(
    story: Scenario, policy: Any, rules: Rules | None = RULES, lanes: int = 2, **guarding: Any
) -> tuple[Guard, Lanes]:
    standing = Lanes(story, "test", lanes)
    for lane, start in enumerate(rollout.whole_split(standing.world, story.offsets)[:lanes]):
        standing.restart(lane, start)
    return Guard(policy, standing, briefing(story), Guarding(rules, **guarding)), standing


def rows(guard: Guard, count: int) -> list[Served]:
    rng = np.random.default_rng(0)
    return [guard.serve(rng) for _ in range(count)]


def reasons(served: list[Served]) -> list[list[int]]:
    return [each.decided.source.tolist() for each in served]


def test_the_order_of_precedence() -> None:
    usable, reverted, pinned = np.array([*product([True, False], repeat=3)]).T
    lanes = len(usable)
    asked, instead, pins = (np.full((lanes, 3), False) for _ in range(3))
    asked[:, 0], instead[:, 1], pins[:, 2] = True, True, True
    proposal, source = ruled(asked, usable, reverted, pinned, instead, pins)
    for lane in range(lanes):
        wanted, whose = (
            (Reason.OVERRIDE, 2) if pinned[lane]
            else (Reason.WATCHDOG, 1) if reverted[lane]
            else (Reason.POLICY, 0) if usable[lane]
            else (Reason.FALLBACK, 1)
        )  # fmt: skip
        assert source[lane] == wanted
        assert np.flatnonzero(proposal[lane]).tolist() == [whose]


def test_what_a_policy_declares_binds_neither_operator_nor_watchdog() -> None:
    sources = np.array([Reason.POLICY, Reason.FALLBACK, Reason.WATCHDOG, Reason.OVERRIDE])
    assert strict_lanes(True, sources).tolist() == [True, True, False, False]
    assert not strict_lanes(False, sources).any()


def test_a_decision_repeats_from_what_it_says_of_itself(toy_story: Scenario) -> None:
    guard, _ = guarded(toy_story, Fixed(DENSE, FLOOR, None, DENSE))
    guard.pin(DENSE, np.array([True, False]))
    served = rows(guard, 5)
    guard.release()
    served += rows(guard, 20)
    assert {Reason.OVERRIDE, Reason.WATCHDOG} < {int(x) for row in reasons(served) for x in row}
    for each in served:
        told = each.decided
        assert told.watchdog is not None
        assert told.instead is not None
        pinned = np.zeros(2, dtype=bool) if told.pinned is None else told.pinned
        proposal, source = ruled(
            told.asked, told.readable & (not told.late), ~told.watchdog.policy_decides, pinned,
            told.instead, np.tile(np.array(DENSE, dtype=bool), (2, 1)),
        )  # fmt: skip
        assert (proposal == told.proposal).all()
        assert (source == told.source).all()


def test_the_reference_looks_at_nothing_that_a_trajectory_changes(toy_story: Scenario) -> None:
    """So what it proposes now is what it would propose had it decided all rows before."""
    guard, lanes = guarded(toy_story, KeepAll(), None)
    reference = FrontierLookup()
    reference.reset(2, briefing(toy_story))
    for _ in range(20):
        seen, rng = lanes.observe(), np.random.default_rng(0)
        state = lanes.state
        lanes.state, lanes._seen = replace(state, loaded=~state.loaded), None
        assert (reference.propose(lanes.observe(), rng) == reference.propose(seen, rng)).all()
        lanes.state, lanes._seen = state, None
        guard.serve(rng)


def of_run(story: Scenario, make: Callable[[], Any]) -> FloatArray:
    """Cost of each row in units of C, [T, B], had the policy decided alone."""
    world = worlds.world(story, "test")
    log = rollout.run(make, story, "test", briefing(story))
    return log.cost * log.output_tokens / world.mean_output_tokens / world.ceiling


def test_both_are_judged_on_trajectories_of_their_own(toy_story: Scenario) -> None:
    never = replace(RULES, trips=1)
    guard, _ = guarded(toy_story, Fixed(FLOOR), never)
    served = rows(guard, 50)
    assert (np.array(reasons(served))[1:] == Reason.WATCHDOG).all()
    reference, alone = of_run(toy_story, FrontierLookup), of_run(toy_story, lambda: Fixed(FLOOR))
    told = [each.costs for each in served]
    assert np.array([c.reference for c in told if c]) == pytest.approx(reference[:, :2])
    assert np.array([c.policy for c in told if c]) == pytest.approx(alone[:, :2])


def test_while_the_policy_decides_it_is_charged_what_it_costs(toy_story: Scenario) -> None:
    lenient = Rules(tolerance=1e6, look_ahead=1e6, ample_rows=10**6)
    guard, lanes = guarded(toy_story, KeepAll(), lenient)
    served = rows(guard, 50)
    for each in served:
        assert each.costs is not None
        paid = each.outcome.terms.total / lanes.world.ceiling
        assert each.costs.policy == pytest.approx(paid)
    alone = rollout.run(KeepAll, toy_story, "test", briefing(toy_story))
    kept = np.array([each.outcome.kept for each in served])
    assert (kept == alone.kept[:, :2]).all(), "a watchdog that does not trip changes nothing"


def test_after_a_trip_rows_are_served_as_if_the_reference_always_had(toy_story: Scenario) -> None:
    guard, _ = guarded(toy_story, Fixed(FLOOR), replace(RULES, trips=1))
    served = rows(guard, 50)
    lookup = rollout.run(FrontierLookup, toy_story, "test", briefing(toy_story))
    away = np.array(reasons(served)) == Reason.WATCHDOG
    kept = np.array([each.outcome.kept for each in served])
    assert away[-1].all()
    assert (kept[away] == lookup.kept[:, :2][away]).all()


def test_in_shadow_a_policy_sees_what_it_would_have_loaded(toy_story: Scenario) -> None:
    policy = Fixed(FLOOR)
    guard, lanes = guarded(toy_story, policy, replace(RULES, trips=1))
    rows(guard, 20)
    loaded = lanes.layout.slice_of("loaded")
    assert (policy.saw[-1][:, loaded] == np.array(FLOOR)).all()
    assert any(
        (each[:, loaded] == np.array(FLOOR)).all() and lanes.state.loaded.any()
        for each in policy.saw[1:]
    )


def in_ample_memory(story: Scenario, policy: Any) -> tuple[Guard, Lanes]:
    lanes = Lanes(story, "test", 1)
    limit = np.full_like(lanes.world.rows.limit_bytes, 5000)
    lanes.world = with_rows(lanes.world, limit_bytes=limit)
    lanes.restart(0, rollout.whole_split(lanes.world, 1)[0])
    return Guard(policy, lanes, briefing(story), Guarding(RULES)), lanes


def test_a_row_in_which_the_reference_stands_in_is_the_policys_own(toy_story: Scenario) -> None:
    """The policy is in charge of it, so what it sees next is what is really loaded."""

    def lossy(world: World, state: State, *more: Any) -> tuple[State, Outcome]:
        """A device that has lost the last block by the end of each row."""
        following, outcome = simulator.step(world, state, *more)
        left = following.loaded & (np.arange(world.blocks) < world.blocks - 1)
        return replace(following, loaded=left), outcome

    policy = Fixed(None, DENSE)
    guard, lanes = in_ample_memory(toy_story, policy)
    lanes.step = lossy
    fallback, _ = rows(guard, 2)
    assert fallback.decided.source.tolist() == [Reason.FALLBACK]
    assert fallback.outcome.kept_end.all(), "by the simulator's word nothing was lost"
    assert policy.saw[1][0, lanes.layout.slice_of("loaded")].tolist() == [1, 1, 1, 1, 1, 0]


def test_a_pinned_row_is_not_the_policys_own(toy_story: Scenario) -> None:
    """Its trajectory goes on as if it had decided."""
    policy = Fixed(DENSE)
    guard, lanes = in_ample_memory(toy_story, policy)
    guard.pin(FLOOR)
    pinned, _ = rows(guard, 2)
    assert pinned.outcome.kept_end[0].tolist() == np.array(FLOOR, dtype=bool).tolist()
    assert policy.saw[1][0, lanes.layout.slice_of("loaded")].tolist() == DENSE


def test_a_policy_that_has_come_to_its_senses_gets_the_lane_back(toy_story: Scenario) -> None:
    """And its trajectory is the served one again."""

    class Recovers(FrontierLookup):
        def reset(self, batch: int, briefing: Briefing) -> None:
            super().reset(batch, briefing)
            self._rows = 0

        def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
            self._rows += 1
            good = super().propose(observation, rng)
            return good if self._rows > 8 else np.zeros_like(good)

    policy = Recovers()
    guard, lanes = guarded(toy_story, policy, replace(RULES, trips=9))
    served = rows(guard, 50)
    modes = np.array([each.decided.watchdog.mode for each in served if each.decided.watchdog])
    assert (modes[7] == Mode.REFERENCE).all()
    assert (modes[-1] == Mode.POLICY).all()
    first = 7 + int((modes[7:, 0] == Mode.POLICY).argmax())
    assert served[first].decided.source[0] == Reason.POLICY
    assert (guard._shadows.policy.loaded == lanes.state.loaded).all()


def test_an_unreadable_answer_costs_what_stands_in_for_it(toy_story: Scenario) -> None:
    guard, _ = guarded(toy_story, Fixed(None))
    served = rows(guard, 50)
    assert (np.array(reasons(served)) == Reason.FALLBACK).all()
    for each in served:
        assert each.costs is not None
        assert each.costs.policy == pytest.approx(each.costs.reference)


@pytest.mark.parametrize("strict", [False, True])
def test_a_watched_log_replays_to_the_same_rows(toy_story: Scenario, strict: bool) -> None:
    def make() -> Any:
        policy: Any = Fixed(DENSE, DENSE, DENSE, FLOOR, FLOOR)
        policy.on_misfit = "refuse" if strict else "repair"
        return policy

    log = rollout.run(make, toy_story, "test", briefing(toy_story), guarding=Guarding(RULES))
    assert {Reason.POLICY, Reason.WATCHDOG} <= {int(each) for each in np.unique(log.source)}
    again = rollout.replay(worlds.world(toy_story, "test"), log, refuses_misfit=strict)
    assert (again.kept == log.kept).all()
    assert (again.reason == log.reason).all()
    assert (again.cost == log.cost).all()
    watched = log.reason[log.source == Reason.WATCHDOG]
    assert Reason.WATCHDOG in watched


# An operator's override.


def test_a_pin_is_proposed_until_it_is_released(toy_story: Scenario) -> None:
    guard, _ = guarded(toy_story, Fixed(DENSE), None)
    pinned = np.array([True, True, True, True, False, True])
    assert (rows(guard, 1)[0].decided.source == Reason.POLICY).all()
    guard.pin(pinned, np.array([False, True]))
    row = rows(guard, 1)[0]
    assert row.decided.source.tolist() == [Reason.POLICY, Reason.OVERRIDE]
    assert (row.decided.proposal[1] == pinned).all()
    guard.pin_dense()
    row = rows(guard, 1)[0]
    assert (row.decided.source == Reason.OVERRIDE).all()
    assert row.decided.proposal.all()
    guard.release(np.array([True, False]))
    assert rows(guard, 1)[0].decided.source.tolist() == [Reason.POLICY, Reason.OVERRIDE]
    guard.release()
    assert (rows(guard, 1)[0].decided.source == Reason.POLICY).all()


def test_a_second_pin_leaves_the_first_lanes_their_set(toy_story: Scenario) -> None:
    guard, _ = guarded(toy_story, Fixed(DENSE), None)
    guard.pin(FLOOR, np.array([True, False]))
    guard.pin([1, 1, 1, 1, 0, 1], np.array([False, True]))
    row = rows(guard, 1)[0]
    assert (row.decided.source == Reason.OVERRIDE).all()
    assert row.decided.proposal.tolist() == np.array([FLOOR, [1, 1, 1, 1, 0, 1]], bool).tolist()


def test_the_shield_stands_below_the_operator(toy_story: Scenario) -> None:
    policy: Any = Fixed(FLOOR)
    policy.on_misfit = "refuse"
    guard, _ = guarded(toy_story, policy, None)
    guard.pin_dense()
    served = rows(guard, 50)
    cut = [row for row in served if (row.outcome.kept != row.decided.proposal).any()]
    assert cut, "dense does not always fit"
    for row in served:
        assert ((row.outcome.used_bytes <= row.outcome.limit_bytes) | row.outcome.refused).all()
        over = row.outcome.reason != Reason.OVERRIDE
        assert (row.outcome.refused[over]).all(), "what can be repaired is not refused"
    assert any((row.outcome.reason == Reason.OVERRIDE).all() for row in cut)


@pytest.mark.parametrize(
    "kept", [None, [1] * 5, [0.5] * 6, "111111", np.ones((2, 6)), [np.nan] * 6]
)
def test_a_pin_that_is_no_proposal_is_refused_and_changes_nothing(
    toy_story: Scenario, kept: object
) -> None:
    guard, _ = guarded(toy_story, Fixed(DENSE), None)
    guard.pin(FLOOR)
    with pytest.raises(InvalidPolicy, match="a kept set is 6 booleans"):
        guard.pin(kept)
    assert (rows(guard, 1)[0].decided.proposal == np.array(FLOOR)).all()


def test_a_pin_masks_the_watchdog_and_the_policy_is_judged_meanwhile(toy_story: Scenario) -> None:
    guard, _ = guarded(toy_story, Fixed(FLOOR), replace(RULES, trips=1))
    guard.pin_dense()
    assert (np.array(reasons(rows(guard, 40))) == Reason.OVERRIDE).all()
    guard.release()
    assert (rows(guard, 1)[0].decided.source == Reason.WATCHDOG).all()


# The deadline.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A clock that stands still unless a policy moves it, in ns."""
    now = [0]
    monkeypatch.setattr(time, "perf_counter_ns", lambda: now[0])
    return now


def test_a_late_answer_is_replaced_by_the_references(toy_story: Scenario, clock: list[int]) -> None:
    class Slow(KeepAll):
        def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
            clock[0] += 2_000_000 if self.rows % 2 else 1_000_000
            self.rows += 1
            return super().propose(observation, rng)

        rows = 0

    lookup = rollout.run(FrontierLookup, toy_story, "test", briefing(toy_story))
    guard, _ = guarded(toy_story, Slow(), None, deadline_ms=1.0)
    served = rows(guard, 50)
    assert [each.decided.late for each in served] == [False, True] * 25, (
        "1 ms is not later than 1 ms"
    )
    for t, each in enumerate(served):
        wanted = Reason.FALLBACK if t % 2 else Reason.POLICY
        assert (each.decided.source == wanted).all()
        if t % 2:
            assert (each.decided.proposal == lookup.proposal[t, :2]).all()
            assert each.decided.spent_us == 2000


def test_lateness_is_logged_so_that_replay_needs_no_clock(
    toy_story: Scenario, clock: list[int]
) -> None:
    class Late(KeepAll):
        def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
            clock[0] += 10**9
            return super().propose(observation, rng)

    log = rollout.run(
        Late, toy_story, "test", briefing(toy_story), guarding=Guarding(deadline_ms=5.0)
    )
    assert (log.source == Reason.FALLBACK).all()
    again = rollout.replay(worlds.world(toy_story, "test"), log, refuses_misfit=False)
    assert (again.reason == log.reason).all()
    assert (again.kept == log.kept).all()


@pytest.mark.parametrize("deadline", [0.0, -1.0, float("nan")])
def test_a_deadline_that_nobody_can_meet_is_refused(deadline: float) -> None:
    with pytest.raises(InvalidSpec, match="no time to decide"):
        Guarding(deadline_ms=deadline)


# Promise 5: recovery.


def ample_after(story: Scenario, guard_of: Callable[[Lanes], Guard], tight: int) -> list[Served]:
    """Rows of which the first few are tight, and in all others memory is ample."""
    lanes = Lanes(story, "test", 1)
    limit = np.full_like(lanes.world.rows.limit_bytes, 5000)
    limit[:tight] = 260
    lanes.world = with_rows(lanes.world, limit_bytes=limit)
    lanes.restart(0, rollout.whole_split(lanes.world, 1)[0])
    return rows(guard_of(lanes), 50)


def test_the_reference_is_dense_in_the_first_row_with_ample_memory(toy_story: Scenario) -> None:
    told = briefing(toy_story)
    served = ample_after(toy_story, lambda lanes: Guard(FrontierLookup(), lanes, told), 10)
    assert not served[9].outcome.kept.all()
    assert all(each.outcome.kept_end.all() for each in served[10:])


@pytest.mark.parametrize("dropped", [(2,), (2, 3, 4, 5)], ids=["a little short", "the floor"])
def test_under_the_watchdog_dense_is_back_within_the_stated_rows(
    toy_story: Scenario, dropped: tuple[int, ...]
) -> None:
    """Even where what the policy wastes is below every tolerance."""
    told, kept = briefing(toy_story), np.ones(6, dtype=bool)
    kept[list(dropped)] = False
    rules = replace(RULES, tolerance=100.0, look_ahead=100.0, trips=1)
    served = ample_after(
        toy_story, lambda lanes: Guard(Fixed(kept), lanes, told, Guarding(rules)), 10
    )
    batch = np.array([each.costs.policy[0] > 0 for each in served if each.costs])
    assert batch[10:].any()
    dense = np.array([each.outcome.kept_end.all() for each in served])
    wasteful = np.array([bool(each.wasted[0]) for each in served if each.wasted is not None])
    run = np.flatnonzero(
        np.convolve(wasteful, np.ones(rules.ample_rows), "valid") == rules.ample_rows
    )
    assert len(run), "the policy wastes ample memory for that many rows on end"
    assert dense[run[0] + rules.ample_rows :].all()
    assert not dense[: run[0] + rules.ample_rows].any()
