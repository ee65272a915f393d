"""A trained model of Stable-Baselines3 as a policy, in memory and from its file."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest

import rapgym
from rapgym.errors import InvalidPolicy
from rapgym.guard import foreign
from rapgym.guard.foreign import Foreign, Terms
from rapgym.learning import as_policy
from rapgym.policies import registry
from rapgym.policies.policy import briefing
from rapgym.rollout import rollout
from rapgym.scenarios.lanes import Lanes, Start
from rapgym.scenarios.story import Scenario

sb3 = pytest.importorskip("stable_baselines3")


def model(story: Scenario, name: str = "RAP-Counts-v0") -> object:
    return sb3.PPO("MlpPolicy", gymnasium.make(name, scenario=story.name), n_steps=8, batch_size=8, device="cpu", seed=1)  # fmt: skip


def test_a_model_decides_as_a_policy_and_so_does_its_file(
    toy_story: Scenario, tmp_path: Path
) -> None:
    trained = model(toy_story)
    trained.save(tmp_path / "model.zip")  # type: ignore[attr-defined]
    told, rows = briefing(toy_story), Start(0, 0, 1.0, 6)
    here = rollout.episode(as_policy(trained), Lanes(toy_story, "test", 1), rows, told, [0])
    counts = told.quality.grid_kept.reshape(-1, told.train.blocks)
    assert all((counts == kept).all(axis=1).any() for kept in here.proposal[:, 0])
    entry = registry.entry(f"sb3:{tmp_path / 'model.zip'}")
    assert entry.is_own
    with pytest.raises(InvalidPolicy, match="holds pickles"):
        foreign.check(entry, Terms())
    with Foreign(entry, entry.options, Terms(trust=True)) as make:
        there = rollout.episode(make(), Lanes(toy_story, "test", 1), rows, told, [0])
    assert np.array_equal(there.proposal, here.proposal)
    assert np.array_equal(there.source, here.source)


def test_a_model_of_single_blocks_or_of_other_observations_is_refused(
    toy_story: Scenario,
) -> None:
    with pytest.raises(InvalidPolicy, match="train it on RAP-Counts-v0"):
        as_policy(model(toy_story, "RAP-v0"))
    with pytest.raises(InvalidPolicy, match="no predict"):
        as_policy(object())
    other = as_policy(model(toy_story))
    with pytest.raises(InvalidPolicy, match="but observations here are"):
        rapgym.run_policy(other, "laptop", "check")
