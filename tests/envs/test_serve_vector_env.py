"""The native vector form of the serving environment: lane by lane the environment alone, to the bit."""

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import toy_serving
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rapgym.envs.registration import SERVE_ID
from rapgym.envs.serve_vector_env import ServeVectorEnv
from rapgym.errors import InvalidAction, InvalidSpec
from rapgym.scenarios.serving import ServeScenario

LANES = 3
every_mode = pytest.mark.parametrize("mode", AutoresetMode, ids=lambda mode: mode.value)


def native(story: Any, lanes: int = LANES, **settings: Any) -> ServeVectorEnv:
    env = gymnasium.make_vec(SERVE_ID, num_envs=lanes, scenario=story, **settings)
    assert isinstance(env.unwrapped, ServeVectorEnv)
    return env.unwrapped


def drawn(env: ServeVectorEnv, rng: np.random.Generator) -> np.ndarray:
    found: np.ndarray = rng.integers(0, env.single_action_space.nvec, (env.num_envs, 3))  # type: ignore[attr-defined]
    return found


def assert_same(here: Any, there: Any, where: str) -> None:
    if isinstance(there, dict):
        assert {*here} == {*there}, where
        for name, value in there.items():
            assert_same(here[name], value, f"{where}.{name}")
    elif isinstance(there, np.ndarray) and there.dtype == object:
        for lane, value in enumerate(there):
            assert_same(here[lane], value, f"{where}[{lane}]")
    elif there is None:
        assert here is None, where
    else:
        assert np.asarray(here).dtype == np.asarray(there).dtype, where
        assert np.asarray(here).tobytes() == np.asarray(there).tobytes(), where


@every_mode
@pytest.mark.parametrize(
    "settings",
    [
        {"split": "train", "max_episode_steps": 23},
        {"split": "test", "observation": "dict", "max_episode_steps": 31},
    ],
    ids=["train", "test-dict"],
)
def test_lanes_end_and_begin_as_gymnasiums_do(
    serving_story: ServeScenario, mode: AutoresetMode, settings: dict[str, Any]
) -> None:
    ours = native(serving_story, autoreset_mode=mode, **settings)
    single = [
        lambda: gymnasium.make(
            SERVE_ID, disable_env_checker=True, scenario=serving_story, **settings
        )
    ] * LANES
    sync = SyncVectorEnv(single, autoreset_mode=mode)
    for here, there in zip(ours.reset(seed=3), sync.reset(seed=3), strict=True):
        assert_same(here, there, "first")
    rng, ends = np.random.default_rng(0), 0
    for step in range(80):
        actions = drawn(ours, rng)
        here, there = ours.step(actions), sync.step(actions)
        last = [info.pop("final_info", None) for info in (here[4], there[4])]
        for name, one, other in zip(
            ("seen", "reward", "terminated", "truncated", "info"), here, there, strict=True
        ):
            assert_same(one, other, f"{name} at {step}")
        over = here[3]
        if last[1] is not None:
            for name, value in last[1].items():
                assert_same(last[0][name][over], value[over], f"final {name} at {step}")
        ends += int(over.sum())
        if mode == AutoresetMode.DISABLED and over.any():
            options = {"reset_mask": over}
            assert_same(
                ours.reset(options=dict(options))[0], sync.reset(options=options)[0], "mask"
            )
    assert ends >= 2 * LANES


def test_whole_episodes_of_two_scenarios_are_those_of_single_environments(
    serving_story: ServeScenario,
) -> None:
    slower = replace(serving_story, profile=replace(toy_serving.PROFILE, base_s=0.08))
    stories = [serving_story, slower, serving_story]
    ours = native(stories, split="check")
    alone = [
        gymnasium.make(SERVE_ID, disable_env_checker=True, scenario=story, split="check")
        for story in stories
    ]
    ours.reset(seed=5)
    for lane, env in enumerate(alone):
        env.reset(seed=5 + lane)
    rng, over = np.random.default_rng(0), np.zeros(LANES, dtype=bool)
    while not over.any():
        actions = drawn(ours, rng)
        seen, reward, _, over, info = ours.step(actions)
        for lane, env in enumerate(alone):
            own, own_reward, _, own_over, own_info = env.step(actions[lane])
            assert seen[lane].tobytes() == own.tobytes()
            assert reward[lane] == own_reward
            assert over[lane] == own_over
            for name, value in own_info.items():
                assert_same(info[name][lane], value, name)
    assert over.all()
    assert reward[0] != reward[1], "the scenarios differ"


def test_an_ended_lane_ignores_its_action_and_starts_anew(serving_story: ServeScenario) -> None:
    env, rng = native(serving_story, split="check"), np.random.default_rng(0)
    env.reset(seed=0)
    over = np.zeros(LANES, dtype=bool)
    while not over.any():
        _, _, _, over, _ = env.step(drawn(env, rng))
    _, reward, _, again, info = env.step(drawn(env, rng))
    assert over.all()
    assert not reward.any()
    assert not again.any()
    assert not info["served"].any()
    assert not info["tokens"].any()


def test_some_lanes_can_be_reset_alone(serving_story: ServeScenario) -> None:
    env, rng = native(serving_story), np.random.default_rng(0)
    env.reset(seed=0)
    for _ in range(5):
        env.step(drawn(env, rng))
    env.reset(options={"reset_mask": np.array([False, True, False])})
    assert [int(book.second[0]) for _, _, book in env._play.batch.entries] == [5, 0, 5]
    with pytest.raises(InvalidSpec, match="reset_mask"):
        env.reset(options={"reset_mask": [1, 0, 0]})


def test_lanes_that_have_not_begun_are_no_episode(serving_story: ServeScenario) -> None:
    env = native(serving_story)
    with pytest.raises(InvalidAction, match="call reset"):
        env.step(np.zeros((LANES, 3), dtype=np.int64))
    env.reset(options={"reset_mask": np.array([False, True, False])})
    with pytest.raises(InvalidAction, match=r"lanes \[0, 2\]"):
        env.step(np.zeros((LANES, 3), dtype=np.int64))
    with pytest.raises(InvalidAction):
        env.step(np.zeros((LANES, 2), dtype=np.int64))


def test_lanes_that_cannot_stand_beside_each_other(serving_story: ServeScenario) -> None:
    with pytest.raises(InvalidSpec, match="2 scenarios were given for 3 lanes"):
        native([serving_story] * 2)
    eight_bit = "serve-chat-gqa"
    try:
        ServeVectorEnv(1, eight_bit)
    except FileNotFoundError:
        pytest.skip("the raw traces are not here")
    with pytest.raises(InvalidSpec, match=r"same numbers of blocks.*\(2, 2\), \(20, 12\)"):
        ServeVectorEnv(2, [serving_story, eight_bit])


def test_its_spec_and_modes(serving_story: ServeScenario) -> None:
    env = native(serving_story, autoreset_mode="SameStep", split="check")
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert env.spec is not None
    assert env.spec.max_episode_steps == env.worlds[0].pieces[0].seconds
    with pytest.raises(InvalidSpec, match="no autoreset_mode"):
        native(serving_story, autoreset_mode="later")
