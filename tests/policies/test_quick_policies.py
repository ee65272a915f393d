"""Decisions by compiled code: those of the reference, whatever is seen."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_world import CARD_BYTES, STORY
from worlds import Trial, trials

from rapgym.arrays import BoolArray, FloatArray
from rapgym.baselines import hindsight
from rapgym.baselines.frontier_hysteresis import FrontierHysteresis
from rapgym.baselines.frontier_margin import FrontierMargin
from rapgym.baselines.frontier_recent import FrontierRecent
from rapgym.guard.guard import Guard, Guarding
from rapgym.guard.shadow import Shadows
from rapgym.guard.watchdog import Rules
from rapgym.learning.hindsight import quick as quick_hindsight
from rapgym.learning.sb3 import quick as quick_networks
from rapgym.policies import registry
from rapgym.policies.policy import Briefing, briefing
from rapgym.policies.reference import FrontierLookup
from rapgym.scenarios.catalogue import story_of
from rapgym.scenarios.lanes import Lanes, Start
from rapgym.world import encoding, pace, reading
from rapgym.world.twin import fixed

SCENARIO = "chat-bursty-8bit"  # one for which every method that learns was trained
LEARNED = ("hindsight", "dqn", "maskable_ppo", "ppo_counts", "forecast-hindsight")


def built(name: str, told: Briefing) -> Any:
    """A policy of the list, with its settings for a scenario."""
    entry = registry.entry(name)
    return registry.build(entry, registry.settings(entry, told))


def seen_of(trial: Trial, ages: list[int]) -> tuple[Briefing, FloatArray]:
    """What its lanes see, with what is loaded as its last proposal has it."""
    where = encoding.layout(trial.world, card_bytes=CARD_BYTES)
    state = replace(trial.state, loaded=trial.proposals[-1])
    visible = encoding.visible(trial.world, state, np.array(ages))
    return Briefing(STORY, trial.world, where), encoding.observe(trial.world, where, visible)


LOOKUPS: dict[str, Callable[[], Any]] = {
    "frontier": FrontierLookup,
    "margin": lambda: FrontierMargin(0.1),
    "recent": lambda: FrontierRecent(0.05, 0.5),
    "hysteresis": lambda: FrontierHysteresis(0.05, 0.1, 1),
}


@pytest.mark.parametrize("name", LOOKUPS)
@given(trials(most_lanes=5), st.data())
def test_the_compiled_lookup_is_the_lookup(name: str, trial: Trial, data: st.DataObject) -> None:
    told, seen = seen_of(trial, [data.draw(st.integers(0, 10)) for _ in range(trial.state.lanes)])
    found = dict[bool, BoolArray]()
    for is_loaded in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pace, "is_loaded", lambda is_loaded=is_loaded: is_loaded)
            policy = LOOKUPS[name]()
            policy.reset(len(seen), told)
            found[is_loaded] = policy.propose(seen, np.random.default_rng(0))
            assert (policy._lookup._quick is not None) == is_loaded
    assert (found[True] == found[False]).all()


@given(trials(most_lanes=5), st.data())
def test_observations_are_read_alike(trial: Trial, data: st.DataObject) -> None:
    told, seen = seen_of(trial, [data.draw(st.integers(0, 10)) for _ in range(trial.state.lanes)])
    for observation in (seen, seen[0]):
        found = reading.Reader(told.layout).read(observation)
        wanted = encoding.read(told.layout, observation)
        for name in ("batch", "prompt_tokens", "reserved_tokens", "longest_tokens", "limit_bytes",
                     "announced_limit_bytes", "recent_limit_bytes", "loaded"):  # fmt: skip
            one, other = getattr(found, name), getattr(wanted, name)
            assert one.dtype == other.dtype, name
            assert one.tolist() == other.tolist(), name


@given(trials(most_lanes=4))
def test_the_compiled_look_ahead_is_that_of_the_reference(trial: Trial) -> None:
    found = list[Any]()
    for is_loaded in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pace, "is_loaded", lambda is_loaded=is_loaded: is_loaded)
            shadows = Shadows(trial.world, trial.state)
            assert (shadows.twin is not None) == is_loaded
            told = list[list[float]]()
            for proposal in trial.proposals:
                asked = proposal, trial.proposals[0], trial.strict
                for costs in (shadows.foreseen(*asked), shadows.serve(*asked)):
                    told += [costs.policy.tolist(), costs.reference.tolist()]
            found.append(told)
    assert found[0] == found[1]


@pytest.fixture(scope="module")
def told() -> Briefing:
    return briefing(story_of(SCENARIO), "fit-3")


def varied(told: Briefing, lanes: Lanes, rows: int) -> list[FloatArray]:
    """Observations along a split, blocks in memory drawn at random."""
    rng, found = np.random.default_rng(4), list[FloatArray]()
    for _ in range(rows):
        loaded = rng.random((1, told.train.blocks)) < rng.random()
        found.append(lanes.observe_with(loaded | told.train.floor))
        lanes.serve(rng.random((1, told.train.blocks)) < 0.9)
    return found


@pytest.mark.parametrize("name", LEARNED)
def test_methods_that_learned_decide_as_their_reference_does(
    name: str, told: Briefing, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes = Lanes(told.scenario, "validation-3", 1)
    lanes.restart(0, Start(0, 0, 1.0, 100))
    observations, found = varied(told, lanes, 100), dict[bool, list[Any]]()
    for is_loaded in (False, True):
        monkeypatch.setattr(pace, "is_loaded", lambda is_loaded=is_loaded: is_loaded)
        policy, rng = built(name, told), np.random.default_rng(0)
        policy.reset(1, told)
        found[is_loaded] = [policy.propose(seen, rng).tolist() for seen in observations]
    assert found[True] == found[False]


def test_what_hindsight_says_of_costs_is_near_enough(
    told: Briefing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "is_loaded", lambda: True)
    lanes, agent = Lanes(told.scenario, "validation-3", 1), built("hindsight", told)
    assert isinstance(agent, hindsight.Agent)
    agent.reset(1, told)
    for (seen,) in varied(told, lanes, 60):
        found, wanted = agent.quick_costs(seen), agent.costs(seen)[0]
        assert found is not None
        assert (np.isfinite(found) == np.isfinite(wanted)).all()
        fits = np.isfinite(wanted)
        assert np.abs(found[fits] - wanted[fits]).max() < quick_hindsight.NEAR / 4


@pytest.mark.parametrize("module", [quick_hindsight, quick_networks])
def test_where_all_are_near_the_reference_decides(
    module: Any, told: Briefing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "is_loaded", lambda: True)
    if module is quick_networks:
        values = np.array([0.5, 0.7, 0.7 + 1e-6, 0.1], dtype=np.float32)
        assert module._highest(values, 0, 4) == -1
        assert module._highest(values, 0, 2) == 1
        return
    agent = built("hindsight", told)
    lanes = Lanes(told.scenario, "validation-3", 1)
    agent.reset(1, told)
    seen = lanes.observe()
    net = agent._compiled()._net
    names = ("third", "third_bias", "loss", "to_lose")
    alike = net._replace(**{name: fixed(0 * getattr(net, name)) for name in names})
    chosen, whole = module.Quick(alike).chosen(seen)
    assert (chosen.tolist(), whole) == ([-1], False)
    chosen, whole = module.Quick(net).chosen(seen)
    assert (chosen.tolist(), whole) == ([agent._choose(seen[0])], True)


@pytest.mark.parametrize("watched", [False, True])
def test_a_warm_guard_has_all_code_at_hand_and_decides_alike(
    watched: bool, told: Briefing, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = Rules() if watched else None
    found = list[list[Any]]()
    for warm in (False, True):
        asked = list[int]()
        lanes, policy = Lanes(told.scenario, "validation-3", 1), counting(asked)
        lanes.restart(0, Start(0, 0, 1.0, 20))
        guard = Guard(policy, lanes, told, Guarding(rules, warm=warm))
        assert (lanes.twin is not None) == warm
        assert asked == ([0, 1, 0] if warm else [0])  # reset, asked, reset
        rng = np.random.default_rng(0)
        rows = [guard.serve(rng) for _ in range(20)]
        found.append([(r.decided.asked.tolist(), r.outcome.kept.tolist(), r.decided.source.tolist(),
                       r.decided.observation.tolist()) for r in rows])  # fmt: skip
        state = lanes.state
        made = lanes.shield(rows[-1].decided.proposal, rows[-1].decided.source, guard._strict)
        assert made.kept.shape == state.loaded.shape
        assert lanes.state is state, "nothing was served"
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["frontier", "forecast", *LEARNED[:-1]])
def test_a_reset_in_the_same_world_keeps_compiled_parts_and_in_another_makes_them_anew(
    name: str, told: Briefing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "is_loaded", lambda: True)
    policy = built(name, told)
    holder = {"frontier": "_lookup", "dqn": "_steps", "maskable_ppo": "_steps"}.get(name)
    lanes, rng, made = Lanes(told.scenario, "validation-3", 1), np.random.default_rng(0), []
    for briefed in (told, told, replace(told)):
        policy.reset(1, briefed)
        policy.propose(lanes.observe(), rng)
        made.append((policy if holder is None else getattr(policy, holder))._quick)
    assert made[0] is not None
    assert made[0] is made[1]
    assert made[1] is not made[2]


@pytest.mark.parametrize("name", ["frontier", "forecast", *LEARNED[:-1]])
def test_compiled_code_is_given_lanes_alone(
    name: str, told: Briefing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "is_loaded", lambda: True)
    policy = built(name, told)
    policy.reset(1, told)
    seen = Lanes(told.scenario, "validation-3", 1).observe()
    with pytest.raises((ValueError, IndexError), match="lanes"):
        policy.propose(seen[0], np.random.default_rng(0))
    if name == "forecast":
        with pytest.raises(IndexError, match="2 lanes, of which 1"):
            policy.propose(np.repeat(seen, 2, axis=0), np.random.default_rng(0))


def counting(asked: list[int]) -> Any:
    """The lookup, which notes when it is reset (0) and asked (1)."""

    class Counting(FrontierLookup):
        def reset(self, batch: int, briefing: Briefing) -> None:
            asked.append(0)
            super().reset(batch, briefing)

        def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
            asked.append(1)
            return super().propose(observation, rng)

    return Counting()
