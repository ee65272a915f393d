"""The native vector form: lane by lane what single environments give, resets and oddities included."""

import copy
import pickle
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode

from rapgym.envs.env import RapEnv
from rapgym.envs.registration import IDS
from rapgym.envs.vector_env import RapVectorEnv
from rapgym.errors import InvalidAction, InvalidSpec
from rapgym.scenarios.story import Scenario
from rapgym.world import pace, simulator, stride_kernel

pytestmark = pytest.mark.usefixtures("shaped", "toy_story")

every_id = pytest.mark.parametrize("env_id", IDS)


def made(env_id: str, lanes: int, **settings: Any) -> RapVectorEnv:
    env = gymnasium.make_vec(env_id, num_envs=lanes, **({"scenario": "toy"} | settings))
    assert isinstance(env.unwrapped, RapVectorEnv), "make_vec chooses the native form"
    return env.unwrapped


def single(env_id: str, **settings: Any) -> RapEnv:
    env = gymnasium.make(
        env_id, disable_env_checker=True, **({"scenario": "toy"} | settings)
    ).unwrapped
    assert isinstance(env, RapEnv)
    return env


@every_id
def test_a_scenario_object_is_as_good_as_its_name(env_id: str, toy_story: Scenario) -> None:
    larger = replace(toy_story, card_gib=1.5 * toy_story.card_gib)
    for story, same in ((toy_story, True), (larger, False)):
        given, named = made(env_id, 3, scenario=story), made(env_id, 3)
        assert given.lanes.story == story
        first = given.reset(seed=4)[0]
        assert np.array_equal(first, named.reset(seed=4)[0]) == same
        again = gymnasium.make_vec(EnvSpec.from_json(given.spec.to_json()), num_envs=3)  # type: ignore[union-attr]
        assert again.unwrapped.lanes.story == story  # type: ignore[attr-defined]
        assert np.array_equal(again.reset(seed=4)[0], first)


def drawn(env_id: str, lanes: int, rng: np.random.Generator) -> Any:
    """Actions of the space, illegal ones among them; STOP half of the time, so that rows are served."""
    if env_id == "RAP-v0":
        return np.where(rng.random(lanes) < 0.5, 6, rng.integers(0, 7, lanes))
    if env_id == "RAP-Counts-v0":
        return rng.integers(0, 3, (lanes, 2))
    return rng.integers(0, 2, (lanes, 6)).astype(np.int8)


def lane_of(info: dict[str, Any], lane: int) -> dict[str, Any]:
    """What a vector's info says of one lane, in the form of a single environment's."""
    return {name: value[lane] for name, value in info.items() if not name.startswith("_")}


def assert_same_info(vector: dict[str, Any], lane: int, alone: dict[str, Any]) -> None:
    found = lane_of(vector, lane)
    assert [*found] == [*alone]
    for name, value in alone.items():
        assert vector[f"_{name}"].all(), "every lane has every entry"
        assert np.array_equal(found[name], value), name
        assert found[name].dtype == np.asarray(value).dtype, name


def part(observation: Any, lane: int) -> bytes:
    if isinstance(observation, dict):
        return b"".join(observation[name][lane].tobytes() for name in sorted(observation))
    return bytes(observation[lane].tobytes())


def whole(observation: Any) -> bytes:
    if isinstance(observation, dict):
        return b"".join(observation[name].tobytes() for name in sorted(observation))
    return bytes(observation.tobytes())


@every_id
@pytest.mark.parametrize(("observation", "split"), [("flat", "train"), ("dict", "test")])
def test_lanes_equal_single_environments(env_id: str, observation: str, split: str) -> None:
    """To the last byte, over several episodes: rewards, masks, infos and the resets in between."""
    lanes, seed = 3, 11
    settings = {"split": split, "observation": observation}
    vector = made(env_id, lanes, **settings)
    alone = [single(env_id, **settings) for _ in range(lanes)]
    seen, info = vector.reset(seed=seed)
    for lane, env in enumerate(alone):
        own, own_info = env.reset(seed=seed + lane)
        assert part(seen, lane) == whole(own)
        assert_same_info(info, lane, own_info)
    rng, ended, resets = np.random.default_rng(0), [False] * lanes, 0
    for _ in range(190 if env_id == "RAP-v0" else 90):
        actions = drawn(env_id, lanes, rng)
        seen, reward, terminated, truncated, info = vector.step(actions)
        assert vector.observation_space.contains(seen)
        for lane, env in enumerate(alone):
            if ended[lane]:  # the step after an end is a reset, whatever the action
                own, own_info = env.reset()
                own_reward, own_ends, resets = 0.0, False, resets + 1
            else:
                own, own_reward, _, own_ends, own_info = env.step(actions[lane])
            assert part(seen, lane) == whole(own)
            assert np.float64(reward[lane]).tobytes() == np.float64(own_reward).tobytes()
            assert truncated[lane] == own_ends
            assert not terminated[lane]
            assert_same_info(info, lane, own_info)
            ended[lane] = own_ends
            assert (vector.action_masks()[lane] == env.action_masks()).all()
    assert resets >= lanes, "the test saw resets"


@every_id
def test_compiled_lanes_equal_single_environments_of_the_reference(
    env_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes, seed = 5, 3
    alone = [single(env_id) for _ in range(lanes)]
    with monkeypatch.context() as patch:
        patch.setattr(pace, "REFERENCE_ROWS", 0)
        vector = made(env_id, lanes)
        seen, info = vector.reset(seed=seed)
        assert vector.lanes.twin is not None
    rng, ended = np.random.default_rng(1), [False] * lanes
    for lane, env in enumerate(alone):
        assert part(seen, lane) == whole(env.reset(seed=seed + lane)[0])
    for _ in range(150):
        actions = drawn(env_id, lanes, rng)
        seen, reward, _, truncated, info = vector.step(actions)
        for lane, env in enumerate(alone):
            if ended[lane]:
                own, own_info = env.reset()
                own_reward, own_ends = 0.0, False
            else:
                own, own_reward, _, own_ends, own_info = env.step(actions[lane])
            assert part(seen, lane) == whole(own)
            assert np.float64(reward[lane]).tobytes() == np.float64(own_reward).tobytes()
            assert truncated[lane] == own_ends
            assert_same_info(info, lane, own_info)
            ended[lane] = own_ends
    assert all(env.lanes.twin is None for env in alone)


def test_a_copy_of_compiled_lanes_goes_on_as_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "REFERENCE_ROWS", 0)
    env, rng = made("RAP-Counts-v0", 3), np.random.default_rng(0)
    env.reset(seed=0)
    env.step(drawn("RAP-Counts-v0", 3, rng))
    copies, actions = (
        [copy.deepcopy(env), pickle.loads(pickle.dumps(env))],
        rng.integers(0, 3, (3, 2)),
    )
    compiled = len(stride_kernel.advance.signatures)  # type: ignore[attr-defined]
    own = env.step(actions)
    for other in copies:
        assert [pickle.dumps(each) for each in other.step(actions)[:4]] == [
            pickle.dumps(each) for each in own[:4]
        ]
    assert len(stride_kernel.advance.signatures) == compiled  # type: ignore[attr-defined]


def test_what_one_step_says_outlives_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "REFERENCE_ROWS", 0)
    env, rng = made("RAP-Counts-v0", 3), np.random.default_rng(0)
    env.reset(seed=0)
    said = env.step(drawn("RAP-Counts-v0", 3, rng))
    before = pickle.dumps(said)
    for value in said[4].values():
        value.setflags(write=False)  # as a caller may
    for _ in range(3):
        env.step(drawn("RAP-Counts-v0", 3, rng))
    assert pickle.dumps(said[:4]) == pickle.dumps(pickle.loads(before)[:4])
    assert all((said[4][name] == value).all() for name, value in pickle.loads(before)[4].items())


@every_id
def test_compiled_lanes_read_actions_in_every_form(
    env_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "REFERENCE_ROWS", 0)
    rng, plain = np.random.default_rng(0), made(env_id, 3)
    actions = drawn(env_id, 3, rng)
    plain.reset(seed=0)
    wanted = plain.step(actions)
    fixed = actions.copy()
    fixed.setflags(write=False)
    forms = (actions.tolist(), actions.astype(np.int32), actions.astype(float), fixed,
             np.asfortranarray(actions))  # fmt: skip
    for form in forms:
        other = made(env_id, 3)
        other.reset(seed=0)
        found = other.step(form)
        assert found[0].tobytes() == wanted[0].tobytes()
        assert found[1].tobytes() == wanted[1].tobytes()
    env = made(env_id, 3)
    env.reset(seed=0)
    for wrong in (actions - 1 - actions.max(), actions + 7, actions[:2], "drop"):
        before = env.lanes.state
        with pytest.raises(InvalidAction):
            env.step(wrong)
        assert env.lanes.state is before, "nothing has changed"


@every_id
def test_who_takes_over_the_step_serves_every_row(
    env_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an audit does, at any time: lanes that were served in one pass are served by it from then on."""
    monkeypatch.setattr(pace, "REFERENCE_ROWS", 0)
    lanes, rng, rows = 3, np.random.default_rng(0), [0]
    env, other = made(env_id, lanes), made(env_id, lanes)
    for each in (env, other):
        each.reset(seed=0)

    def counted(*given: Any) -> Any:
        rows[0] += given[1].lanes
        return simulator.step(*given)

    served = 0
    for turn in range(60):
        if turn in (20, 40):
            env.lanes.step = counted if turn == 20 else simulator.step
            assert rows[0] == (0 if turn == 20 else served)
            served = 0
        actions = drawn(env_id, lanes, rng)
        found, wanted = env.step(actions), other.step(actions)
        served += int(found[4]["served"].sum())
        assert [pickle.dumps(np.ascontiguousarray(each)) for each in found[:4]] == [
            pickle.dumps(np.ascontiguousarray(each)) for each in wanted[:4]
        ]
        assert all(np.array_equal(found[4][name], value) for name, value in wanted[4].items())
    assert rows[0]


def test_lanes_wait_while_others_stop() -> None:
    env = made("RAP-v0", 3, split="test")
    env.reset(seed=0)
    _, reward, _, _, info = env.step(np.array([6, 2, 3]))
    assert info["served"].tolist() == [True, False, False]
    assert reward[1:].tolist() == [0.0, 0.0]
    assert env.lanes.state.row.tolist() == [1, 0, 0]
    _, _, _, _, info = env.step(np.array([2, 6, 3]))  # lane 2 drops ffn1 again: that is a STOP
    assert info["served"].tolist() == [False, True, True]
    assert np.flatnonzero(~info["proposal"][1]).tolist() == [2]
    assert np.flatnonzero(~info["proposal"][2]).tolist() == [3]
    assert env.lanes.state.row.tolist() == [1, 1, 1]
    masks = info["action_mask"]
    assert masks[0].tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert masks[1].tolist() == [0, 0, 1, 1, 1, 1, 1]


@every_id
def test_an_ended_lane_ignores_its_action_and_starts_anew(env_id: str) -> None:
    env, rng = made(env_id, 2, split="test"), np.random.default_rng(0)
    env.reset(seed=0)
    truncated = np.zeros(2, dtype=bool)
    while not truncated.any():
        _, _, _, truncated, _ = env.step(drawn(env_id, 2, rng))
    lane = int(np.flatnonzero(truncated)[0])
    _, reward, _, again, info = env.step(drawn(env_id, 2, rng))
    assert reward[lane] == 0.0
    assert not again[lane]
    assert not info["served"][lane]
    assert env.lanes.state.row[lane] == 0
    assert env.lanes.state.loaded[lane].all()
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP


def test_some_lanes_can_be_reset_alone() -> None:
    env, rng = made("RAP-KeptSet-v0", 3, split="test"), np.random.default_rng(0)
    env.reset(seed=0)
    for _ in range(5):
        env.step(drawn("RAP-KeptSet-v0", 3, rng))
    env.reset(options={"reset_mask": np.array([False, True, False]), "offset": 2})
    assert env.lanes.state.row.tolist() == [5, 0, 5]
    assert env.lanes.state.limit_row.tolist() == [5, 25, 5]


def test_seeds_may_be_given_lane_by_lane() -> None:
    env = made("RAP-KeptSet-v0", 3, split="train")
    by_list, _ = env.reset(seed=[7, None, 9])
    for lane, seed in ((0, 7), (2, 9)):
        alone, _ = single("RAP-KeptSet-v0", split="train").reset(seed=seed)
        assert by_list[lane].tobytes() == alone.tobytes()


@every_id
def test_spaces_are_those_of_the_single_form_batched(env_id: str) -> None:
    vector, alone = made(env_id, 4), single(env_id)
    assert vector.single_action_space == alone.action_space
    assert vector.single_observation_space == alone.observation_space
    assert vector.num_envs == 4
    seen, _ = vector.reset(seed=0)
    assert vector.observation_space.contains(seen)
    assert vector.action_space.contains(vector.action_space.sample())
    vector.step(vector.action_space.sample())


@every_id
def test_observations_are_the_callers_own(env_id: str) -> None:
    env, rng = made(env_id, 2, split="test"), np.random.default_rng(3)
    kept, _ = env.reset(seed=0)
    copied = kept.copy()
    for _ in range(4):
        env.step(drawn(env_id, 2, rng))
    assert kept.tobytes() == copied.tobytes()


@every_id
def test_gymnasiums_other_vector_forms_work_too(env_id: str) -> None:
    env = gymnasium.make_vec(
        env_id, num_envs=2, vectorization_mode="sync", scenario="toy", split="test"
    )
    native = made(env_id, 2, split="test")
    one, _ = env.reset(seed=4)
    other, _ = native.reset(seed=4)
    assert one.tobytes() == other.tobytes()
    env.close()


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(InvalidSpec, match="sim"):
        gymnasium.make_vec("RAP-v0", num_envs=1, scenario="toy", backend="tpu")
    for settings, complaint in (
        ({"num_envs": 0}, "num_envs"),
        ({"num_envs": 1.5}, "num_envs"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
        ({"autoreset_mode": "later"}, "NextStep, SameStep, Disabled"),
        ({"render_mode": "hologram"}, "ansi, rgb_array, human"),
        ({"offset": None}, "offset"),
        ({"observation": "image"}, "flat, dict"),
    ):
        with pytest.raises(InvalidSpec, match=complaint):
            gymnasium.make_vec("RAP-v0", **({"num_envs": 1, "scenario": "toy"} | settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("mask", [[True], np.ones(4, dtype=bool), np.array([1, 0, 1])])
def test_a_wrong_mask_of_lanes_is_refused(mask: Any) -> None:
    with pytest.raises(InvalidSpec, match=r"bool \[3\]"):
        made("RAP-v0", 3).reset(options={"reset_mask": mask})


@pytest.mark.parametrize("seed", [[1, 2], "seven", -1, 0.5, [1, 2, "x"]])
def test_wrong_seeds_are_refused(seed: Any) -> None:
    with pytest.raises(InvalidSpec, match="seed"):
        made("RAP-v0", 3).reset(seed=seed)
