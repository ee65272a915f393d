"""A picture of a lane: memory limit and use by kind, row by row, and the blocks kept as a strip."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rapgym.arrays import BoolArray
from rapgym.envs.film import GIB, SHOWN, Film, Next, Picture, Row, Use
from rapgym.world.shield import Reason

WIDTH, HEIGHT = 720, 480  # even, as video encoders want them
LEFT, RIGHT = 64, 704  # of both panels
MEMORY = (60, 280)  # top and bottom of the panel of memory
STRIP = (318, 438)  # of the strip of blocks: attention above, FFN below
GAP = 6  # between the two halves of the strip
LEGEND = 452
COLUMN = (RIGHT - LEFT) / (SHOWN + 1)  # one a row, and the last for the row that comes next

PAPER, INK, FAINT = (255, 255, 255), (40, 44, 52), (222, 225, 230)
MUTED = (120, 126, 136)
OTHER, ATTENTION, FFN, KV = (170, 176, 186), (38, 107, 176), (227, 148, 46), (72, 166, 118)
LIMIT, LOST, REFUSED = (190, 40, 50), (60, 20, 70), (250, 222, 222)
Level = Callable[[float], float]  # bytes to the height at which they are drawn
KINDS = (("other", OTHER), ("attention", ATTENTION), ("FFN", FFN), ("KV cache", KV))


def draw(film: Film, so_far: BoolArray | None) -> Picture:
    """uint8 [HEIGHT, WIDTH, 3]; `so_far` as `Film.coming` takes it."""
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    pen, coming = ImageDraw.Draw(image), film.coming(so_far)
    _title(pen, film, coming)
    _memory(pen, film, coming)
    _strip(pen, film, coming)
    _legend(pen)
    return np.asarray(image, dtype=np.uint8).copy()


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Of so many points."""
    return ImageFont.load_default(size)


def _title(pen: ImageDraw.ImageDraw, film: Film, coming: Next) -> None:
    pen.text((16, 10), film.title, INK, font(17))
    rows = f"row {film.served} of {film.length}"
    pen.text((RIGHT, 10), rows, INK, font(17), anchor="ra")
    if film.rows:
        row = film.rows[-1]
        said = f"last: {row.requests} requests, {row.reason.name.lower()}, cost {row.cost:.4f} nats"
    else:
        said = "no row served yet"
    pen.text((16, 34), said, MUTED, font(13))
    asked = f"next: {coming.requests} requests, {coming.tokens:,} tokens"
    pen.text((RIGHT, 34), asked, MUTED, font(13), anchor="ra")


def _column(place: int) -> tuple[float, float]:
    """Left and right of a row's column; place 0 is the oldest."""
    return LEFT + place * COLUMN, LEFT + (place + 1) * COLUMN


def _memory(pen: ImageDraw.ImageDraw, film: Film, coming: Next) -> None:
    top, bottom = MEMORY
    limits = [int(row.limits.max()) for row in film.rows]
    most = max(film.card_bytes, coming.dense.total, coming.limit, *limits, 1)

    def level(size: float) -> float:
        return bottom - max(0.0, size) / most * (bottom - top)

    for share in (0, 0.25, 0.5, 0.75, 1):
        y = level(share * most)
        pen.line([(LEFT, y), (RIGHT, y)], FAINT)
        unit = " GiB" if share == 1 else ""
        pen.text((LEFT - 6, y), f"{share * most / GIB:.3g}{unit}", MUTED, font(11), anchor="rm")
    first = SHOWN - len(film.rows)
    for place, row in enumerate(film.rows, first):
        _bars(pen, place, row.use, level, refused=row.reason is Reason.REFUSED)
    for place, row in enumerate(film.rows, first):
        _limits(pen, place, row, level)
    left, right = _column(SHOWN)
    pen.rectangle([left + 2, level(coming.use.total), right - 1, bottom], outline=MUTED)
    pen.line([(left, level(coming.limit)), (right, level(coming.limit))], LIMIT, 2)
    pen.text(((left + right) / 2, bottom + 9), "next", MUTED, font(11), anchor="mm")


def _bars(pen: ImageDraw.ImageDraw, place: int, use: Use, level: Level, *, refused: bool) -> None:
    left, right = _column(place)
    if refused:
        pen.rectangle([left, MEMORY[0], right - 1, MEMORY[1]], REFUSED)
    low = 0
    parts = (use.other, use.attention, use.ffn, use.kv)
    for size, (_, colour) in zip(parts, KINDS, strict=True):
        if size:
            pen.rectangle([left + 2, level(low + size), right - 1, level(low)], colour)
        low += size


def _limits(pen: ImageDraw.ImageDraw, place: int, row: Row, level: Level) -> None:
    left, right = _column(place)
    edges = np.linspace(left, right, len(row.limits) + 1)
    points: list[tuple[float, float]] = []
    for second, limit in enumerate(row.limits.tolist()):
        points += [(edges[second], level(limit)), (edges[second + 1], level(limit))]
    pen.line(points, LIMIT, 2)


def _strip(pen: ImageDraw.ImageDraw, film: Film, coming: Next) -> None:
    top, bottom = STRIP
    half = (bottom - top - GAP) / 2
    pen.text((LEFT, top - 5), "blocks kept, first layer on top", MUTED, font(11), anchor="ls")
    columns = [(row.kept, row.kept_end) for row in film.rows] + [(coming.kept, coming.kept)]
    first = SHOWN - len(film.rows)
    for kind, (name, colour) in enumerate((("attention", ATTENTION), ("FFN", FFN))):
        start = top + kind * (half + GAP)
        pen.text((LEFT - 6, start + half / 2), name, MUTED, font(11), anchor="rm")
        for place, (kept, end) in enumerate(columns, first):
            _cells(pen, place, start, half, kept[kind::2], end[kind::2], colour)


def _cells(
    pen: ImageDraw.ImageDraw,
    place: int,
    start: float,
    half: float,
    kept: BoolArray,
    end: BoolArray,
    colour: tuple[int, int, int],
) -> None:
    """One row's blocks of one kind: kept, dropped, or lost in mid-row."""
    left, right = _column(place)
    high = half / len(kept)
    for layer, (was, still) in enumerate(zip(kept.tolist(), end.tolist(), strict=True)):
        shade = LOST if was and not still else colour if was else FAINT
        y = start + layer * high
        pen.rectangle([left + 2, round(y), right - 1, round(y + high) - 1], shade)


def _legend(pen: ImageDraw.ImageDraw) -> None:
    entries = (
        *KINDS,
        ("limit", LIMIT),
        ("dropped", FAINT),
        ("lost in mid-row", LOST),
        ("refused", REFUSED),
    )
    x: float = LEFT
    for name, colour in entries:
        pen.rectangle([x, LEGEND, x + 10, LEGEND + 10], colour)
        pen.text((x + 14, LEGEND + 5), name, INK, font(11), anchor="lm")
        x += 14 + pen.textlength(name, font(11)) + 12
