"""The published maps as one SVG and a table: who is cheapest over cards and loads, scenario by scenario."""

from collections.abc import Iterator, Sequence
from html import escape

from rapgym.report import worth
from rapgym.report.markdown import table
from rapgym.report.worth_page import COLOURS, SAID
from rapgym.worth.point import MATTERS, Point
from rapgym.worth.sweep import Map
from rapgym.worth.ways import BY_NAME

WIDTH, MARGIN, TOP = 760, 16, 128
ACROSS = 3  # panels beside each other
LEFT, HEAD, FOOT = 36, 22, 34  # of a panel, beside its cells: loads, title, cards
CELL_W, CELL_H = 29, 17
PANEL_W = (WIDTH - 2 * MARGIN) // ACROSS

STYLE = """\
text { font: 11px system-ui, sans-serif; fill: #1f2328; }
.paper { fill: #ffffff; }
.head { font-size: 13px; font-weight: 600; }
.cell { font-size: 10px; text-anchor: middle; }
.on { fill: #ffffff; }
.off { fill: #1f2328; }
.axis { fill: #59636e; font-size: 9px; }
.own { fill: none; stroke: #1f2328; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .paper { fill: #0d1117; }
  .on { fill: #ffffff; }
  .off { fill: #1f2328; }
  .axis { fill: #9198a1; }
  .own { stroke: #e6edf3; }
}"""


def told(maps: Sequence[Map]) -> str:
    """What the figure shows, for those who do not see it: counts from the published maps."""
    points = [point for found in maps for point in found.points]
    open_ones = list(_pruned(points))
    shown = sum(point.is_shown for point in open_ones)
    served = sum(not worth.is_unserved(point) for point in open_ones)
    return (
        f"Who is cheapest on {len(points)} cards and loads around {len(maps)} scenarios. Dropping blocks at run time "
        f"is, by {MATTERS:g} nats or more, at {len(open_ones)} of them ({len(open_ones) / max(len(points), 1):.0%}); "
        f"at {served} of these one would serve, and at {shown} held-out rows show it."
    )


def _pruned(points: Sequence[Point]) -> Iterator[Point]:
    """Points at which run-time pruning is the cheapest by as much as matters."""
    return (point for point in points if BY_NAME[point.best].kind == "pruned" and point.is_open)


def drawn(maps: Sequence[Map]) -> str:
    """The whole file: a panel for each map, side by side."""
    panels = [_height(found) for found in maps]
    tops, height = list[int](), TOP
    for first in range(0, len(maps), ACROSS):
        tops.append(height)
        height += max(panels[first : first + ACROSS])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" aria-labelledby="title desc">',
        '<title id="title">Who is cheapest on which card, under which load</title>',
        f'<desc id="desc">{escape(told(maps))}</desc>',
        f"<style>\n{STYLE}\n</style>",
        f'<rect class="paper" width="{WIDTH}" height="{height}" rx="8"/>',
        f'<text class="head" x="{MARGIN}" y="26">Who is cheapest: cards from left to right, loads from below</text>',
        *_legend(),
    ]
    for number, found in enumerate(maps):
        left = MARGIN + PANEL_W * (number % ACROSS)
        parts += _panel(found, left, tops[number // ACROSS])
    return "\n".join([*parts, "</svg>"]) + "\n"


def _height(found: Map) -> int:
    return HEAD + CELL_H * len(found.y.values) + FOOT


def _legend() -> list[str]:
    lines = []
    for (kind, bits), colour in COLOURS.items():
        x = MARGIN + 250 * [*SAID].index(kind)
        y = 40 + 18 * (16, 8, 4).index(bits)
        lines.append(f'<rect x="{x}" y="{y}" width="16" height="12" rx="2" fill="{colour}"/>')
        lines.append(f'<text x="{x + 22}" y="{y + 10}">{escape(SAID[kind])}, {bits} bits</text>')
    note = "capital: held-out rows show it; !: nobody would serve at that cost; outlined: the scenario as it is"
    return [*lines, f'<text class="axis" x="{MARGIN}" y="112">{escape(note)}</text>']


def _panel(found: Map, left: int, top: int) -> list[str]:
    x0, y0 = left + LEFT, top + HEAD
    rows = len(found.y.values)
    lines = [f'<text class="head" x="{left}" y="{top + 12}">{escape(found.story.name)}</text>']
    for column, card in enumerate(found.x.values):
        x = x0 + CELL_W * column + (CELL_W - 1) / 2
        lines.append(
            f'<text class="axis" x="{x:g}" y="{y0 + CELL_H * rows + 10}" text-anchor="middle">{card:.3g}</text>'
        )
    lines.append(
        f'<text class="axis" x="{x0}" y="{y0 + CELL_H * rows + 21}">{escape(found.x.says)}</text>'
    )
    for line, load in enumerate(found.y.values):
        y = y0 + CELL_H * (rows - 1 - line)
        lines.append(
            f'<text class="axis" x="{x0 - 4}" y="{y + 12}" text-anchor="end">{found.y.shown(load)}</text>'
        )
        for column, card in enumerate(found.x.values):
            lines += _cell(found, found.at(card, load), x0 + CELL_W * column, y)
    return lines


def _cell(found: Map, point: Point, x: int, y: int) -> list[str]:
    way = BY_NAME[point.best]
    tip = f"{found.story.name}, {found.shown(point)}: {point.best}, {point.train.costs[point.best]:.4f} nats on train"
    if point.lead is not None:
        tip += f", {point.lead.train:.4f} less than {point.lead.over}"
    label = f"{worth.label(point)}{'!' if worth.is_unserved(point) else ''}"
    ink = "on" if way.bits == 4 else "off"
    lines = [
        f"<g><title>{escape(tip)}</title>"
        f'<rect x="{x}" y="{y}" width="{CELL_W - 1}" height="{CELL_H - 1}" fill="{COLOURS[way.kind, way.bits]}"/>'
        f'<text class="cell {ink}" x="{x + (CELL_W - 1) / 2:g}" y="{y + 12}">{label}</text></g>'
    ]
    if point == found.own:
        lines.append(
            f'<rect class="own" x="{x}" y="{y}" width="{CELL_W - 1}" height="{CELL_H - 1}"/>'
        )
    return lines


def image(maps: Sequence[Map], path: str) -> str:
    """The figure, with what it shows for those who do not see it."""
    return f"![Who is cheapest on which card, under which load. {told(maps)}]({path})"


def rows(maps: Sequence[Map]) -> str:
    """Each map in a line: how often pruning is cheapest, and what is best on the scenario's own card."""
    found = []
    for each in maps:
        ahead, own = list(_pruned(each.points)), each.own
        found.append(
            [
                f"`{each.story.name}`",
                f"{len(ahead)} of {len(each.points)}",
                f"{sum(not worth.is_unserved(point) for point in ahead)}",
                f"{sum(point.is_shown for point in ahead)}",
                f"`{own.best}`",
                f"{own.train.costs[own.best]:.3f}",
                "-" if own.pruning is None else f"{own.pruning.train:+.3f}",
                "-" if own.pruning is None else own.pruning.verdict or "-",
            ]
        )
    heads = ("scenario", "points where pruning is cheapest", "one would serve", "held-out rows show it",
             "cheapest on its own card", "costs", "pruning saves", "on held-out rows")  # fmt: skip
    return table(heads, found)
