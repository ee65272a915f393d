"""Render modes: words, pictures, and a window that shows them."""

import importlib.util
from typing import Any, Protocol

import numpy as np

from rapgym.envs.film import Picture
from rapgym.errors import InvalidSpec, MissingExtra

MODES = ("ansi", "rgb_array", "human")
FPS = 4  # rows a second are still read
NEEDED = {"rgb_array": ("PIL",), "human": ("PIL", "pygame")}
TILES = 4  # lanes that a window shows


class Lanes(Protocol):
    """What can be shown of each lane."""

    def text(self, lane: int) -> str:
        """In words."""

    def picture(self, lane: int) -> Picture:
        """uint8 [height, width, 3]."""


def checked(mode: str | None) -> str | None:
    """The mode, if there is such a one and what it needs is installed.

    Raises:
        InvalidSpec: there is no such mode.
        MissingExtra: a package is missing; the message names the extra.
    """
    if mode is None:
        return None
    if mode not in MODES:
        raise InvalidSpec(f"no render_mode {mode!r}; there are {', '.join(MODES)}")
    for package in NEEDED.get(mode, ()):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(
                f"render_mode={mode!r} needs {package}; run: pip install 'rapgym[render]'"
            )
    return mode


def render(mode: str | None, lanes: Lanes, lane: int = 0) -> Any:
    """A text or picture of one lane; in a window None is returned.

    Raises:
        InvalidSpec: the environment was made without a mode.
    """
    if mode is None:
        raise InvalidSpec(
            f"render() needs render_mode when the environment is made: {', '.join(MODES)}"
        )
    if mode == "ansi":
        return lanes.text(lane)
    picture = lanes.picture(lane)
    if mode == "rgb_array":
        return picture
    show([picture])
    return None


def render_all(mode: str | None, lanes: Lanes, count: int) -> Any:
    """The same of each of `count` lanes, as a tuple; a window shows the first few."""
    if mode != "human":
        return tuple(render(mode, lanes, lane) for lane in range(count))
    show([lanes.picture(lane) for lane in range(min(count, TILES))])
    return None


def show(pictures: list[Picture]) -> None:
    """Put pictures side by side into the one window that a process has."""
    import pygame

    wide = 1 if len(pictures) == 1 else 2
    blank = np.zeros_like(pictures[0])
    padded = pictures + [blank] * (-len(pictures) % wide)
    rows = [np.concatenate(padded[i : i + wide], axis=1) for i in range(0, len(padded), wide)]
    whole = np.concatenate(rows, axis=0).swapaxes(0, 1)
    pygame.display.init()
    window = pygame.display.get_surface()
    if window is None or window.get_size() != whole.shape[:2]:
        window = pygame.display.set_mode(whole.shape[:2])
        pygame.display.set_caption("rapgym")
    window.blit(pygame.surfarray.make_surface(whole), (0, 0))
    pygame.event.pump()
    pygame.display.flip()
    pygame.time.wait(1000 // FPS)


def close() -> None:
    """Close the window, if there is one."""
    import pygame

    pygame.display.quit()
