"""The mean of forecast's and hindsight's expectations: by a plain loop, on what both have an opinion on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy_world

from rapgym.arrays import BoolArray, FloatArray
from rapgym.baselines.forecast import Plain
from rapgym.baselines.forecast_hindsight import Mean
from rapgym.baselines.hindsight import Agent
from rapgym.errors import InvalidPolicy
from rapgym.files import places
from rapgym.learning.hindsight.features import Inputs
from rapgym.policies import registry, trained
from rapgym.policies.basis import basis
from rapgym.policies.policy import Briefing, briefing
from rapgym.policies.reference import frontier
from rapgym.policies.trained import TrainedPolicy
from rapgym.scenarios import worlds
from rapgym.scenarios.story import Scenario
from rapgym.world import encoding

MEMBERS, WIDTH, KNOTS = 2, 5, 6


def run_of(story: Scenario, told: Briefing, seed: int) -> TrainedPolicy:
    """A network that has learnt nothing, but says something of everything."""
    rng, inputs = np.random.default_rng(seed), Inputs(told.layout)
    sizes = (len(inputs.group), WIDTH, WIDTH, 2 * KNOTS)
    arrays = {"mean": np.zeros(sizes[0]), "scale": np.ones(sizes[0])}
    for layer in range(3):
        shape = (MEMBERS, sizes[layer], sizes[layer + 1])
        arrays[f"w{layer + 1}"] = rng.normal(0, 0.5, shape)
        arrays[f"b{layer + 1}"] = rng.normal(0, 0.2, (MEMBERS, 1, sizes[layer + 1]))
    arrays["near"], arrays["level"] = np.linspace(0, 0.5, KNOTS), np.linspace(0, 1, KNOTS)
    return TrainedPolicy(
        method="hindsight",
        scenario=story.id,
        told="train",
        seed=0,
        **basis(story),
        observation={"schema": encoding.SCHEMA, "blocks": told.layout.blocks},
        training={"opened": ["learn"], "seconds": 1.0},
        arrays=arrays,
    )


@pytest.fixture
def file(toy_story: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The run that serves test rows, where it is looked for."""
    monkeypatch.setattr(places, "TRAINED", tmp_path / "trained")
    name = trained.place("hindsight", toy_story, "train", 0)
    path = tmp_path / "trained" / f"{name}.npz"
    trained.write(path, run_of(toy_story, briefing(toy_story), 1))
    return name


def seen_by(story: Scenario, told: Briefing, lanes: int) -> FloatArray:
    world, rng = worlds.world(story, "validation-3"), np.random.default_rng(2)
    loaded: BoolArray = rng.random((lanes, 6)) < 0.6
    loaded[:, :2] = True
    row, limit_row = rng.integers(0, len(world.rows), (2, lanes)).tolist()
    state = toy_world.lanes_at(world, row, limit_row)
    state = world.state(state.row, state.limit_row, loaded=loaded)
    seen = encoding.visible(world, state, np.full(lanes, encoding.HISTORY))
    return encoding.observe(world, told.layout, seen)


def test_it_takes_the_least_mean_of_both(toy_story: Scenario, file: str) -> None:
    story = replace(toy_story, restore_s=0.2)  # else what returns decides
    told, lanes = briefing(story), 120
    seen, front = seen_by(story, told, lanes), frontier(told.quality)
    both, plain, agent = Mean(file), Plain(), Agent(file)
    rng = np.random.default_rng(0)
    for policy in (both, plain, agent):
        policy.reset(lanes, told)
    found = both.propose(seen, rng)
    others = [policy.propose(seen, rng) for policy in (plain, agent)]
    reading = told.read(seen)
    compared = 0
    for lane in range(lanes):
        sets, cost = plain.costs(reading, lane)
        second = dict(
            zip(agent.of_frontier.tolist(), agent.costs(seen[lane])[0].tolist(), strict=True)
        )
        means = {
            k: (own + second[k]) / 2
            for k, own in zip(sets.tolist(), cost.tolist(), strict=True)
            if np.isfinite(second.get(k, np.inf))
        }
        if means:
            assert (found[lane] == front.kept[min(means, key=lambda k: means[k])]).all()
            compared += 1
    assert compared > lanes / 2
    for other in others:
        assert (found != other).any(axis=1).sum() > 5, "it is neither of the two"
    alone = Mean(file)
    alone.reset(1, told)
    assert (alone.propose(seen[[7]], rng) == found[7]).all(), "lanes decide alone"


def test_what_only_one_has_an_opinion_on_is_left_out(toy_story: Scenario, file: str) -> None:
    policy = Mean(file)
    policy.reset(1, briefing(toy_story))
    policy._place = np.array([-1, 0, 1, 2, -1])
    sets, cost = np.array([0, 1, 2, 4]), np.array([0.0, 0.4, 0.3, 0.0])
    assert policy._choice(sets, cost, np.array([0.1, 0.3, 0.0])) == 1, "0.25 against 0.3"
    assert policy._choice(sets, cost, np.array([np.inf, 0.9, 0.0])) == 2, "set 1 does not fit"
    assert policy._choice(sets, cost, np.array([0.2 + 1e-12, 0.3, 0.0])) == 1, (
        "ties: the better set"
    )
    assert policy._choice(sets, cost, np.full(3, np.inf)) == 0, "forecast-plain decides alone"


def test_it_is_built_from_the_run_of_hindsight(toy_story: Scenario, file: str) -> None:
    told = briefing(toy_story)
    entries = [registry.entry(name) for name in ("forecast-hindsight", "hindsight")]
    mine, other = (registry.settings(entry, told) for entry in entries)
    assert mine == other
    assert mine["file"] == file
    assert isinstance(registry.build(entries[0], mine), Mean)
    assert registry.trained_seeds(entries[0], toy_story) == [0]
    with pytest.raises(InvalidPolicy, match="run: rapgym train hindsight --scenario toy --publish"):
        registry.settings(entries[0], told, seed=1)
    plain = registry.entry("forecast-plain")
    assert registry.settings(plain, told) == {}
    assert registry.build(plain, {})._settings == (1.0, 1.0, 1.0)
