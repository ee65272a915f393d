"""The hour of a scenario as SVG: what its full model needs in each row of train beside what the tenant leaves.

Stretches of rows become one point each, so that a file stays small: the row in which most is missing. Red is what does not fit: there, something has to go.
"""

from dataclasses import dataclass
from html import escape

import numpy as np

from rapgym.arrays import FloatArray
from rapgym.scenarios import worlds
from rapgym.scenarios.story import GIB, Scenario

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 250, 56, 58, 16, 44  # pixels
MOST_POINTS = 230

STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.paper { fill: #ffffff; }
.axis { fill: #59636e; }
.faint { stroke: #d0d7de; }
.left { fill: #d6e6f5; }
.limit { fill: none; stroke: #0b62c4; stroke-width: 1.6; }
.need { fill: none; stroke: #1f2328; stroke-width: 1.2; }
.short { fill: #c2255c; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .paper { fill: #0d1117; }
  .axis { fill: #9198a1; }
  .faint { stroke: #30363d; }
  .left { fill: #15304d; }
  .limit { stroke: #6cb6ff; }
  .need { stroke: #e6edf3; }
  .short { fill: #ff7eb6; }
}"""


@dataclass(frozen=True, slots=True)
class Hour:
    """P points of a scenario's train rows."""

    minutes: float
    card: float  # GiB
    need: FloatArray  # GiB that the full model takes, [P]
    left: FloatArray  # GiB that the tenant leaves in the worst second, [P]
    needs: tuple[float, float]  # least and most over all rows
    leaves: tuple[float, float]
    fits: float  # share of rows in which the full model fits in every second


def hour(story: Scenario) -> Hour:
    """What is drawn of a scenario, from its own series."""
    world = worlds.world(story, "train")
    rows = np.arange(len(world.rows))
    demand = world.demand_of(rows, np.ones(len(rows)))
    whole = np.ones((len(rows), world.blocks), dtype=bool)
    used = world.footprint.used_bytes(whole, demand.tokens, demand.prompt_tokens)
    need = np.asarray(used + world.footprint.margin_bytes, dtype=np.float64) / GIB
    left = world.rows.limit_bytes.min(axis=1) / GIB
    width = -(-len(rows) // MOST_POINTS)
    worst = [first + int((need - left)[first : first + width].argmax()) for first in rows[::width]]
    return Hour(
        minutes=len(rows) * story.window_s / 60,
        card=story.card_gib,
        need=need[worst],
        left=left[worst],
        needs=(float(need.min()), float(need.max())),
        leaves=(float(left.min()), float(left.max())),
        fits=float((need <= left).mean()),
    )


def told(story: Scenario, found: Hour) -> str:
    """The same in words, for those who do not see it."""
    return (
        f"{story.name}: {found.minutes:.0f} minutes of train. The tenant leaves {found.leaves[0]:.1f} to "
        f"{found.leaves[1]:.1f} GiB of {found.card:g}; the full model needs {found.needs[0]:.1f} to "
        f"{found.needs[1]:.1f} GiB and fits in {found.fits:.0%} of rows."
    )


def drawn(story: Scenario, found: Hour) -> str:
    """The whole file."""
    top = max(found.need.max(), found.left.max(), 1e-9)
    step = _step(top)
    ceiling = step * np.ceil(top / step)
    foot = HEIGHT - BOTTOM
    heights = (foot - TOP) / ceiling
    need, left = (
        np.rint(foot - heights * each).astype(int).tolist() for each in (found.need, found.left)
    )
    places = np.rint(np.linspace(LEFT, WIDTH - RIGHT, len(need) + 1)).astype(int).tolist()
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'role="img" aria-labelledby="title desc">',
        f'<title id="title">An hour of {escape(story.name)}</title>',
        f'<desc id="desc">{escape(told(story, found))}</desc>',
        f"<style>\n{STYLE}\n</style>",
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
        f'<text x="16" y="26" font-weight="600">{escape(story.name)}: memory, GiB</text>',
        *_legend(),
        *_ticks(step, ceiling, heights, foot),
        f'<path class="left" d="{_steps(places, left)}V{foot}H{LEFT}Z"/>',
        f'<path class="short" d="{_short(places, need, left)}"/>',
        f'<path class="need" d="{_steps(places, need)}"/>',
        f'<path class="limit" d="{_steps(places, left)}"/>',
        *_time(found, foot),
        "</svg>",
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def _step(top: float) -> float:
    """Between ticks: 1, 2 or 5 of a power of ten, so that there are four of them or so."""
    power = 10.0 ** np.floor(np.log10(top / 4))
    return float(next(times * power for times in (1, 2, 5, 10) if times * power >= top / 4))


def _steps(places: list[int], heights: list[int]) -> str:
    """A line of steps; a height that stays is drawn once."""
    turns = [i for i in range(1, len(heights)) if heights[i] != heights[i - 1]]
    moves = "".join(f"H{places[i]}V{heights[i]}" for i in turns)
    return f"M{places[0]} {heights[0]}{moves}H{places[-1]}"


def _short(places: list[int], need: list[int], left: list[int]) -> str:
    """What does not fit: a box from the limit up to the need of each point at which it lies above."""
    return "".join(
        f"M{places[i]} {limit}V{own}H{places[i + 1]}V{limit}Z"
        for i, (own, limit) in enumerate(zip(need, left, strict=True))
        if own < limit
    )


def _legend() -> list[str]:
    return [
        '<rect class="left" x="276" y="16" width="14" height="12"/><path class="limit" d="M276 16h14"/>',
        '<text x="296" y="26">left by the tenant</text>',
        '<path class="need" d="M426 22h16"/><text x="448" y="26">needed by the full model</text>',
        '<rect class="short" x="636" y="16" width="14" height="12"/><text x="656" y="26">too much</text>',
    ]


def _ticks(step: float, ceiling: float, heights: float, foot: int) -> list[str]:
    lines = []
    for number in range(round(ceiling / step) + 1):
        y = round(foot - heights * number * step)
        lines.append(f'<path class="faint" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>')
        lines.append(f'<text class="axis" x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{number * step:g}</text>')  # fmt: skip
    return lines


def _time(found: Hour, foot: int) -> list[str]:
    lines = []
    for minute in range(0, int(found.minutes) + 1, 10):
        x = LEFT + (WIDTH - RIGHT - LEFT) * minute / found.minutes
        lines.append(f'<text class="axis" x="{x:.0f}" y="{foot + 18}" text-anchor="middle">{minute}</text>')  # fmt: skip
    middle = (LEFT + WIDTH - RIGHT) // 2
    lines.append(f'<text class="axis" x="{middle}" y="{foot + 36}" text-anchor="middle">minutes of train rows</text>')  # fmt: skip
    return lines
