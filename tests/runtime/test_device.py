"""Rows served on a device: what they cost, and what memory held, against the simulated world."""

import numpy as np
import pytest
from hypothesis import given
from table_device import CARD_BYTES, Memory, lane, step_of
from toy_table import kept_without
from toy_world import lanes_at, toy_rows, toy_world
from worlds import Trial, trials

from rapgym.errors import InvalidSpec
from rapgym.scenarios.lanes import Lanes, Start
from rapgym.scenarios.story import Scenario
from rapgym.world import simulator


@given(trials())
def test_a_device_that_is_as_the_world_gives_what_the_world_gives(trial: Trial) -> None:
    world, at = trial.world, trial.state
    steps = [step_of(world, at.loaded[index]) for index in range(at.lanes)]
    states = [lane(at, index) for index in range(at.lanes)]
    for proposals in trial.proposals:
        at, wanted = simulator.step(world, at, proposals, None, trial.strict)
        for index, step in enumerate(steps):
            one = slice(index, index + 1)
            states[index], found = step(
                world, states[index], proposals[one], None, trial.strict[one]
            )
            for name in ("kept", "kept_end", "refused", "reason", "limit_bytes"):
                assert (getattr(found, name) == getattr(wanted, name)[one]).all(), name
            for name in ("loss", "stall", "emergency", "refused"):
                ours, theirs = getattr(found.seconds, name), getattr(wanted.seconds, name)[one]
                assert ours == pytest.approx(theirs, abs=1e-9), name
            assert found.nll == pytest.approx(wanted.nll[one])
            assert found.used_bytes == wanted.used_bytes[one]
            assert found.reward == pytest.approx(wanted.reward[one], abs=1e-9)
            for name in ("row", "limit_row", "loaded"):
                assert (getattr(states[index], name) == getattr(at, name)[one]).all(), name


@given(trials())
def test_with_the_shield_no_byte_of_the_card_is_used_twice(trial: Trial) -> None:
    world = trial.world
    for index in range(trial.state.lanes):
        state = lane(trial.state, index)
        step = step_of(world, state.loaded[0])
        memory = step.meter
        assert isinstance(memory, Memory)
        for number, proposals in enumerate(trial.proposals):
            one = slice(index, index + 1)
            state, _ = step(world, state, proposals[one], None, trial.strict[one])
            assert step.last is not None
            assert step.last.over_bytes == 0
            if number == 0:  # every block was in memory before, wherever the limit stood
                memory.over = 0
            assert memory.over == 0


@pytest.mark.parametrize("reaction_s", [0.0, 0.25, 1.0, 3.0])
def test_an_emergency_drops_blocks_and_pauses_for_the_reaction(reaction_s: float) -> None:
    rows = toy_rows([10], [[600, 400, 520, 520]])  # dense takes 520
    world, lost = toy_world(rows, reaction_s=reaction_s), min(reaction_s, 1.0)
    step = step_of(world, np.ones(6, dtype=bool))
    _, outcome = step(world, lanes_at(world, [0]), np.ones((1, 6), dtype=bool))
    assert step.last is not None
    assert [segment.seconds for segment in step.last.segments] == [1.0, 3.0 - lost]
    assert outcome.seconds.emergency == [lost]
    assert step.last.dropped_blocks == np.count_nonzero(~outcome.kept_end[0]) > 0
    assert step.last.peak_bytes[0] == 520
    assert max(step.last.peak_bytes[1:]) <= 400


def test_without_the_shield_the_limit_is_exceeded_and_said_so() -> None:
    world = toy_world(toy_rows([10], [[400] * 4]))
    step = step_of(world, np.ones(6, dtype=bool), shielded=False)
    _, outcome = step(world, lanes_at(world, [0]), np.ones((1, 6), dtype=bool))
    assert step.last is not None
    assert outcome.kept.all()
    assert step.last.over_bytes == 520 - 400
    assert outcome.limit_bytes == [400]


def test_a_device_serves_one_lane() -> None:
    world = toy_world(toy_rows([1], [[600]]))
    step = step_of(world, np.ones(6, dtype=bool))
    with pytest.raises(InvalidSpec, match="one lane"):
        step(world, lanes_at(world, [0, 0]), np.ones((2, 6), dtype=bool))


def test_lanes_are_served_by_the_step_they_are_given(toy_story: Scenario) -> None:
    simulated = Lanes(toy_story, "validation-3", 1)
    step = step_of(simulated.world, np.ones(6, dtype=bool))
    live = Lanes(toy_story, "validation-3", 1, step=step)
    proposal = kept_without(2)[None]
    for lanes in (simulated, live):
        lanes.restart(0, Start(0, 3, 1.0, 20))
    for _ in range(20):
        assert (simulated.observe() == live.observe()).all()
        wanted, found = simulated.serve(proposal), live.serve(proposal)
        assert found.reward == pytest.approx(wanted.reward)


def test_the_tenant_takes_what_the_limit_of_each_second_leaves_it() -> None:
    limits = [600, 400, 700, 520]
    world = toy_world(toy_rows([10], [limits]))
    step = step_of(world, np.ones(6, dtype=bool))
    step(world, lanes_at(world, [0]), np.ones((1, 6), dtype=bool))
    assert isinstance(step.tenant, Memory)
    assert step.tenant.orders == [CARD_BYTES - limit for limit in limits]
