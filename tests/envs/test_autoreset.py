"""Ends and resets of the vector form are those of Gymnasium's own form over single environments."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rapgym.envs.registration import IDS
from rapgym.errors import InvalidAction

pytestmark = pytest.mark.usefixtures("shaped", "toy_story")

LANES = 3
every_id = pytest.mark.parametrize("env_id", IDS)
every_mode = pytest.mark.parametrize("mode", AutoresetMode, ids=lambda mode: mode.value)


def pair(env_id: str, mode: AutoresetMode, **settings: Any) -> tuple[Any, SyncVectorEnv]:
    settings = {"scenario": "toy"} | settings
    native = gymnasium.make_vec(env_id, num_envs=LANES, autoreset_mode=mode, **settings)
    single = [lambda: gymnasium.make(env_id, disable_env_checker=True, **settings)] * LANES
    return native, SyncVectorEnv(single, autoreset_mode=mode)


def drawn(space: gymnasium.Space[Any], rng: np.random.Generator) -> Any:
    """Actions of all lanes; STOP half of the time in RAP-v0, so that lanes end at different steps."""
    space.seed(int(rng.integers(1 << 30)))
    sample = space.sample()
    if isinstance(space, gymnasium.spaces.MultiDiscrete) and sample.ndim == 1:
        return np.where(rng.random(LANES) < 0.5, space.nvec - 1, sample)
    return sample


def assert_same(native: Any, sync: Any, where: str) -> None:
    if isinstance(sync, dict):
        assert {*native} == {*sync}, where
        for name, value in sync.items():
            assert_same(native[name], value, f"{where}.{name}")
    elif isinstance(sync, np.ndarray) and sync.dtype == object:
        for lane, value in enumerate(sync):
            assert_same(native[lane], value, f"{where}[{lane}]")
    else:
        assert np.asarray(native).dtype == np.asarray(sync).dtype, where
        assert np.array_equal(native, sync), where


def without_final(info: dict[str, Any], lanes: np.ndarray) -> dict[str, Any]:
    """What ended lanes ended with; of the others Gymnasium leaves zeros there."""
    last = info.pop("final_info", {})
    return {name: value[lanes] for name, value in last.items()}


@every_id
@every_mode
@pytest.mark.parametrize(
    "settings",
    [
        {"split": "train"},
        {"split": "test", "max_episode_steps": 7},
        {"split": "test", "observation": "dict", "max_episode_steps": 11},
    ],
    ids=["rows", "cut", "cut-dict"],
)
def test_lanes_end_and_begin_as_gymnasiums_do(
    env_id: str, mode: AutoresetMode, settings: dict[str, Any]
) -> None:
    native, sync = pair(env_id, mode, **settings)
    options = {"offset": 2} if settings["split"] == "test" else {}
    for ours, theirs in zip(
        native.reset(seed=3, options=dict(options)),
        sync.reset(seed=3, options=options),
        strict=True,
    ):
        assert_same(ours, theirs, "first")
    rng, ends = np.random.default_rng(0), 0
    for step in range(150):
        actions = drawn(native.action_space, rng)
        here, there = native.step(actions), sync.step(actions)
        over = here[3]
        if mode == AutoresetMode.SAME_STEP:
            assert ("final_obs" in here[4]) == bool(over.any())
            assert_same(
                without_final(here[4], over), without_final(there[4], over), f"last of {step}"
            )
        for ours, theirs in zip(here, there, strict=True):
            assert_same(ours, theirs, f"step {step}")
        ends += int(over.sum())
        if mode == AutoresetMode.DISABLED and over.any():
            mask = {"reset_mask": over}
            first, info = native.reset(options=dict(mask))
            theirs, said = sync.reset(options=dict(mask))
            assert_same(first, theirs, f"reset after {step}")
            for lane in np.flatnonzero(over):
                assert all(np.array_equal(info[n][lane], said[n][lane]) for n in said)
    assert ends >= LANES, "lanes ended and began anew"
    if options:
        turned = (native.unwrapped.lanes.state.limit_row - native.unwrapped.lanes.state.row) % 50
        assert (turned == 25).all(), "the pairing of the first reset holds"


@pytest.mark.parametrize("named", ["SameStep", AutoresetMode.SAME_STEP])
def test_a_spec_with_a_mode_survives_json(named: str | AutoresetMode) -> None:
    env = gymnasium.make_vec("RAP-v0", num_envs=2, scenario="toy", autoreset_mode=named)
    assert env.spec is not None
    text = env.spec.to_json()
    again = gymnasium.make_vec(gymnasium.envs.registration.EnvSpec.from_json(text))
    assert again.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert again.num_envs == 2


@every_mode
def test_a_lane_that_never_began_is_not_acted_in(mode: AutoresetMode) -> None:
    env = gymnasium.make_vec("RAP-Counts-v0", num_envs=2, scenario="toy", autoreset_mode=mode)
    actions = np.zeros((2, 2), dtype=int)
    with pytest.raises(InvalidAction, match=r"\[0, 1\]"):
        env.step(actions)
    env.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(InvalidAction, match=r"\[1\]"):
        env.step(actions)


def test_generators_and_seeds_are_those_of_the_lanes() -> None:
    native, sync = pair("RAP-KeptSet-v0", AutoresetMode.NEXT_STEP)
    for env in (native, sync):
        env.reset(seed=4)
    assert native.np_random_seed == sync.np_random_seed == (4, 5, 6)
    for ours, theirs in zip(native.np_random, sync.np_random, strict=True):
        assert ours.random() == theirs.random()


def test_minus_one_is_no_limit() -> None:
    env = gymnasium.make_vec("RAP-Counts-v0", num_envs=1, scenario="toy", max_episode_steps=-1)
    env.reset(seed=0)
    actions, steps, over = np.zeros((1, 2), dtype=int), 0, np.array([False])
    while not over[0]:
        *_, over, _ = env.step(actions)
        steps += 1
    assert steps == 64
