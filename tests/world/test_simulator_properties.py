"""The exact step against a plain second-by-second account, in worlds nobody chose."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from worlds import Trial, trials

from rapgym.arrays import BoolArray
from rapgym.testing.model import PlainWorld, Served, serve
from rapgym.world import simulator
from rapgym.world.records import Outcome, State
from rapgym.world.shield import Reason


def kept_of(bits: BoolArray) -> frozenset[int]:
    return frozenset(np.flatnonzero(bits).tolist())


def assert_same(outcome: Outcome, lane: int, plain: Served, window_s: int) -> None:
    assert kept_of(outcome.kept[lane]) == plain.kept
    assert kept_of(outcome.kept_end[lane]) == plain.kept_end
    assert Reason(outcome.reason[lane]).name.lower() == plain.reason
    assert outcome.refused[lane] == (plain.reason == "refused")
    assert outcome.used_bytes[lane] == plain.used_bytes
    assert outcome.nll[lane] == plain.nll
    assert outcome.measured[lane] == plain.measured
    assert tuple(fall.second for fall in outcome.falls if lane in fall.lanes) == plain.falls
    spent = outcome.seconds
    for name in ("stall", "emergency", "refused"):
        assert getattr(spent, name)[lane] == pytest.approx(plain.seconds[name], abs=1e-9), name
    assert sum(plain.seconds.values()) == pytest.approx(window_s)
    for name, value in plain.terms.items():
        assert getattr(outcome.terms, name)[lane] == pytest.approx(value, abs=1e-9), name
    assert outcome.reward[lane] == pytest.approx(-sum(plain.terms.values()), abs=1e-9)


@given(trials())
@settings(max_examples=150)
def test_a_step_equals_its_plain_account(trial: Trial) -> None:
    world, state = trial.world, trial.state
    plainly = PlainWorld.of(world)
    for proposal in trial.proposals:
        following, outcome = simulator.step(world, state, proposal, None, trial.strict)
        for lane in range(state.lanes):
            plain = serve(
                plainly,
                kept_of(state.loaded[lane]),
                kept_of(proposal[lane]),
                int(state.row[lane]),
                int(state.limit_row[lane]),
                float(state.token_scale[lane]),
                strict=bool(trial.strict[lane]),
            )
            assert_same(outcome, lane, plain, world.window_s)
        assert (following.loaded == outcome.kept_end).all()
        state = following


@given(trials())
def test_memory_is_never_overdrawn(trial: Trial) -> None:
    """Bytes counted from scratch: of what is executed, and of what is left when a row ends."""
    world, state, foot = trial.world, trial.state, trial.world.footprint
    for proposal in trial.proposals:
        asked, limit = world.demand(state), world.limits(state)
        state, outcome = simulator.step(world, state, proposal, None, trial.strict)
        for lane in range(state.lanes):

            def used(kept: BoolArray, tokens: int, lane: int = lane) -> int:
                attention, ffn = int(kept[0::2].sum()), int(kept[1::2].sum())
                activations = np.ceil(foot.activation_bytes_per_token * asked.prompt_tokens[lane])  # noqa: B023
                return 100 + int(activations) + attention * (40 + 4 * tokens) + ffn * 60

            tokens = int(asked.prompt_tokens[lane] + asked.reserved_tokens[lane])
            if not outcome.refused[lane]:
                assert outcome.used_bytes[lane] == used(outcome.kept[lane], tokens)
                assert outcome.used_bytes[lane] + foot.margin_bytes <= limit[lane, 0]
            served_to_the_end = outcome.seconds.refused[lane] == 0
            at_end = used(outcome.kept_end[lane], tokens if served_to_the_end else 0)
            nothing_left = not outcome.kept_end[lane].any()
            assert at_end + foot.margin_bytes <= limit[lane, -1] or nothing_left
            assert outcome.refused[lane] or not (outcome.kept_end[lane] & ~outcome.kept[lane]).any()


@given(trials())
def test_seconds_are_split_once_and_lie_in_their_window(trial: Trial) -> None:
    world, state = trial.world, trial.state
    for proposal in trial.proposals:
        state, outcome = simulator.step(world, state, proposal, None, trial.strict)
        spent, weight = outcome.seconds, outcome.output_tokens / world.mean_output_tokens
        lost = spent.stall + spent.emergency + spent.refused
        assert (spent.stall >= 0).all()
        assert (lost <= world.window_s + 1e-9).all()
        served = world.window_s - lost
        assert (spent.loss <= served * world.ceiling + 1e-9).all(), "a served token costs at most C"
        assert (spent.loss >= -1e-9).all(), "in the toy world dropping never helps"
        assert outcome.terms.total == pytest.approx(
            weight * (spent.loss + lost * world.ceiling) / world.window_s
        )


def part_of(state: State, lane: int) -> State:
    return state.at(slice(lane, lane + 1))


@given(trials())
def test_lanes_are_independent_and_a_step_has_no_memory(trial: Trial) -> None:
    world = trial.world
    alone = [part_of(trial.state, lane) for lane in range(trial.state.lanes)]
    together = trial.state
    for proposal in trial.proposals:
        before = [getattr(together, field.name).copy() for field in fields(State)]
        following, outcome = simulator.step(world, together, proposal, None, trial.strict)
        again, same = simulator.step(world, together, proposal, None, trial.strict)
        for field, was in zip(fields(State), before, strict=True):
            assert (getattr(together, field.name) == was).all(), "arguments are not written to"
            assert (getattr(again, field.name) == getattr(following, field.name)).all()
        for lane in range(together.lanes):
            alone[lane], single = simulator.step(
                world, alone[lane], proposal[lane][None], None, trial.strict[[lane]]
            )
            for one in (outcome, same):
                assert single.reward.tobytes() == one.reward[lane].tobytes(), "to the last bit"
                assert (single.kept[0] == one.kept[lane]).all()
                assert (single.kept_end[0] == one.kept_end[lane]).all()
        together = following


@given(trials(most_lanes=2))
def test_the_floor_in_a_proposal_is_ignored(trial: Trial) -> None:
    floor = trial.world.floor
    for proposal in trial.proposals:
        with_floor, without = (
            simulator.step(trial.world, trial.state, bits, None, trial.strict)[1]
            for bits in (proposal | floor, proposal & ~floor)
        )
        assert (with_floor.kept == without.kept).all()
        assert (with_floor.kept_end == without.kept_end).all()
        assert (with_floor.reward == without.reward).all()
