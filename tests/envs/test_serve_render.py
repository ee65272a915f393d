"""What the serving environment draws: words and pictures of the seconds of late."""

from typing import Any

import gymnasium
import numpy as np
import pytest

from rapgym.envs import picture, serve_film, serve_picture
from rapgym.envs.registration import SERVE_ID
from rapgym.errors import InvalidSpec
from rapgym.scenarios.serving import ServeScenario


def made(story: ServeScenario, mode: str | None) -> Any:
    return gymnasium.make(
        SERVE_ID, scenario=story, split="test", render_mode=mode, disable_env_checker=True
    ).unwrapped


def played(env: Any, seconds: int, action: tuple[int, int, int] = (1, 1, 1)) -> dict[str, Any]:
    env.reset(seed=0)
    info: dict[str, Any] = {}
    for _ in range(seconds):
        *_, info = env.step(action)
    return info


def test_text_says_what_the_last_second_did(serving_story: ServeScenario) -> None:
    env = made(serving_story, "ansi")
    env.reset(seed=0)
    assert (
        env.render() == "toy-serve, test: 0 of 600 s served\nan idle engine, every block in memory"
    )
    info = played(env, 30)
    text = env.render()
    assert "30 of 600 s served" in text
    assert "asked  1 attention and 1 FFN blocks dropped, on a fall drop" in text
    assert f"queue  {info['waiting']} waiting, {info['running']} running" in text
    late = info["tokens"] - info["on_time_tokens"]
    gone = info["shed_tokens"] + info["lost_tokens"]
    assert f"tokens {info['on_time_tokens']} on time, {late} late, {gone} never" in text
    kept = 3 - info["attention_dropped"], 3 - info["ffn_dropped"]
    assert f"{kept[0]}/3 attention, {kept[1]}/3 FFN" in text


def test_memory_by_kind_adds_up_to_what_the_engine_counts(serving_story: ServeScenario) -> None:
    env = made(serving_story, "ansi")
    info = played(env, 20)
    (film,) = env._play.films
    card = env.world.card
    loading = int(info["loading"]) - 1
    held = (
        int(info["attention_dropped"]) - (loading == 0),
        int(info["ffn_dropped"]) - (loading == 1),
    )
    assert film.seconds[-1].use.total == card.used_bytes(held, int(info["pages_used"]) * 4)
    assert len(film.seconds) == 20
    played(env, 70)
    assert len(film.seconds) == serve_film.SHOWN
    env.reset(seed=1)
    assert not film.seconds


def test_a_picture_shows_memory_queue_and_blocks(serving_story: ServeScenario) -> None:
    env = made(serving_story, "rgb_array")
    env.reset(seed=0)
    empty = env.render()
    assert empty.shape == (picture.HEIGHT, picture.WIDTH, 3)
    assert empty.dtype == np.uint8
    info = played(env, 40, (2, 2, 1))
    drawn = env.render()

    def colours(panel: tuple[int, int]) -> set[tuple[int, ...]]:
        x = round(picture.LEFT + (serve_film.SHOWN - 0.5) * serve_picture.COLUMN)
        return {tuple(pixel) for pixel in drawn[panel[0] : panel[1], x].tolist()}

    kinds = dict(picture.KINDS)
    assert {kinds["other"], kinds["attention"], kinds["FFN"]} <= colours(serve_picture.MEMORY)
    assert (kinds["KV cache"] in colours(serve_picture.MEMORY)) == bool(info["pages_used"])
    assert picture.LIMIT in colours(serve_picture.MEMORY)
    assert (serve_picture.RUNNING in colours(serve_picture.QUEUE)) == bool(info["running"])
    assert picture.FAINT in colours(serve_picture.BLOCKS), "blocks are dropped"
    assert (env.render() == drawn).all(), "drawing changes nothing"


def test_a_vector_form_draws_each_lane(serving_story: ServeScenario) -> None:
    env = gymnasium.make_vec(SERVE_ID, 2, scenario=serving_story, render_mode="ansi")
    env.reset(seed=0)
    env.step(np.zeros((2, 3), dtype=np.int64))
    drawn: Any = env.render()
    one, other = drawn
    assert one.startswith("toy-serve, train, lane 0: 1 of 600 s served")
    assert other.startswith("toy-serve, train, lane 1")


def test_rendering_needs_a_mode(serving_story: ServeScenario) -> None:
    env = made(serving_story, None)
    env.reset(seed=0)
    with pytest.raises(InvalidSpec, match="needs render_mode"):
        env.render()
