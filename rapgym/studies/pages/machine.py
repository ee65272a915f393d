"""The watchdog's state machine as SVG, drawn from `rapgym.guard.watchdog.TRANSITIONS`."""

from html import escape
from itertools import groupby

from rapgym.guard.watchdog import TRANSITIONS, Mode, Transition

WIDTH, HEIGHT = 760, 330
BOX = (150, 64)  # of a mode, pixels
# Where the middle of each mode lies.
PLACES = {Mode.POLICY: (110, 120), Mode.REFERENCE: (650, 120), Mode.REVERTED: (110, 275)}
SAYS = {
    Mode.POLICY: "the policy decides",
    Mode.REFERENCE: "the lookup, for now",
    Mode.REVERTED: "the lookup, for good",
}
LINE = 18  # pixels from one line of text to the next
APART = 14  # pixels between the arrows of both ways

STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.paper { fill: #ffffff; }
.mode { fill: #eef4fc; stroke: #0b62c4; stroke-width: 1.6; }
.way { fill: none; stroke: #59636e; stroke-width: 1.6; }
.tip { fill: #59636e; }
.faint { fill: #59636e; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .paper { fill: #0d1117; }
  .mode { fill: #14243a; stroke: #6cb6ff; }
  .way { stroke: #9198a1; }
  .tip, .faint { fill: #9198a1; }
}"""


def told() -> str:
    """The same in words, for those who do not see it."""
    ways = "; ".join(f"{t.before.name} to {t.after.name}: {t.when}" for t in TRANSITIONS)
    return f"It begins in {Mode.POLICY.name}. {ways}."


def drawn() -> str:
    """The whole file."""
    ends = groupby(TRANSITIONS, key=lambda way: (way.before, way.after))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" aria-labelledby="title desc">',
        '<title id="title">Who decides: the state machine of the watchdog</title>',
        f'<desc id="desc">{escape(told())}</desc>',
        f"<style>\n{STYLE}\n</style>",
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        'orient="auto"><path class="tip" d="M0 0 L10 5 L0 10 Z"/></marker></defs>',
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
        _start(),
        *(line for mode in Mode for line in _mode(mode)),
        *(line for _, ways in ends for line in _ways(list(ways))),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _start() -> str:
    x, y = PLACES[Mode.POLICY]
    top = y - BOX[1] / 2
    return f'<circle class="tip" cx="{x}" cy="24" r="6"/>{_arrow(x, 30, x, top)}'


def _mode(mode: Mode) -> list[str]:
    (x, y), (width, height) = PLACES[mode], BOX
    return [
        f'<rect class="mode" x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width}" '
        f'height="{height}" rx="10"/>',
        f'<text x="{x}" y="{y - 4}" text-anchor="middle" font-weight="600">{mode.name}</text>',
        f'<text class="faint" x="{x}" y="{y + 16}" text-anchor="middle">{SAYS[mode]}</text>',
    ]


def _ways(ways: list[Transition]) -> list[str]:
    """One arrow from a mode to another, with all that leads along it."""
    (x0, y0), (x1, y1) = PLACES[ways[0].before], PLACES[ways[0].after]
    if x0 == x1:  # down
        lines = [_arrow(x0, y0 + BOX[1] / 2, x1, y1 - BOX[1] / 2)]
        middle = (y0 + y1) / 2 + 4
        return lines + [_text(x0 + 14, middle + LINE * n, way.when) for n, way in enumerate(ways)]
    right = 1 if x1 > x0 else -1
    y = y0 - APART * right
    lines = [_arrow(x0 + right * BOX[0] / 2, y, x1 - right * BOX[0] / 2, y)]
    first = y - 8 - LINE * (len(ways) - 1) if right > 0 else y + LINE
    middle = (x0 + x1) / 2
    return lines + [
        _text(middle, first + LINE * n, way.when, "middle") for n, way in enumerate(ways)
    ]


def _arrow(x0: float, y0: float, x1: float, y1: float) -> str:
    return f'<path class="way" marker-end="url(#tip)" d="M{x0:g} {y0:g} L{x1:g} {y1:g}"/>'


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'
