"""The adapter for Stable-Baselines3: lane by lane what DummyVecEnv gives, masks and ends included."""

import tempfile
from pathlib import Path
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
from rapgym.learning.sb3 import agents, plain
from rapgym.learning.sb3.vec_env import RapVecEnv
from rapgym.policies.policy import briefing
from rapgym.scenarios import catalogue

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
    for step in range(300):
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
    model = MaskablePPO(
        "MlpPolicy", native, n_steps=16, batch_size=16, n_epochs=2, seed=0, device="cpu"
    )
    agents.be_silent(model)
    model.learn(64)
    observation = native.reset()
    chosen, _ = model.predict(observation, action_masks=get_action_masks(native))
    assert get_action_masks(native)[np.arange(LANES), chosen].all()


def test_training_repeats_itself_from_its_seed() -> None:
    def weights() -> dict[str, Any]:
        env = RapVecEnv.make("RAP-Counts-v0", LANES, scenario="toy")
        model = PPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=2, seed=3, device="cpu")
        agents.be_silent(model)
        return model.learn(96).policy.state_dict()

    first, second = weights(), weights()
    assert all((first[name] == second[name]).all() for name in first)


def test_plain_ppo_learns_a_policy_and_logs_nothing() -> None:
    policy = plain.ppo(
        "toy", 256, lanes=16, gamma=0.0, observations=True, reward=False, seed=0
    )  # fmt: skip
    told = briefing(catalogue.scenario("toy"))
    policy.reset(1, told)
    seen = np.zeros((1, told.layout.size), dtype=np.float32)
    assert policy.propose(seen, np.random.default_rng(0)).shape == (1, told.layout.blocks)
    assert not [*Path(tempfile.gettempdir()).glob("SB3-*")]


def test_each_lane_has_the_attributes_of_its_own_environment() -> None:
    native, dummy = pair("RAP-KeptSet-v0", split="train")
    for env in (native, dummy):
        env.seed(5)
        env.reset()
    for name in ("action_space", "observation_space", "render_mode", "np_random_seed"):
        assert native.get_attr(name) == dummy.get_attr(name), name
        assert native.get_attr(name, 1) == dummy.get_attr(name, 1), name
    assert native.get_attr("np_random_seed", [2, 0]) == [7, 5]
    for ours, theirs in zip(native.get_attr("np_random"), dummy.get_attr("np_random"), strict=True):
        assert ours.random() == theirs.random()
    for env in (native, dummy):  # the generators that were drawn from are those of the lanes
        env.reset()
    for ours, theirs in zip(native.get_attr("np_random"), dummy.get_attr("np_random"), strict=True):
        assert ours.random() == theirs.random()
    for space in native.get_attr("action_space"):
        space.seed(3)
    first, second = (space.sample() for space in native.get_attr("action_space", [0, 1]))
    assert (first == second).all(), "each lane draws from its own space"
    for ours, theirs in zip(native.get_attr("spec"), dummy.get_attr("spec"), strict=True):
        assert ours.max_episode_steps == theirs.max_episode_steps == 64


def test_attributes_are_set_lane_by_lane() -> None:
    native, dummy = pair("RAP-Counts-v0")
    for env in (native, dummy):
        env.set_attr("note", "mine", indices=[0, 2])
        assert env.get_attr("note", [0, 2]) == ["mine", "mine"]
        assert env.env_is_wrapped(gymnasium.wrappers.RecordEpisodeStatistics) == [False] * LANES
    assert not native.has_attr("note")
    with pytest.raises(AttributeError, match="note"):
        native.get_attr("note", 1)
    native.set_attr("np_random", np.random.default_rng(4), indices=1)
    dummy.envs[1].unwrapped.np_random = np.random.default_rng(4)
    native.seed(2)
    dummy.seed(2)
    native._seeds[1] = dummy._seeds[1] = None
    assert_same(native.reset(), dummy.reset(), "drawn from what was set")


def test_episodes_are_cut_and_paired_as_stated() -> None:
    native, dummy = pair("RAP-v0", split="test", max_episode_steps=7)
    for env in (native, dummy):
        env.set_options({"offset": 2})
    assert_same(native.reset(), dummy.reset(), "first observation")
    rng, ends = np.random.default_rng(0), 0
    for step in range(60):
        actions = actions_of(native.action_space, rng)
        here, there = native.step(actions), dummy.step(actions)
        for ours, theirs in zip(here[:3], there[:3], strict=True):
            assert_same(ours, theirs, f"after step {step}")
        ends += int(here[2].sum())
    assert ends == 60 // 7 * LANES


def test_what_lanes_do_not_have_is_said() -> None:
    native = RapVecEnv.make("RAP-v0", 2, scenario="toy")
    with pytest.raises(InvalidSpec, match="no method"):
        native.env_method("reset_everything")
    with pytest.raises(InvalidSpec, match="the same for all lanes"):
        native.set_attr("layout", 1)
    with pytest.raises(AttributeError, match="lanes"):
        native.get_attr("lanes")
    with pytest.raises(InvalidSpec, match="native vector form"):
        RapVecEnv.make("CartPole-v1", 2)
    with pytest.raises(InvalidSpec, match="autoreset_mode"):
        RapVecEnv.make("RAP-v0", 2, scenario="toy", autoreset_mode="SameStep")


def test_pictures_of_lanes_are_tiled() -> None:
    native = RapVecEnv.make("RAP-Counts-v0", 2, scenario="toy", render_mode="rgb_array")
    native.reset()
    one, other = native.get_images()
    assert one is not None
    assert other is not None
    assert (one != other).any(), "each lane's own"
    assert (native.env_method("render", indices=1)[0] == other).all()
    whole = native.render()
    assert whole is not None
    assert whole.shape == (2 * one.shape[0], one.shape[1], 3)
    assert native.metadata["render_fps"] == native.native.metadata["render_fps"]
