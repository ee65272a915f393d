"""The serving environment: checkers of others, seeds, episodes, rewards, infos, illegal actions."""

import json
import pickle
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from rapgym.envs.registration import SERVE_ID
from rapgym.envs.serve_env import ServeEnv
from rapgym.envs.serve_play import TERMS
from rapgym.errors import DataUnavailable, HeldOut, InvalidAction, InvalidSpec
from rapgym.heldout import only
from rapgym.scenarios import serving_worlds
from rapgym.scenarios.serving import ServeScenario
from rapgym.serving import batch, sight

every_observation = pytest.mark.parametrize("observation", ["flat", "dict"])


def made(story: ServeScenario, **settings: Any) -> ServeEnv:
    env = gymnasium.make(SERVE_ID, disable_env_checker=True, scenario=story, **settings).unwrapped
    assert isinstance(env, ServeEnv)
    return env


def played(env: ServeEnv, seed: int | None, steps: int, **reset: Any) -> list[tuple[Any, ...]]:
    """What an episode of drawn actions gives."""
    rng = np.random.default_rng(0)
    found: list[tuple[Any, ...]] = [(*env.reset(seed=seed, **reset), 0.0, False)]
    for _ in range(steps):
        action = rng.integers(0, env.action_space.nvec)  # type: ignore[attr-defined]
        seen, reward, terminated, truncated, info = env.step(action)
        assert not terminated
        found.append((seen, info, reward, truncated))
        if truncated:
            break
    return found


@every_observation
@pytest.mark.parametrize("env_id", [SERVE_ID, f"rapgym/{SERVE_ID}"])
def test_gymnasiums_checker_passes(
    serving_story: ServeScenario, env_id: str, observation: str
) -> None:
    env = gymnasium.make(env_id, scenario=serving_story, observation=observation)
    check_env(env.unwrapped, skip_render_check=True)


@every_observation
def test_stable_baselines3s_checker_passes(serving_story: ServeScenario, observation: str) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(made(serving_story, observation=observation))


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_seed_fixes_every_byte(serving_story: ServeScenario, split: str) -> None:
    one = played(made(serving_story, split=split), 7, 80)
    again = made(serving_story, split=split)
    played(again, 3, 40)  # what came before makes no difference
    assert pickle.dumps(one) == pickle.dumps(played(again, 7, 80))
    other = played(again, 8, 80)
    assert (pickle.dumps(one) == pickle.dumps(other)) == (split == "test")


def test_spaces(serving_story: ServeScenario) -> None:
    env = made(serving_story)
    world = env.world
    assert env.action_space == gymnasium.spaces.MultiDiscrete(
        [world.attention + 1, world.ffn + 1, 2]
    )
    box = env.observation_space
    assert isinstance(box, gymnasium.spaces.Box)
    assert box.shape == (sight.WIDTH,)
    assert box.dtype == np.float32
    assert np.isfinite(box.high).all()
    assert env.layout["limit"] == slice(0, 60)
    assert [part.name for part in sight.PARTS] == [*env.layout]
    assert env.action_masks().all()
    _, info = env.reset(seed=0)
    assert info["action_mask"].dtype == np.int8
    assert (
        info["action_mask"].shape == env.action_masks().shape == (world.attention + world.ffn + 4,)
    )
    both = made(serving_story, observation="dict")
    seen, _ = both.reset(seed=0)
    flat, _ = env.reset(seed=0)
    assert np.array_equal(seen["observations"], flat)
    assert both.observation_space.contains(seen)


def test_an_episode_of_train_is_ten_minutes_from_a_drawn_second(
    serving_story: ServeScenario,
) -> None:
    env = made(serving_story)
    assert len(played(env, 0, 1000)) == 601
    assert env.spec is not None
    assert env.spec.max_episode_steps == 600
    starts = set()
    for seed in range(8):
        env.reset(seed=seed)
        starts.add(env._play.batch.parts[0].start_s)
    assert len(starts) > 4


def test_an_episode_elsewhere_is_a_whole_piece(serving_story: ServeScenario) -> None:
    env = made(serving_story, split="validation")
    pieces = env.world.pieces
    assert len(pieces) == 1
    rows = played(env, 0, 10_000)
    assert len(rows) == pieces[0].seconds + 1
    assert env.spec is not None
    assert env.spec.max_episode_steps == pieces[0].seconds
    arrived = sum(int(info["arrived"]) for _, info, _, _ in rows)
    assert arrived == len(env.world.spans[0].arrival_us)
    with pytest.raises(InvalidSpec, match="validation of toy-serve has pieces 0 to 0, not 1"):
        env.reset(options={"piece": 1})


def test_pieces_are_named(serving_story: ServeScenario) -> None:
    blocked = replace(serving_story, base=replace(serving_story.base, splits="blocked"))
    env = made(blocked, split="test", piece=1)
    assert len(env.world.pieces) == 4

    def place() -> int:
        return env._play.batch.parts[0].span

    env.reset()
    assert place() == 1
    env.reset(options={"piece": 3})
    assert place() == 3
    env.reset()
    assert place() == 3, "it holds until another is named"
    env.reset(seed=1)
    assert place() == 1, "or a seed begins all anew"
    for wrong in (-1, 1.5, True, "one"):
        with pytest.raises(InvalidSpec, match="piece is a whole number"):
            env.reset(options={"piece": wrong})


def test_terms_add_up_to_minus_the_reward_and_the_cost(serving_story: ServeScenario) -> None:
    env = made(serving_story, split="check")
    rows = played(env, 0, 1000)
    mean, ceiling = env.world.means.output_tokens, env.world.harm.ceiling
    for _, info, reward, _ in rows:
        assert sum(float(info[name]) for name in TERMS) == pytest.approx(-reward)
        assert reward == pytest.approx(-float(info["cost"]) / mean)
        assert info["quality"] == pytest.approx(info["nats"] / mean)
        gone = info["shed_tokens"] + info["lost_tokens"]
        assert info["undelivered"] == pytest.approx(gone * ceiling / mean)
        assert info["lateness"] > -1e-12
    total = {name: sum(float(info[name]) for _, info, _, _ in rows) for name in batch.COLUMNS}
    output = env.world.requests(env.world.pieces[0]).output_tokens.sum()
    assert total["tokens"] + total["shed_tokens"] + total["lost_tokens"] == output
    assert total["shed_tokens"] > 0
    assert sum(float(info["lateness"]) for _, info, _, _ in rows) > 0


def test_info_has_the_same_entries_after_resets_and_steps(serving_story: ServeScenario) -> None:
    env = made(serving_story)
    rows = played(env, 0, 30)
    kinds = [
        {name: (type(value), value.shape, value.dtype) for name, value in info.items()}
        for _, info, _, _ in rows
    ]
    assert all(each == kinds[0] for each in kinds)
    assert {*batch.COLUMNS, *TERMS, "served", "on_fall", "action_mask"} <= {*rows[0][1]}
    assert not rows[0][1]["served"]
    assert not any(value.any() for name, value in rows[0][1].items() if name != "action_mask")
    assert all(info["served"] for _, info, _, _ in rows[1:])


def test_a_decision_is_carried_out(serving_story: ServeScenario) -> None:
    env = made(serving_story)
    most = np.array([env.world.attention, env.world.ffn, 1])
    env.reset(seed=0)
    _, _, _, _, info = env.step(most)
    assert (info["attention_asked"], info["ffn_asked"], info["on_fall"]) == tuple(most)
    _, _, _, _, info = env.step(most)
    assert (info["attention_dropped"], info["ffn_dropped"]) == tuple(most[:2])
    back = set()
    for _ in range(40):
        _, _, _, _, info = env.step(np.zeros(3, dtype=np.int64))
        back.add(int(info["loading"]))
    assert back <= {0, 1, 2}
    assert back & {1, 2}, "blocks come back one by one"


@pytest.mark.parametrize(
    "action",
    [[0, 0], [0, 0, 2], [-1, 0, 0], [0.5, 0, 0], [np.nan, 0, 0], 0, "drop", None, [99, 0, 0]],
)
def test_what_cannot_be_read_is_refused(serving_story: ServeScenario, action: Any) -> None:
    env = made(serving_story)
    env.reset(seed=0)
    with pytest.raises(InvalidAction):
        env.step(action)


def test_a_step_outside_an_episode_is_refused(serving_story: ServeScenario) -> None:
    env = made(serving_story, split="check")
    with pytest.raises(InvalidAction, match="call reset"):
        env.step([0, 0, 0])
    played(env, 0, 10_000)
    with pytest.raises(InvalidAction, match="call reset"):
        env.step([0, 0, 0])


def test_arguments_that_are_none_of_those_there_are(serving_story: ServeScenario) -> None:
    for settings, words in (
        ({"split": "tests"}, "no split"),
        ({"observation": "pixels"}, "no observation kind"),
        ({"piece": -1}, "piece is a whole number"),
        ({"render_mode": "film"}, "no render_mode 'film'"),
        ({"scenario": "serve-dayz"}, "no serving scenario"),
        ({"scenario": "chat"}, "no serving scenario"),
    ):
        with pytest.raises(InvalidSpec, match=words):
            ServeEnv(**({"scenario": serving_story} | settings))
    with pytest.raises(DataUnavailable):
        ServeEnv("none.toml")


def test_a_spec_makes_the_same_environment_again(serving_story: ServeScenario) -> None:
    env = gymnasium.make(SERVE_ID, disable_env_checker=True, scenario=serving_story, split="check")
    assert env.spec is not None
    text = env.spec.to_json()
    assert json.loads(text)["kwargs"]["scenario"]["name"] == "toy-serve"
    again = gymnasium.make(EnvSpec.from_json(text), disable_env_checker=True)
    one, other = env.unwrapped, again.unwrapped
    assert isinstance(one, ServeEnv)
    assert isinstance(other, ServeEnv)
    assert pickle.dumps(played(one, 2, 30)) == pickle.dumps(played(other, 2, 30))


def test_training_opens_its_split_alone(serving_story: ServeScenario) -> None:
    serving_worlds.forget()
    with only("fit") as opened:
        made(serving_story, split="fit").reset(seed=0)
        with pytest.raises(HeldOut):
            made(serving_story, split="test")
    assert opened == {"fit"}
