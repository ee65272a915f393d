"""The window of `render_mode="human"`, on a screen that SDL only pretends to have."""

import os
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rapgym.envs import screen
from rapgym.envs.registration import IDS

pygame: Any = pytest.importorskip("pygame", reason="pygame is not installed: make clients")
pytestmark = [
    pytest.mark.clients,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("shaped", "toy_story"),
]


@pytest.fixture(autouse=True)
def no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr(screen, "FPS", 1000)


def shown() -> np.ndarray:
    return pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)


@pytest.mark.parametrize("env_id", IDS)
def test_the_window_shows_each_step(env_id: str) -> None:
    settings: dict[str, Any] = {"scenario": "toy", "split": "test"}
    window = gymnasium.make(env_id, render_mode="human", **settings)
    drawn = gymnasium.make(env_id, render_mode="rgb_array", **settings)
    for env in (window, drawn):
        env.reset(seed=0)
        env.action_space.seed(0)
    for _ in range(5):
        assert (shown() == drawn.render()).all()
        for env in (window, drawn):
            env.step(env.action_space.sample())
    assert window.render() is None
    window.close()
    assert pygame.display.get_surface() is None


def test_lanes_stand_side_by_side() -> None:
    env = gymnasium.make_vec("RAP-Counts-v0", num_envs=3, scenario="toy", render_mode="human")
    env.reset(seed=0)
    assert shown().shape == (2 * 480, 2 * 720, 3)
    env.close()


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasiums_checker_passes_with_its_check_of_rendering(env_id: str) -> None:
    check_env(gymnasium.make(env_id, scenario="toy").unwrapped)
