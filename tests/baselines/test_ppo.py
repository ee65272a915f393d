"""PPO on counts: the shipped policy chooses as the torch network does."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

from learning_worlds import small_run, torch_network

from rapgym.baselines import ppo_counts
from rapgym.errors import InvalidPolicy
from rapgym.learning.sb3.vec_env import RapVecEnv
from rapgym.policies.policy import briefing
from rapgym.scenarios.story import Scenario


def test_counts_are_those_of_torch_on_10_000_observations(
    toy_story: Scenario, tmp_path: Path
) -> None:
    run = small_run("ppo_counts", toy_story, tmp_path)
    run.do()
    found = run.finished()
    assert found is not None
    rng = np.random.default_rng(0)
    shape = found.arrays["pi2_weight"].shape
    found.arrays["pi2_weight"] = rng.normal(0, 1, shape).astype(np.float16)
    told = briefing(toy_story, "learn")
    agent = ppo_counts.Agent.of(found)
    agent.reset(100, told)
    values = torch_network(found.arrays, "pi")
    env = RapVecEnv.make("RAP-Counts-v0", 100, scenario="toy", split="learn")
    env.seed(0)
    observation, seen = env.reset(), set()
    for _ in range(100):
        logits = values(observation)
        attention, ffn = logits[:, :3].argmax(axis=1), logits[:, 3:].argmax(axis=1)
        expected = told.quality.grid_kept[attention, ffn]
        assert (agent.propose(observation, rng) == expected).all()
        seen |= {(int(a), int(f)) for a, f in zip(attention, ffn, strict=True)}
        observation = env.step(np.stack([attention, ffn], axis=1))[0]
    assert len(seen) > 3


def test_before_learning_nothing_is_dropped(toy_story: Scenario, tmp_path: Path) -> None:
    run = small_run("ppo_counts", toy_story, tmp_path, steps="160", rounds="1", learning_rate="0.0",
                    shyness="3.0")  # fmt: skip
    run.do()
    found = run.finished()
    assert found is not None
    agent = ppo_counts.Agent.of(found)
    agent.reset(4, briefing(toy_story, "learn"))
    observation = RapVecEnv.make("RAP-Counts-v0", 4, scenario="toy", split="learn").reset()
    assert agent.propose(observation, np.random.default_rng(0)).all()


def test_other_observations_are_refused(toy_story: Scenario, tmp_path: Path) -> None:
    run = small_run("ppo_counts", toy_story, tmp_path, steps="160", rounds="1")
    run.do()
    found = run.finished()
    assert found is not None
    found.observation["schema"] = 99
    with pytest.raises(InvalidPolicy, match="schema"):
        ppo_counts.Agent.of(found).reset(1, briefing(toy_story, "learn"))
