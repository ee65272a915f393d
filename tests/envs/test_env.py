"""The environments: checkers of others, seeds, masks three ways, illegal actions, rewards, infos."""

import copy
import json
import pickle
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import stories
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from toy_table import kept_without, toy_nll

from rapgym.envs import registration
from rapgym.envs.env import RapEnv
from rapgym.envs.info import NAMES, NO_ROW
from rapgym.envs.registration import IDS
from rapgym.errors import InvalidAction, InvalidSpec, InvalidTrace
from rapgym.model.shapes import Format
from rapgym.scenarios import catalogue
from rapgym.scenarios.catalogue import by_default
from rapgym.scenarios.lanes import importance
from rapgym.scenarios.story import Scenario
from rapgym.world import encoding, pace
from rapgym.world.shield import Reason

pytestmark = pytest.mark.usefixtures("shaped", "toy_story")

every_id = pytest.mark.parametrize("env_id", IDS)
every_observation = pytest.mark.parametrize("observation", ["flat", "dict"])

INFO = [*NAMES, "action_mask"]


def made(env_id: str, **settings: Any) -> RapEnv:
    env = gymnasium.make(
        env_id, disable_env_checker=True, **({"scenario": "toy"} | settings)
    ).unwrapped
    assert isinstance(env, RapEnv)
    return env


def legal_action(env: RapEnv, info: dict[str, Any], rng: np.random.Generator) -> Any:
    """One that the mask allows, drawn from `rng`."""
    mask = info["action_mask"]
    if isinstance(env.action_space, gymnasium.spaces.Discrete):
        return int(rng.choice(np.flatnonzero(mask)))
    if isinstance(env.action_space, gymnasium.spaces.MultiDiscrete):
        return np.array([rng.integers(count) for count in env.action_space.nvec])
    return np.where(mask == 2, rng.integers(0, 2, len(mask)), mask).astype(np.int8)


def played(env: RapEnv, seed: int, steps: int = 150) -> Iterator[tuple[Any, float, dict[str, Any]]]:
    """Observations, rewards and infos of one episode of legal actions."""
    rng = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    yield observation, 0.0, info
    for _ in range(steps):
        observation, reward, terminated, truncated, info = env.step(legal_action(env, info, rng))
        yield observation, reward, info
        assert not terminated, "episodes end with their rows"
        if truncated:
            return


@every_id
@every_observation
@pytest.mark.parametrize("scenario", ["toy", "chat-beside-code"])
def test_gymnasiums_checker_passes(env_id: str, observation: str, scenario: str) -> None:
    env = gymnasium.make(env_id, scenario=scenario, observation=observation)
    check_env(env.unwrapped, skip_render_check=True)


@every_id
@every_observation
def test_stable_baselines3s_checker_passes(env_id: str, observation: str) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(made(env_id, observation=observation, scenario="chat-beside-code"), warn=True)


@pytest.mark.parametrize("story", by_default(), ids=lambda story: story.name)
@every_id
def test_every_scenario_passes_the_checker(story: Scenario, env_id: str) -> None:
    for split in ("train", "fit-3", "validation-3", "test"):
        env = made(env_id, scenario=story.id, split=split)
        check_env(env, skip_render_check=True)
        assert env.lanes.story is story


@every_id
@pytest.mark.parametrize("split", ["train", "test"])
def test_scenario_split_and_seed_fix_every_byte(env_id: str, split: str) -> None:
    first, second = (
        [(pickle.dumps(step)) for step in played(made(env_id, split=split), seed=5)]
        for _ in range(2)
    )
    assert first == second
    if split == "train":
        other = [pickle.dumps(step) for step in played(made(env_id, split=split), seed=6)]
        assert other != first


def test_a_train_episode_is_64_rows_from_a_drawn_start() -> None:
    env, starts = made("RAP-KeptSet-v0", split="train"), []
    for seed in range(40):
        env.reset(seed=seed)
        lanes = env.lanes
        starts.append(
            (
                int(lanes.state.row[0]),
                int(lanes.state.limit_row[0]),
                float(lanes.state.token_scale[0]),
            )
        )
        assert lanes.state.loaded.all(), "every episode starts from dense"
    rows, turned, scales = zip(*starts, strict=True)
    assert len({*rows}) > 20
    assert max(rows) <= 140 - 64
    assert len({(r - t) % 140 for r, t in zip(rows, turned, strict=True)}) > 20
    assert 0.9 <= min(scales) < 0.95
    assert 1.05 < max(scales) <= 1.1
    served = [info for _, _, info in played(env, seed=1)][1:]
    assert len(served) == 64


def test_a_test_episode_is_the_whole_split_in_the_pairing_asked_for() -> None:
    env = made("RAP-KeptSet-v0", split="test")
    assert len(list(played(env, seed=0))) == 1 + 50
    for offset, first in ((0, 0), (1, 12), (2, 25), (3, 37)):  # k/4 of 50 rows, rounded down
        for settings, options in (({"offset": offset}, None), ({}, {"offset": offset})):
            env = made("RAP-KeptSet-v0", split="test", **settings)
            env.reset(seed=0, options=options)
            assert env.lanes.state.row[0] == 0
            assert env.lanes.state.limit_row[0] == first
            assert env.lanes.state.token_scale[0] == 1.0
    with pytest.raises(InvalidSpec, match="offsets 0 to 3"):
        made("RAP-KeptSet-v0", split="test").reset(options={"offset": 4})


@every_id
@every_observation
def test_masks_say_the_same_three_ways_and_something_is_always_legal(
    env_id: str, observation: str
) -> None:
    env = made(env_id, observation=observation)
    for seen, _, info in played(env, seed=2):
        mask, flat = info["action_mask"], env.action_masks()
        assert mask.dtype == np.int8
        assert flat.dtype == bool
        if observation == "dict":
            assert (seen["action_mask"] == mask).all()
        assert env.observation_space.contains(seen)
        if env_id == "RAP-KeptSet-v0":  # two legal bits a block; 2 says that both are
            assert (flat.reshape(-1, 2).sum(axis=1) == mask).all()
            assert (flat.reshape(-1, 2)[mask == 1] == [False, True]).all()
            assert (mask == 1).nonzero()[0].tolist() == [0, 1], "the floor"
        else:
            assert (flat == mask.astype(bool)).all()
        if env_id == "RAP-v0":
            assert mask[-1] == 1, "STOP is always legal"
            assert env.action_space.contains(env.action_space.sample(mask))
        if env_id == "RAP-Counts-v0":
            assert mask.tolist() == [1] * 6, "0 to 2 attention and 0 to 2 FFN blocks"
        assert flat.any()


def test_dropping_block_by_block_serves_at_stop() -> None:
    env = made("RAP-v0", split="test")
    env.reset(seed=0)
    for block, left in ((4, [2, 3, 5, 6]), (3, [2, 5, 6])):
        seen, reward, _, truncated, info = env.step(block)
        assert reward == 0.0
        assert not truncated
        assert not info["served"]
        assert np.flatnonzero(info["action_mask"]).tolist() == left
        kept = seen[env.layout.slice_of("so_far")]
        assert [b for b in (2, 3, 4, 5) if kept[b]] == left[:-1]
    _, _, _, _, info = env.step(6)
    assert info["proposal"].tolist() == kept_without(3, 4).tolist()
    assert np.flatnonzero(info["action_mask"]).tolist() == [2, 3, 4, 5, 6], "the next row from all"


@pytest.mark.parametrize("illegal", [0, 1, 4])
def test_an_illegal_drop_counts_as_stop(illegal: int) -> None:
    """Of the floor, or of what is dropped already."""
    env, stopped = made("RAP-v0", split="test"), made("RAP-v0", split="test")
    for one, last in ((env, illegal), (stopped, 6)):
        one.reset(seed=0)
        one.step(4)
        one.last = one.step(last)  # type: ignore[attr-defined]
    assert pickle.dumps(env.last) == pickle.dumps(stopped.last)  # type: ignore[attr-defined]
    assert env.last[4]["proposal"].tolist() == kept_without(4).tolist()  # type: ignore[attr-defined]


WRONG: dict[str, list[Any]] = {
    "RAP-v0": [-1, 7, 100, 1 << 63, 2.5, np.nan, np.inf, "4", None, [4], [], {}, 1j, [[1], [1, 2]]],
    "RAP-Counts-v0": [[-1, 0], [0, 3], [0, 0.5], [0, np.nan], ["0", "1"], None, 1, [1], [1, 1, 1],
                      [[1, 1]], [1, None], [[1], [1, 2]]],
    "RAP-KeptSet-v0": [[2] * 6, [-1] * 6, [0.5] * 6, [np.nan] * 6, ["1"] * 6, None, 1, [1] * 5,
                       [1] * 7, [None] * 6, "111111"],
}  # fmt: skip
wrong_actions = pytest.mark.parametrize(
    ("env_id", "action"), [(env_id, action) for env_id in IDS for action in WRONG[env_id]]
)


@wrong_actions
@pytest.mark.parametrize("lanes", [0, 2])
def test_what_is_no_action_is_refused_and_changes_nothing(
    env_id: str, action: Any, lanes: int
) -> None:
    """Alone, and in the second of two lanes."""
    env: Any = made(env_id)
    if lanes:
        env = gymnasium.make_vec(env_id, num_envs=lanes, scenario="toy")
        action = [env.single_action_space.sample(), action]
    before, _ = env.reset(seed=0)
    with pytest.raises(InvalidAction):
        env.step(action)
    assert env.unwrapped._play.observe().tobytes() == before.tobytes()
    assert not env.unwrapped._play.steps.any()


@every_id
def test_whole_numbers_are_read_in_every_form(env_id: str) -> None:
    """As integers, floats that are whole, and for kept sets truth values."""
    wanted = {"RAP-v0": 3, "RAP-Counts-v0": [1, 2], "RAP-KeptSet-v0": [1, 1, 0, 1, 0, 1]}[env_id]
    types: list[Any] = [np.int8, np.uint64, np.float32, np.float64]
    types += [bool] if env_id == "RAP-KeptSet-v0" else []
    found = []
    for kind in types:
        env = made(env_id, split="test")
        env.reset(seed=0)
        found.append(pickle.dumps(env.step(np.array(wanted, dtype=kind))))
    assert len({*found}) == 1


@every_id
def test_a_step_outside_an_episode_is_refused(env_id: str) -> None:
    env: Any = made(env_id)
    with pytest.raises(InvalidAction, match="reset"):
        env.step(env.action_space.sample())
    steps = [info for _, _, info in played(env, seed=0, steps=500)]
    assert sum(info["served"] for info in steps) == 64, "the episode is over"
    with pytest.raises(InvalidAction, match="reset"):
        env.step(env.action_space.sample())


def test_actions_mean_the_same_kept_set() -> None:
    """Two of each kind: by single drops, by counts along the grid, and at once."""
    infos = {}
    for env_id, actions in (
        ("RAP-v0", [4, 5, 6]),
        ("RAP-Counts-v0", [np.array([1, 1])]),
        ("RAP-KeptSet-v0", [kept_without(4, 5).astype(np.int8)]),
    ):
        env = made(env_id, split="test")
        env.reset(seed=0)
        for action in actions:
            _, reward, _, _, info = env.step(action)
        infos[env_id] = {
            k: np.asarray(v).tolist() for k, v in info.items() if k != "action_mask"
        } | {"r": reward}
        assert info["proposal"].tolist() == kept_without(4, 5).tolist(), "the cheapest such pair"
    assert infos["RAP-v0"] == infos["RAP-Counts-v0"] == infos["RAP-KeptSet-v0"]


@every_id
def test_infos_are_complete_and_terms_add_up(env_id: str) -> None:
    env, reasons = made(env_id, split="train"), set()
    for seed in range(3):
        for _, reward, info in played(env, seed, steps=400):
            assert [*info] == INFO
            if not info["served"]:
                assert reward == 0.0
                assert info["reason"] == NO_ROW
                assert not any(np.any(info[name]) for name in NAMES if name != "reason")
                continue
            total = info["quality"] + info["stall"] + info["emergency"] + info["refused"]
            assert reward == pytest.approx(-total, abs=1e-12)
            assert reward <= 0
            assert info["used_bytes"] <= info["limit_bytes"] or info["reason"] == Reason.REFUSED
            reasons.add(Reason(info["reason"]))
    assert reasons >= {Reason.POLICY, Reason.REPAIRED, Reason.REFUSED}, (
        "the toy scenario has them all"
    )


def test_infos_are_the_callers_own() -> None:
    env = made("RAP-KeptSet-v0", split="test")
    steps = list(played(env, seed=0, steps=5))
    kept = [info["kept"].copy() for _, _, info in steps[1:]]
    for observation, _, info in steps:
        observation[...] = -1
        info["action_mask"][...] = 0
        info["kept"][...], info["kept_end"][...] = False, False
    again = [info["kept"] for _, _, info in list(played(env, seed=0, steps=5))[1:]]
    assert all((one == other).all() for one, other in zip(kept, again, strict=True))


def test_on_test_rewards_speak_of_calibration_columns(toy_story: Scenario) -> None:
    """The toy table's test text costs 0.02 more a block: it must not show."""
    env = made("RAP-KeptSet-v0", split="test")
    env.reset(seed=0)
    _, _, _, _, info = env.step(kept_without(2).astype(np.int8))
    assert info["nll"] == pytest.approx(toy_nll(info["kept"]))
    assert info["nll"] > 0


@every_id
def test_each_id_is_found_in_three_ways(env_id: str) -> None:
    for name in (env_id, f"rapgym/{env_id}", f"rapgym:{env_id}", f"rapgym:rapgym/{env_id}"):
        env = gymnasium.make(name, scenario="toy", split="test")
        assert isinstance(env.unwrapped, RapEnv)
        assert env.spec is not None
        assert env.spec.kwargs["split"] == "test"
        env.close()


@every_id
def test_a_spec_survives_json(env_id: str) -> None:
    env = gymnasium.make(env_id, scenario="toy", split="test", offset=2, observation="dict")
    assert env.spec is not None
    text = env.spec.to_json()
    json.loads(text)
    again = gymnasium.make(EnvSpec.from_json(text))
    for one in (env, again):
        one.reset(seed=1)
    first, second = (one.unwrapped.lanes for one in (env, again))  # type: ignore[attr-defined]
    assert first.story == second.story
    assert first.split == second.split
    assert first.state.limit_row.tolist() == second.state.limit_row.tolist() == [25]


@every_id
def test_a_scenario_object_is_as_good_as_its_name(env_id: str, toy_story: Scenario) -> None:
    named, given = made(env_id, split="test"), made(env_id, split="test", scenario=toy_story)
    one, other = ([pickle.dumps(step) for step in played(env, seed=5)] for env in (named, given))
    assert one == other
    smaller = replace(toy_story, card_gib=toy_story.card_gib / 2, stand_in=True, length_share=0.5)
    story = made(env_id, scenario=smaller).lanes.story
    assert story == smaller, "what the object says is not overwritten by defaults"
    assert made(env_id, scenario=smaller, length_share=0.25).lanes.story.length_share == 0.25


@every_id
@pytest.mark.parametrize("tenant", ["service", "recording", "none"])
def test_the_spec_of_a_scenario_object_survives_json_pickling_and_copying(
    env_id: str, tenant: str, toy_story: Scenario
) -> None:
    story = {
        "service": replace(toy_story, restore_s=2.0, ceiling=3.0),
        "recording": replace(catalogue.scenario("laptop"), card_gib=30.0),
        "none": replace(stories.alone(), form=Format("int8"), table="smollm2-135m-int8"),
    }[tenant]
    env = gymnasium.make(env_id, scenario=story, split="validation-3")
    assert env.spec is not None
    specs = (
        EnvSpec.from_json(env.spec.to_json()),
        pickle.loads(pickle.dumps(env.spec)),
        copy.deepcopy(env.spec),
    )
    first = env.reset(seed=1)[0]
    for spec in specs:
        again = gymnasium.make(spec)
        assert again.unwrapped.lanes.story == story  # type: ignore[attr-defined]
        assert again.unwrapped.lanes.split == "validation-3"  # type: ignore[attr-defined]
        np.testing.assert_array_equal(again.reset(seed=1)[0], first)
    copied = copy.deepcopy(env)
    pickled = pickle.loads(pickle.dumps(env.unwrapped))
    for other in (copied, pickled):
        np.testing.assert_array_equal(other.reset(seed=1)[0], first)


@pytest.mark.parametrize(
    "fields",
    [{}, {"card": 3}, {"card_gib": "much"}, {"tenant": {"pool": 1}}, {"form": {"weights": "int8", "bits": 8}}],
)  # fmt: skip
def test_fields_of_no_scenario_are_refused(fields: dict[str, Any], toy_story: Scenario) -> None:
    whole = asdict(toy_story) | fields if fields else {}
    with pytest.raises(InvalidSpec, match="not the fields of a scenario"):
        made("RAP-v0", scenario=whole)


def test_a_scenario_object_without_a_series_names_the_command_that_makes_it(
    toy_story: Scenario,
) -> None:
    with pytest.raises(InvalidTrace, match="rapgym scenarios build"):
        made("RAP-v0", scenario=replace(toy_story, workload="not-built"))


def test_registering_twice_does_no_harm() -> None:
    before = dict(gymnasium.registry)
    registration.register_all()
    assert gymnasium.registry == before


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"scenario": "nowhere"}, "there are chat, "),
        ({"split": "tests"}, "there are train, learn, check, test, fit-1"),
        ({"observation": "image"}, "flat, dict"),
        ({"backend": "tpu"}, "sim"),
        ({"offset": "1"}, "offset"),
        ({"offset": -1}, "offset"),
        ({"scenario": None}, "chat"),
        ({"length_share": float("nan")}, "length_share"),
        ({"length_share": "half"}, "length_share"),
        ({"device_profile": 3}, "profile"),
        ({"actions": "words"}, "blocks, counts, kept-set"),
    ],
)
def test_wrong_arguments_are_refused_with_what_there_is(
    settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InvalidSpec, match=complaint):
        gymnasium.make("RAP-v0", **({"scenario": "toy"} | settings))


def test_bounds_are_finite() -> None:
    space = made("RAP-v0").observation_space
    assert isinstance(space, gymnasium.spaces.Box)
    assert np.isfinite(space.low).all()
    assert np.isfinite(space.high).all()


def shapes(info: dict[str, Any]) -> dict[str, Any]:
    return {
        name: (type(value), np.shape(value), np.asarray(value).dtype)
        for name, value in info.items()
    }


@every_id
def test_info_has_one_form_in_resets_and_steps(env_id: str) -> None:
    env = made(env_id)
    forms = [shapes(info) for seed in (0, 1) for _, _, info in played(env, seed, steps=200)]
    assert forms == [forms[0]] * len(forms)


@every_id
@pytest.mark.parametrize(("split", "rows"), [("train", 64), ("test", 50), ("validation-2", None)])
def test_the_spec_says_how_long_an_episode_can_be(
    env_id: str, split: str, rows: int | None
) -> None:
    """As slowly as actions allow; a spec made again cuts nothing off."""
    env = gymnasium.make(env_id, scenario="toy", split=split)
    inner = env.unwrapped
    assert isinstance(inner, RapEnv)
    assert env.spec is not None
    rows = rows or len(inner.lanes.world.rows)
    assert env.spec.max_episode_steps == rows * (5 if env_id == "RAP-v0" else 1)
    assert env.spec.reward_threshold is None
    assert not env.spec.nondeterministic
    again = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    again.reset(seed=0)
    steps, over = 0, False
    while not over:
        slowest = 2 + steps % 5 if env_id == "RAP-v0" else env.action_space.sample()
        _, _, _, over, _ = again.step(slowest)
        steps += 1
    assert steps == env.spec.max_episode_steps
    assert again.unwrapped.lanes.ended.all(), "its rows ended it"  # type: ignore[attr-defined]


@every_id
def test_the_registered_spec_leaves_the_length_open(env_id: str) -> None:
    """It holds for every split: a limit there would cut test episodes."""
    assert gymnasium.spec(env_id).max_episode_steps is None
    cut: Any = gymnasium.make(env_id, scenario="toy", max_episode_steps=3)
    assert cut.spec.max_episode_steps == 3
    lifted: Any = gymnasium.make(cut.spec, split="test", max_episode_steps=-1)
    assert lifted.spec.max_episode_steps == 50 * (5 if env_id == "RAP-v0" else 1)


def test_a_pairing_holds_until_another_or_a_seed() -> None:
    env = made("RAP-KeptSet-v0", split="test", offset=1)

    def first(**reset: Any) -> int:
        env.reset(**reset)
        return int(env.lanes.state.limit_row[0])

    assert [first(seed=0), first(options={"offset": 3}), first(), first(options={})] == [
        12,
        37,
        37,
        37,
    ]
    assert [first(seed=1), first()] == [12, 12]
    with pytest.raises(InvalidSpec, match="offset"):
        first(options={"offset": "x"})


@every_id
def test_each_step_sees_what_is_true_then(env_id: str) -> None:
    """What is kept from one small step to the next is never of another row."""
    env = made(env_id)
    for seed in (0, 1):
        for seen, _, _ in played(env, seed, steps=60):
            lanes, so_far = env.lanes, env._play.actions.so_far
            visible = encoding.visible(lanes.world, lanes.state, lanes.age)
            known = None if so_far is None else importance(lanes.world, so_far)
            fresh = encoding.observe(lanes.world, lanes.layout, visible, so_far, known)
            assert seen.tobytes() == fresh[0].tobytes()


def raw(step: tuple[Any, ...]) -> list[Any]:
    """What a step returned, to the last bit."""
    seen, *plain, info = step
    named = info | (seen if isinstance(seen, dict) else {"seen": seen})
    arrays = {name: (type(a), a.dtype, a.shape, a.tobytes()) for name, a in named.items()}
    return [arrays, [(type(each), each) for each in plain]]


@every_id
@every_observation
def test_compiled_steps_are_those_of_the_reference(
    env_id: str, observation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through resets, copies and actions in other forms; compared when all is over, so nothing is written twice."""
    plain, rng = made(env_id, observation=observation), np.random.default_rng(0)
    _, info = plain.reset(seed=4)
    actions, wanted = [], []
    for _ in range(200):
        actions.append(legal_action(plain, info, rng))
        wanted.append(plain.step(actions[-1]))
        info = plain.reset()[1] if wanted[-1][3] else wanted[-1][4]
    monkeypatch.setattr(pace, "REFERENCE_ROWS", 0)
    env, found = made(env_id, observation=observation), []
    env.reset(seed=4)
    for turn, action in enumerate(actions):
        if turn % 50 == 30:
            env = copy.deepcopy(env)
        found.append(env.step(np.array(action, dtype=float) if turn % 7 == 5 else action))
        if found[-1][3]:
            env.reset()
    assert env.lanes.strides
    assert [raw(step) for step in found] == [raw(step) for step in wanted]


def test_arrays_of_a_compiled_step_share_no_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "REFERENCE_ROWS", 0)
    env = made("RAP-KeptSet-v0", observation="dict")
    env.reset(seed=0)
    seen, *_, info = env.step(env.action_space.sample())
    arrays = [*seen.values(), *info.values()]
    assert all(array.flags.writeable and array.flags.aligned for array in arrays)
    for place, one in enumerate(arrays):
        assert not any(np.shares_memory(one, other) for other in arrays[:place])
