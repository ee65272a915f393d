"""What environments draw: words, pictures, and clear words where neither is possible."""

import importlib.util
from typing import Any

import gymnasium
import numpy as np
import pytest

from rapgym.envs import film, picture, screen
from rapgym.envs.env import RapEnv
from rapgym.envs.registration import IDS
from rapgym.envs.vector_env import RapVectorEnv
from rapgym.errors import InvalidSpec, MissingExtra

pytestmark = pytest.mark.usefixtures("shaped", "toy_story")

every_id = pytest.mark.parametrize("env_id", IDS)
ROW: dict[str, list[Any]] = {  # actions that drop attn2 and ffn2 and serve the row
    "RAP-v0": [4, 5, 6],
    "RAP-Counts-v0": [[1, 1]],
    "RAP-KeptSet-v0": [[1, 1, 1, 1, 0, 0]],
}


def made(env_id: str, mode: str | None, **settings: Any) -> Any:
    return gymnasium.make(
        env_id, render_mode=mode, **({"scenario": "toy", "split": "test"} | settings)
    )


def played(env: Any, rows: int) -> dict[str, Any]:
    """Serve so many rows from the first; the last row's info."""
    env.reset(seed=0)
    env_id = env.spec.id
    info: dict[str, Any] = {}
    for _ in range(rows):
        for action in ROW[env_id]:
            *_, info = env.step(np.array(action))
    return info


def place(layer: int, kind: int, column: int, layers: int = 3) -> tuple[int, int]:
    """The middle of a block's cell in the strip: its row and column of pixels."""
    top, bottom = picture.STRIP
    half = (bottom - top - picture.GAP) / 2
    y = top + kind * (half + picture.GAP) + (layer + 0.5) * half / layers
    return round(y), round(picture.LEFT + (column + 0.5) * picture.COLUMN)


@every_id
def test_text_says_what_the_last_row_was_and_the_next_asks(env_id: str) -> None:
    env = made(env_id, "ansi")
    env.reset(seed=0)
    first = env.render()
    assert first.startswith("toy, test: 0 of 50 rows served\nnext ")
    info = played(env, 2)
    text = env.render()
    assert "2 of 50 rows served" in text
    assert f"last   {info['batch']} requests, " in text
    assert f"{info['prompt_tokens'] + info['reserved_tokens']} tokens" in text
    assert f"{info['kept'][0::2].sum()}/3 attention, {info['kept'][1::2].sum()}/3 FFN" in text
    cost = info["quality"] + info["stall"] + info["emergency"] + info["refused"]
    assert f"cost {cost:.4f} nats" in text


def test_the_bar_is_as_long_as_what_is_used() -> None:
    use = film.Use(other=100, attention=200, ffn=300, kv=200)
    bar = film.bar(use, limit=900, card=1000)
    assert bar[1 : film.BAR + 2] == "o" * 4 + "a" * 8 + "f" * 12 + "k" * 8 + " " * 4 + "|" + " " * 4
    assert film.bar(use, limit=-5, card=1000)[1] == "|", "a limit below nothing stands at its edge"


@every_id
def test_use_adds_up_to_what_info_says(env_id: str) -> None:
    env = made(env_id, "ansi")
    for rows in range(1, 8):
        info = played(env, rows)
        (row,) = [*env.unwrapped._play.films[0].rows][-1:]
        assert row.limits[0] == info["limit_bytes"]
        assert row.reason == info["reason"]
        if info["used_bytes"]:
            assert row.use.total == info["used_bytes"]


@every_id
def test_the_strip_shows_what_was_kept_and_what_comes(env_id: str) -> None:
    env = made(env_id, "rgb_array")
    info = played(env, 1)
    if env_id == "RAP-v0":
        env.step(3)  # of the next row, not served yet
    drawn = env.render()
    assert drawn.shape == (picture.HEIGHT, picture.WIDTH, 3)
    assert drawn.dtype == np.uint8
    for block, (kept, end) in enumerate(zip(info["kept"], info["kept_end"], strict=True)):
        layer, kind = divmod(block, 2)
        colour = (picture.ATTENTION, picture.FFN)[kind]
        wanted = picture.LOST if kept and not end else colour if kept else picture.FAINT
        assert tuple(drawn[place(layer, kind, film.SHOWN - 1)]) == wanted, block
        stays = block != 3 if env_id == "RAP-v0" else end
        wanted = colour if stays else picture.FAINT
        assert tuple(drawn[place(layer, kind, film.SHOWN)]) == wanted, f"next row, {block}"
    assert (drawn == picture.LIMIT).all(axis=2).any(), "the limit is drawn"


def test_refused_rows_are_marked_and_old_ones_leave() -> None:
    env, refused = made("RAP-Counts-v0", "rgb_array"), []
    env.reset(seed=0)
    for _ in range(49):
        *_, info = env.step(np.array([0, 0]))
        refused.append(bool(info["reason"] == 6))
    drawn, shown = env.render(), refused[-film.SHOWN :]
    assert 0 < sum(shown) < len(shown)
    for column, was in enumerate(shown):
        x = round(picture.LEFT + (column + 0.5) * picture.COLUMN)
        marked = (drawn[picture.MEMORY[0] : picture.MEMORY[1], x] == picture.REFUSED).all(axis=1)
        assert marked.any() == was, column
    env.reset(seed=0)
    assert not len(env.unwrapped._play.films[0].rows), "a new episode begins with none"


@every_id
@pytest.mark.parametrize("mode", ["ansi", "rgb_array"])
def test_lanes_of_a_vector_draw_what_single_environments_do(env_id: str, mode: str) -> None:
    vector = gymnasium.make_vec(env_id, num_envs=2, scenario="toy", split="test", render_mode=mode)
    alone = made(env_id, mode)
    assert vector.render_mode == mode
    vector.reset(seed=0)
    for _ in range(3):
        for action in ROW[env_id]:
            vector.step(np.array([action, action]))
    played(alone, 3)
    drawn: Any = vector.render()
    assert isinstance(drawn, tuple)
    assert len(drawn) == 2
    for lane, one in enumerate(drawn):
        if mode == "ansi":
            assert one == alone.render().replace("toy, test", f"toy, test, lane {lane}")
        else:  # below the title, which names the lane
            assert (one[50:] == alone.render()[50:]).all()


@every_id
def test_without_a_mode_nothing_is_kept_and_rendering_is_refused(env_id: str) -> None:
    env = made(env_id, None)
    played(env, 2)
    assert env.unwrapped._play.films == []
    with pytest.raises(InvalidSpec, match="render_mode"):
        env.unwrapped.render()
    vector = gymnasium.make_vec(env_id, num_envs=2, scenario="toy", render_mode=None)
    with pytest.raises(InvalidSpec, match="render_mode"):
        vector.render()


@every_id
def test_what_is_drawn_changes_no_episode(env_id: str) -> None:
    found = []
    for mode in (None, "ansi", "rgb_array"):
        env = made(env_id, mode, split="train")
        seen, _ = env.reset(seed=1)
        steps = [seen.tobytes()]
        for action in ROW[env_id] * 5:
            seen, reward, *_ = env.step(np.array(action))
            if mode:
                env.render()
            steps.append(seen.tobytes() + np.float64(reward).tobytes())
        found.append(steps)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(("mode", "package"), [("rgb_array", "PIL"), ("human", "pygame")])
def test_without_the_extra_it_is_named(
    mode: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == package else real(name, *rest) or object(),
    )
    with pytest.raises(MissingExtra, match=rf"{package}; run: pip install 'rapgym\[render\]'"):
        made("RAP-v0", mode)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="ansi, rgb_array, human"):
        RapEnv("blocks", scenario="toy", render_mode="hologram")
    with pytest.raises(InvalidSpec, match="ansi, rgb_array, human"):
        RapVectorEnv(2, "blocks", scenario="toy", render_mode="hologram")


def test_metadata_is_what_gymnasium_asks_for() -> None:
    for env in (made("RAP-v0", None), gymnasium.make_vec("RAP-v0", num_envs=1, scenario="toy")):
        assert env.metadata["render_modes"] == ["ansi", "rgb_array", "human"]
        assert env.metadata["render_fps"] == screen.FPS
