"""Render modes: words, pictures, and a window that shows them."""

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np

from rapgym.arrays import BoolArray
from rapgym.envs import film as rows_film
from rapgym.envs import serve_film
from rapgym.envs.film import Film, Picture
from rapgym.envs.serve_film import ServeFilm
from rapgym.errors import InvalidSpec, MissingExtra

MODES = ("ansi", "rgb_array", "human")
FPS = 4  # rows a second are still read
NEEDED = {"rgb_array": ("PIL",), "human": ("PIL", "pygame")}
TILES = 4  # lanes that a window shows
Shown = Film | ServeFilm


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


def render(
    mode: str | None, films: Sequence[Shown], so_far: BoolArray | None, lane: int = 0
) -> Any:
    """A text or picture of one lane; in a window None is returned.

    Raises:
        InvalidSpec: the environment was made without a mode.
    """
    if mode is None:
        raise InvalidSpec(
            f"render() needs render_mode when the environment is made: {', '.join(MODES)}"
        )
    if mode == "ansi":
        return _told(films[lane], so_far)
    picture = _drawn(films[lane], so_far)
    if mode == "rgb_array":
        return picture
    show([picture])
    return None


def render_all(mode: str | None, films: Sequence[Shown], so_far: BoolArray | None) -> Any:
    """The same of each lane, as a tuple; a window shows the first few."""
    if mode != "human":
        return tuple(render(mode, films, so_far, lane) for lane in range(max(1, len(films))))
    show([_drawn(film, so_far) for film in films[:TILES]])
    return None


def _told(film: Shown, so_far: BoolArray | None) -> str:
    return serve_film.text(film) if isinstance(film, ServeFilm) else rows_film.text(film, so_far)


def _drawn(film: Shown, so_far: BoolArray | None) -> Picture:
    if isinstance(film, ServeFilm):
        from rapgym.envs.serve_picture import draw as draw_served

        return draw_served(film)
    from rapgym.envs.picture import draw

    return draw(film, so_far)


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
