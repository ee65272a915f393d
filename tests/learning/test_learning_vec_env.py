"""The adapter for Stable-Baselines3: lane by lane what DummyVecEnv gives, masks and ends included."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from rapgym.envs.registration import IDS
from rapgym.errors import InvalidSpec
from rapgym.learning.sb3.vec_env import RapVecEnv

pytestmark = pytest.mark.usefixtures("shaped", "toy_story")

LANES = 3


def pair(env_id: str, **settings: Any) -> tuple[RapVecEnv, DummyVecEnv]:
    settings = {"scenario": "toy"} | settings
    dummy = DummyVecEnv(
        [lambda: gymnasium.make(env_id, disable_env_checker=True, **settings) for _ in range(LANES)]
    )
    return RapVecEnv.make(env_id, LANES, **settings), dummy


def actions_of(space: gymnasium.Space[Any], rng: np.random.Generator) -> np.ndarray:
    """Actions of all lanes; STOP half of the time in RAP-v0, so that rows and episodes end."""
    space.seed(int(rng.integers(1 << 30)))
    drawn = np.stack([space.sample() for _ in range(LANES)])
    if isinstance(space, gymnasium.spaces.Discrete):
        return np.where(rng.random(LANES) < 0.5, space.n - 1, drawn)
    return drawn


def assert_same(native: Any, single: Any, where: str) -> None:
    if isinstance(single, dict):
        assert native.keys() == single.keys(), where
        for name, value in single.items():
            assert_same(native[name], value, f"{where}.{name}")
    else:
        assert np.array_equal(native, single), where


@pytest.mark.parametrize("observation", ["flat", "dict"])
@pytest.mark.parametrize("env_id", IDS)
def test_lanes_are_those_of_dummy_vec_env(env_id: str, observation: str) -> None:
    native, dummy = pair(env_id, observation=observation)
    native.seed(7)
    dummy.seed(7)
    assert_same(native.reset(), dummy.reset(), "first observation")
    rng, ends = np.random.default_rng(0), 0
    for step in range(400):
        actions = actions_of(native.action_space, rng)
        here, there = native.step(actions), dummy.step(actions)
        assert_same(here[0], there[0], f"observation after step {step}")
        assert np.array_equal(here[1], there[1])
        assert np.array_equal(here[2], there[2])
        for lane in range(LANES):
            assert_same(here[3][lane], there[3][lane], f"info of lane {lane} after step {step}")
            assert_same(native.reset_infos[lane], dummy.reset_infos[lane], "info of a reset")
        assert np.array_equal(get_action_masks(native), get_action_masks(dummy))
        ends += int(here[2].sum())
    assert ends > LANES, "episodes ended, so terminal observations were compared"


def test_maskable_policies_find_the_masks() -> None:
    native = RapVecEnv.make("RAP-v0", LANES, scenario="toy")
    assert is_masking_supported(native)
    model = MaskablePPO("MlpPolicy", native, n_steps=16, batch_size=16, seed=0, device="cpu")
    model.learn(64)
    observation = native.reset()
    chosen, _ = model.predict(observation, action_masks=get_action_masks(native))
    assert get_action_masks(native)[np.arange(LANES), chosen].all()


def test_training_repeats_itself_from_its_seed() -> None:
    def weights() -> dict[str, Any]:
        env = RapVecEnv.make("RAP-Counts-v0", LANES, scenario="toy")
        model = PPO("MlpPolicy", env, n_steps=32, batch_size=32, seed=3, device="cpu").learn(96)
        return model.policy.state_dict()

    first, second = weights(), weights()
    assert all((first[name] == second[name]).all() for name in first)


def test_what_lanes_do_not_have_is_said() -> None:
    native = RapVecEnv.make("RAP-v0", 2, scenario="toy")
    with pytest.raises(InvalidSpec, match="no method"):
        native.env_method("render")
    with pytest.raises(InvalidSpec, match="attributes"):
        native.set_attr("x", 1)
    with pytest.raises(InvalidSpec, match="native vector form"):
        RapVecEnv.make("CartPole-v1", 2)
