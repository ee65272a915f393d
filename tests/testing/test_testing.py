"""The door for users: is a policy safe, and does it survive? And strategies for tests of their own."""

import doctest
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapgym import testing
from rapgym.arrays import BoolArray, FloatArray
from rapgym.errors import InvalidPolicy, InvalidSpec
from rapgym.guard.guard import ask
from rapgym.policies.policy import Briefing, Policy
from rapgym.testing import BrokenPromise, Witness, check_policy, policies_strategy, worlds_strategy
from rapgym.world import simulator
from rapgym.world.records import World

ROWS = 10


class Dense:
    """Proposes everything, always."""

    def reset(self, batch: int, briefing: Briefing) -> None:
        self.blocks = briefing.layout.blocks

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        return np.ones((len(observation), self.blocks), dtype=bool)


class Moody(Dense):
    """Now and then gives what is no proposal."""

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> Any:
        return "nothing" if rng.random() < 0.5 else super().propose(observation, rng)


class Restless(Dense):
    """Draws from a stream of its own, so that no seed repeats it."""

    drawn = np.random.default_rng(0)

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        return self.drawn.random((len(observation), self.blocks)) < 0.5


def test_one_paragraph_says_that_a_policy_survives_and_what_the_shield_did() -> None:
    found = check_policy(Dense, rows=ROWS)
    assert found.survives
    assert found.repaired > 0, "what proposes everything is cut where memory is short"
    assert found.tally.decisions == sum(visit.tally.decisions for visit in found.visits)
    text = str(found)
    assert "\n" not in text
    assert "Dense survives" in text
    assert "The shield cut" in text


def test_answers_that_cannot_be_read_are_counted_and_explained() -> None:
    found = check_policy(Moody(), rows=ROWS)
    assert not found.survives
    assert 0 < found.unreadable < found.tally.decisions
    assert "does not survive" in str(found)
    assert "the reference policy decided instead" in str(found)


def test_a_policy_that_no_seed_repeats_is_told_why() -> None:
    found = check_policy(Restless, rows=ROWS)
    assert not found.survives
    assert not found.unreadable
    assert "draw from the `rng`" in str(found)


def test_a_name_of_the_list_and_a_learned_policy_can_be_checked() -> None:
    for name in ("gsi", "hindsight"):
        found = check_policy(name, rows=ROWS)
        assert found.survives, str(found)


@pytest.mark.parametrize(
    ("policy", "error"), [(7, InvalidPolicy), ("nobody", InvalidPolicy), (object(), InvalidPolicy)]
)
def test_what_is_no_policy_is_refused(policy: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        check_policy(policy, rows=2)


def test_an_unknown_scenario_is_refused() -> None:
    with pytest.raises(InvalidSpec):
        check_policy(Dense, "nowhere", rows=2)


def test_the_example_of_the_docstring_runs() -> None:
    found = doctest.DocTestFinder().find(testing.check_policy, globs={"check_policy": check_policy})
    runner = doctest.DocTestRunner()
    for each in found:
        runner.run(each)
    assert runner.tries > 0
    assert runner.failures == 0


def _served(world: World, policy: Policy, step: Any) -> None:
    """A row with whatever a policy answers to an observation of no length."""
    state = world.state(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64), np.ones(1))
    proposal, _ = ask(
        policy, np.zeros((1, 1), dtype=np.float32), np.random.default_rng(0), world.blocks
    )
    step(world, state, proposal)


@given(worlds_strategy(), policies_strategy())
def test_the_strategies_serve_a_users_own_test_of_the_shield(world: World, policy: Policy) -> None:
    _served(world, policy, Witness(simulator.step))


def test_a_witness_catches_a_step_that_breaks_its_promise() -> None:
    def forgetful(world: World, state: Any, proposal: BoolArray, *more: Any) -> Any:
        """Executes every proposal, whatever fits."""
        following, outcome = simulator.step(world, state, proposal, *more)
        outcome.kept[...] = proposal | world.floor
        return following, outcome

    @settings(database=None)
    @given(worlds_strategy(), st.just(None))
    def tried(world: World, nothing: None) -> None:
        state = world.state(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64), np.ones(1))
        Witness(forgetful)(world, state, np.ones((1, world.blocks), dtype=bool))

    with pytest.raises(BrokenPromise):
        tried()
