"""The README's figure: cost by scenario, drawn as SVG from the entries of a bench.

One row a scenario, one mark a method, on a logarithmic axis. Marks differ in shape as well as in
colour. A background of its own keeps it readable in light and dark. No package draws it, so the same
results give the same bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import log10

from rapgym.bench.records import Score
from rapgym.report import bench as bench_report
from rapgym.report import findings, roles

WIDTH, LEFT, RIGHT = 760, 200, 24  # pixels: all, and beside the plot
TOP, ROW, BOTTOM = 92, 26, 58
LOWEST, HIGHEST = 0.001, 4.0  # nats: ends of the axis
BELOW = 46  # pixels for a number that lies below the axis
TICKS = (0.001, 0.01, 0.1, 1.0)
# Where each entry of the legend stands: from left to right as the marks mostly lie.
LEGEND = ((LEFT, 52), (LEFT + 252, 52), (LEFT, 74), (LEFT + 108, 74), (LEFT + 252, 74))

STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.paper { fill: #ffffff; }
.faint { stroke: #d0d7de; }
.span { stroke: #d0d7de; stroke-width: 3; }
.axis { fill: #59636e; }
.static { fill: #8a5a00; }
.lookup { fill: #ffffff; stroke: #0b62c4; stroke-width: 2.2; }
.champion { fill: #0b62c4; }
.bound { fill: #1f2328; }
.format { fill: #c2255c; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .paper { fill: #0d1117; }
  .faint, .span { stroke: #30363d; }
  .axis { fill: #9198a1; }
  .static { fill: #e3b341; }
  .lookup { fill: #0d1117; stroke: #6cb6ff; }
  .champion { fill: #6cb6ff; }
  .bound { fill: #e6edf3; }
  .format { fill: #ff7eb6; }
}"""


def _diamond(x: float, y: float) -> str:
    return _path((x, y - 6), (x + 6, y), (x, y + 6), (x - 6, y))


def _triangle(x: float, y: float) -> str:
    return _path((x - 6, y + 5), (x, y - 6), (x + 6, y + 5))


def _arrow(x: float, y: float) -> str:
    """Of a cost below the axis: it points out of the plot."""
    return _path((x - 9, y), (x, y - 6), (x, y + 6))


def _path(*corners: tuple[float, float]) -> str:
    return f'<path d="M{" L".join(f"{x:.1f} {y:.1f}" for x, y in corners)} Z"'


def _ring(x: float, y: float) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6"'


def _dot(x: float, y: float) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.6"'


def _bar(x: float, y: float) -> str:
    return f'<rect x="{x - 1.5:.1f}" y="{y - 9:.1f}" width="3" height="18"'


@dataclass(frozen=True, slots=True)
class Series:
    """One method of each scenario: its name in the legend, its class in the style, its mark."""

    name: str
    css: str
    mark: Callable[[float, float], str]
    of: Callable[[Sequence[Score]], Score]


def champion(group: Sequence[Score]) -> Score:
    """The policy that validation chooses among those that do not learn."""
    return _there(roles.champion_of("all")(group))


def best_of_8_bits(group: Sequence[Score]) -> Score:
    """The cheapest rival that leaves the model whole, with 8 bits and none of 4."""
    return _there(roles.best_of_8_bits(group))


def _there(entry: Score | None) -> Score:
    assert entry is not None  # published results hold every entry
    return entry


def _named(name: str) -> Callable[[Sequence[Score]], Score]:
    return lambda group: next(entry for entry in group if entry.policy == name)


SERIES = (  # as they are drawn: the last on top
    Series("best static set", "static", _diamond, _named("static-best")),
    Series("frontier lookup", "lookup", _ring, _named("frontier")),
    Series("champion", "champion", _dot, champion),
    Series("bound: no pruning costs less", "bound", _bar, _named("bound")),
    Series("best 8-bit format, whole model", "format", _triangle, best_of_8_bits),
)


def headline(entries: Sequence[Score]) -> list[Sequence[Score]]:
    """The entries of each scenario whose numbers carry a claim."""
    return [group for group in bench_report.by_scenario(entries).values() if group[0].headline]


def told(entries: Sequence[Score]) -> str:
    """What the figure shows, for those who do not see it: counts from the results."""
    groups = headline(entries)
    static, lookup = map(_named, ("static-best", "frontier"))
    shares = [lookup(group).cost / static(group).cost for group in groups]
    ahead = sum(champion(group).cost <= lookup(group).cost for group in groups)
    below = sum(findings.against(best_of_8_bits(group)) == findings.BELOW_BOUND for group in groups)
    return (
        f"Cost in nats an output token on {len(groups)} scenarios, lower is better. The frontier "
        f"lookup costs {min(shares):.0%} to {max(shares):.0%} of what the best static set costs. The "
        f"champion costs no more than the lookup on {ahead} of them. The best 8-bit format costs "
        f"clearly less than the bound on {below}."
    )


def cost_by_scenario(entries: Sequence[Score]) -> str:
    """The whole file."""
    groups = headline(entries)
    height = TOP + ROW * len(groups) + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" aria-labelledby="title desc">',
        '<title id="title">Cost by scenario</title>',
        f'<desc id="desc">{escape(told(entries))}</desc>',
        f"<style>\n{STYLE}\n</style>",
        f'<rect class="paper" width="{WIDTH}" height="{height}" rx="8"/>',
        '<text x="16" y="28" font-weight="600">Cost by scenario: left is better</text>',
        *_legend(),
        *_axis(height),
        *(line for number, group in enumerate(groups) for line in _row(group, number)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _x(cost: float) -> float:
    """Where a cost lies, pixels; below the axis, at its end."""
    share = (log10(max(cost, LOWEST)) - log10(LOWEST)) / (log10(HIGHEST) - log10(LOWEST))
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _legend() -> list[str]:
    lines = []
    for series, (x, y) in zip(reversed(SERIES), LEGEND, strict=True):
        lines.append(f'{series.mark(x, y)} class="{series.css}"/>')
        lines.append(f'<text x="{x + 14}" y="{y + 4.5:g}">{escape(series.name)}</text>')
    return lines


def _axis(height: int) -> list[str]:
    foot = height - BOTTOM
    lines = []
    for tick in TICKS:
        x = _x(tick)
        lines.append(f'<path class="faint" d="M{x:.1f} {TOP} V{foot}"/>')
        lines.append(
            f'<text class="axis" x="{x:.1f}" y="{foot + 18}" text-anchor="middle">{tick:g}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    lines.append(
        f'<text class="axis" x="{middle:g}" y="{foot + 42}" text-anchor="middle">'
        "nats an output token above the full model (logarithmic)</text>"
    )
    return lines


def _row(group: Sequence[Score], number: int) -> list[str]:
    y = TOP + ROW * number + ROW / 2
    name = bench_report.plain(group[0].scenario)
    lines = [f'<text x="{LEFT - 16}" y="{y + 4.5:g}" text-anchor="end">{escape(name)}</text>']
    costs = [series.of(group).cost for series in SERIES]
    ends = sorted(_x(cost) + (0 if cost >= LOWEST else BELOW) for cost in costs)
    lines.append(f'<path class="span" d="M{ends[0]:.1f} {y:g} H{ends[-1]:.1f}"/>')
    for series, cost in zip(SERIES, costs, strict=True):
        mark = series.mark if cost >= LOWEST else _arrow
        tip = f"{name}, {series.name}: {series.of(group).policy}, {cost:.3f} nats"
        lines.append(
            f'<g><title>{escape(tip)}</title>{mark(_x(cost), y)} class="{series.css}"/></g>'
        )
        if cost < LOWEST:
            shown = f"{cost:.2f}".replace("-", "−")
            lines.append(
                f'<text class="axis" x="{_x(cost) + 6:.1f}" y="{y + 4.5:g}">{shown}</text>'
            )
    return lines
