"""A picture of a serving lane: memory by kind under its limit, queue, deadlines and blocks, by the second."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from rapgym.envs.film import GIB, Picture
from rapgym.envs.picture import (
    ATTENTION,
    FAINT,
    FFN,
    HEIGHT,
    INK,
    KINDS,
    KV,
    LEFT,
    LEGEND,
    LIMIT,
    LOST,
    MUTED,
    PAPER,
    RIGHT,
    WIDTH,
    font,
)
from rapgym.envs.serve_film import SHOWN, Second, ServeFilm

COLUMN = (RIGHT - LEFT) / SHOWN
# Top and bottom of each panel.
MEMORY, QUEUE, TOKENS, BLOCKS = (60, 220), (240, 300), (320, 370), (390, 438)
WAITING, RUNNING, ON_TIME, LATE, GONE = LOST, ATTENTION, KV, FFN, LIMIT
Colour = tuple[int, int, int]


def draw(film: ServeFilm) -> Picture:
    """uint8 [HEIGHT, WIDTH, 3]."""
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    pen = ImageDraw.Draw(image)
    seconds = list(enumerate(film.seconds, SHOWN - len(film.seconds)))
    _title(pen, film)
    _memory(pen, film, seconds)
    queue = [(s.running, s.waiting) for _, s in seconds]
    _stacks(pen, seconds, QUEUE, queue, (RUNNING, WAITING), "queue", _highest(queue))
    tokens = [(s.on_time, s.late, s.gone) for _, s in seconds]
    _stacks(pen, seconds, TOKENS, tokens, (ON_TIME, LATE, GONE), "tokens", _highest(tokens))
    _blocks(pen, film, seconds)
    _legend(pen)
    return np.asarray(image, dtype=np.uint8).copy()


def _highest(stacks: Sequence[tuple[int, ...]]) -> int:
    return max([sum(stack) for stack in stacks], default=0) or 1


def _title(pen: ImageDraw.ImageDraw, film: ServeFilm) -> None:
    pen.text((16, 10), film.title, INK, font(17))
    pen.text((RIGHT, 10), f"{film.served} of {film.length} s", INK, font(17), anchor="ra")
    said = "no second served yet"
    if film.seconds:
        last = film.seconds[-1]
        said = (
            f"last: {last.running} running, {last.waiting} waiting, {last.preemptions} preempted, "
            f"{last.shed} shed, cost {last.cost:.4f}"
        )
    pen.text((16, 34), said, MUTED, font(13))


def _column(place: int) -> tuple[float, float]:
    """Left and right of a second's column; place 0 is the oldest."""
    return LEFT + place * COLUMN, LEFT + (place + 1) * COLUMN - 1


def _memory(pen: ImageDraw.ImageDraw, film: ServeFilm, seconds: list[tuple[int, Second]]) -> None:
    top, bottom = MEMORY
    most = max([film.world.card_bytes, *(second.use.total for _, second in seconds)])
    for share in (0, 0.5, 1):
        y = bottom - share * (bottom - top)
        pen.line([(LEFT, y), (RIGHT, y)], FAINT)
        unit = " GiB" if share == 1 else ""
        pen.text((LEFT - 6, y), f"{share * most / GIB:.3g}{unit}", MUTED, font(11), anchor="rm")
    colours = [colour for _, colour in KINDS]
    for place, second in seconds:
        use = second.use
        _stack(pen, place, MEMORY, (use.other, use.attention, use.ffn, use.kv), colours, most)
        left, right = _column(place)
        y = bottom - max(0, min(second.limit, most)) / most * (bottom - top)
        pen.line([(left, y), (right + 1, y)], LIMIT, 2)


def _stacks(
    pen: ImageDraw.ImageDraw,
    seconds: list[tuple[int, Second]],
    panel: tuple[int, int],
    stacks: Sequence[tuple[int, ...]],
    colours: Iterable[Colour],
    name: str,
    most: int,
) -> None:
    top, bottom = panel
    pen.line([(LEFT, bottom), (RIGHT, bottom)], FAINT)
    pen.text((LEFT - 6, (top + bottom) / 2), name, MUTED, font(11), anchor="rm")
    pen.text((LEFT - 6, top), f"{most:,}", MUTED, font(11), anchor="rm")
    for (place, _), stack in zip(seconds, stacks, strict=True):
        _stack(pen, place, panel, stack, colours, most)


def _stack(
    pen: ImageDraw.ImageDraw,
    place: int,
    panel: tuple[int, int],
    sizes: tuple[int, ...],
    colours: Iterable[Colour],
    most: int,
) -> None:
    """Bars on top of each other, `most` of them as high as the panel."""
    (top, bottom), (left, right), low = panel, _column(place), 0
    for size, colour in zip(sizes, colours, strict=True):
        if size > 0:
            high = bottom - (low + size) / most * (bottom - top)
            pen.rectangle([left, high, right, bottom - low / most * (bottom - top)], colour)
        low += size


def _blocks(pen: ImageDraw.ImageDraw, film: ServeFilm, seconds: list[tuple[int, Second]]) -> None:
    """Kept blocks of each kind as a share of all, attention above."""
    top, bottom = BLOCKS
    half, layers = (bottom - top) // 2, film.world.card.footprint.layers
    for kind, (name, colour) in enumerate((("attention", ATTENTION), ("FFN", FFN))):
        panel = top + kind * half + 2, top + (kind + 1) * half
        pen.text((LEFT - 6, sum(panel) / 2), name, MUTED, font(11), anchor="rm")
        for place, second in seconds:
            gone = second.dropped[kind]
            _stack(pen, place, panel, (layers - gone, gone), (colour, FAINT), layers)


def _legend(pen: ImageDraw.ImageDraw) -> None:
    entries = (
        *KINDS, ("limit", LIMIT), ("running", RUNNING), ("waiting", WAITING), ("on time", ON_TIME),
        ("late", LATE), ("never", GONE),
    )  # fmt: skip
    x: float = LEFT
    for name, colour in entries:
        pen.rectangle([x, LEGEND, x + 10, LEGEND + 10], colour)
        pen.text((x + 14, LEGEND + 5), name, INK, font(11), anchor="lm")
        x += 14 + pen.textlength(name, font(11)) + 8
