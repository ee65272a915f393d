"""The four verdicts as SVG: examples of intervals, judged by the rule that judges results."""

from collections.abc import Iterator
from html import escape

import numpy as np

from rapgym.bench.score import Estimate
from rapgym.bench.verdicts import verdict

WITHIN = 0.4  # up to here a difference does not matter; a unit of these examples alone
# Middle and half width of each interval, and why it is judged so.
EXAMPLES = (
    (-2.0, 1.2, "all of it below 0"),
    (1.8, 1.0, "all of it above 0"),
    (0.05, 0.25, "all of it where nothing matters"),
    (-0.6, 1.6, "it holds 0, and more than the grey"),
)
WIDTH, LEFT, TOP, ROW = 760, 120, 66, 44
MIDDLE, UNIT = 330, 62  # pixels: where 0 lies, and of one unit

STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.paper { fill: #ffffff; }
.band { fill: #e7ebef; }
.zero { stroke: #59636e; }
.span { stroke: #0b62c4; stroke-width: 4; }
.value { fill: #0b62c4; }
.faint { fill: #59636e; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .paper { fill: #0d1117; }
  .band { fill: #262c36; }
  .zero { stroke: #9198a1; }
  .span { stroke: #6cb6ff; }
  .value { fill: #6cb6ff; }
  .faint { fill: #9198a1; }
}"""


def judged() -> Iterator[tuple[str, Estimate, str]]:
    """Each example: verdict, interval, and why."""
    for middle, half, why in EXAMPLES:
        odds = 0.01 if abs(middle) > half else 0.5
        found = Estimate(middle, middle - half, middle + half, odds, np.nan)
        yield verdict(found, WITHIN), found, why


def told() -> str:
    """The same in words, for those who do not see it."""
    return "Examples of intervals of a difference of cost. " + " ".join(
        f"{said.capitalize()}: {why}." for said, _, why in judged()
    )


def drawn() -> str:
    """The whole file."""
    foot = TOP + ROW * len(EXAMPLES)
    band = (MIDDLE - WITHIN * UNIT, 2 * WITHIN * UNIT)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {foot + 20}" width="{WIDTH}" '
        f'height="{foot + 20}" role="img" aria-labelledby="title desc">',
        '<title id="title">Four verdicts</title>',
        f'<desc id="desc">{escape(told())}</desc>',
        f"<style>\n{STYLE}\n</style>",
        f'<rect class="paper" width="{WIDTH}" height="{foot + 20}" rx="8"/>',
        f'<rect class="band" x="{band[0]:g}" y="{TOP - 8}" width="{band[1]:g}" height="{foot - TOP + 8}"/>',
        f'<path class="zero" d="M{MIDDLE} {TOP - 14} V{foot + 4}"/>',
        f'<text x="{MIDDLE}" y="{TOP - 22}" text-anchor="middle">costs as much as the lookup</text>',
        f'<text class="faint" x="{LEFT}" y="{TOP - 22}">◀ less</text>',
        f'<text class="faint" x="{WIDTH - 220}" y="{TOP - 22}" text-anchor="end">more ▶</text>',
    ]
    for number, (said, found, why) in enumerate(judged()):
        y = TOP + ROW * number + ROW / 2 - 6
        x0, x, x1 = (MIDDLE + UNIT * at for at in (found.low, found.value, found.high))
        parts += [
            f'<text x="16" y="{y + 4.5:g}" font-weight="600">{said}</text>',
            f'<path class="span" d="M{x0:.1f} {y:g} H{x1:.1f}"/>',
            f'<circle class="value" cx="{x:.1f}" cy="{y:g}" r="6"/>',
            f'<text class="faint" x="{WIDTH - 16}" y="{y + 4.5:g}" text-anchor="end">{escape(why)}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
