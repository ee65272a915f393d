"""The map as an HTML page: the verdict first, then who is cheapest over cards and loads, then every point."""

import html
from collections.abc import Callable
from typing import Any

from rapgym.files import provenance
from rapgym.report import drawing, worth
from rapgym.report.bench import interval_of
from rapgym.report.page import Page, Picture, Section, Table
from rapgym.scenarios import tables
from rapgym.worth import ways
from rapgym.worth.axes import Value
from rapgym.worth.point import Point
from rapgym.worth.sweep import Map
from rapgym.worth.ways import BY_NAME, Kind

# Of kind and bits, each with its own colour: blues prune nothing, oranges keep one set, greens prune.
COLOURS: dict[tuple[Kind, int], str] = {
    ("whole", 16): "#9CCBEA", ("whole", 8): "#4C9CD0", ("whole", 4): "#0B5C94",
    ("fixed", 16): "#F6D9A0", ("fixed", 8): "#E69F00", ("fixed", 4): "#9A6A00",
    ("pruned", 16): "#A8DFC9", ("pruned", 8): "#2FB088", ("pruned", 4): "#00694A",
}  # fmt: skip
SAID: dict[Kind, str] = {
    "whole": "unpruned", "fixed": "one smaller set", "pruned": "run-time pruning"
}  # fmt: skip


def page(found: Map) -> Page:
    """The page of a map.

    Raises:
        MissingExtra: plotly is not installed.
    """
    return Page(
        title="Is run-time pruning worth it here?",
        subtitle=f"{found.story.id}: {len(found.points)} points of {found.x.name} and {found.y.name}.",
        sections=[
            Section(
                "answer",
                "The answer",
                paragraphs=[worth.about(found.story)],
                points=[*worth.sentences(found.own), worth.whole(found)],
                pictures=[_who(found), _adds(found)],
                notes=[worth.LEGEND],
            ),
            Section("points", "Every point", tables=[_points(found), _ways(found)]),
            Section(
                "provenance",
                "Where this comes from",
                tables=[Table("Provenance", ["what", "value"], _made_of(found))],
            ),
        ],
    )


def _heat(
    found: Map, value: Callable[[Point], float | None], cell: Callable[[Point], str], **more: Any
) -> Any:
    """A heat map with a text in each cell: x from left to right, y from below."""
    go = drawing.graph_objects()
    grid = [[found.at(x, y) for x in found.x.values] for y in found.y.values]
    traces = [
        go.Heatmap(
            z=[[value(p) for p in line] for line in grid],
            x=[_tick(x) for x in found.x.values],
            y=[_tick(y) for y in found.y.values],
            text=[[cell(p) for p in line] for line in grid],
            texttemplate="%{text}",
            hovertext=[[_hover(found, p) for p in line] for line in grid],
            hoverinfo="text",
            xgap=2,
            ygap=2,
            **more,
        )
    ]
    return drawing.figure(
        traces,
        120 + 44 * len(found.y.values),
        xaxis={"title": {"text": found.x.says}, "type": "category", "showline": False},
        yaxis={"title": {"text": found.y.says}, "type": "category", "showline": False},
    )


def _tick(value: Value) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _hover(found: Map, point: Point) -> str:
    lead, best = point.lead, point.best
    lines = [
        found.shown(point),
        f"{best}: {point.train.costs[best]:.4f} nats on train",
    ]
    if lead is not None:
        lines.append(f"{lead.train:.4f} less than {lead.over}, the best of another kind")
        if lead.saves is not None:
            lines.append(
                f"held-out rows: {lead.saves:+.4f} {interval_of(lead.low, lead.high)} ({lead.verdict})"
            )
    for name, said in worth.NAMES.items():
        if name in point.train.fits:
            lines.append(
                f"the full model fits in {point.train.fits[name]:.1%} of seconds in {said}"
            )
    return "<br>".join(html.escape(line, quote=False) for line in lines)


def _who(found: Map) -> Picture:
    order = list(COLOURS)

    def place(point: Point) -> float:
        way = BY_NAME[point.best]
        return order.index((way.kind, way.bits))

    steps = [
        [edge, colour]
        for i, colour in enumerate(COLOURS.values())
        for edge in (i / len(order), (i + 1) / len(order))
    ]
    figure = _heat(
        found,
        place,
        lambda p: (
            f"{worth.label(p)}{'!' if worth.is_unserved(p) else ''}<br>{p.train.costs[p.best]:.3f}"
        ),
        zmin=-0.5,
        zmax=len(order) - 0.5,
        colorscale=steps,
        colorbar={
            "tickmode": "array",
            "tickvals": list(range(len(order))),
            "ticktext": [f"{SAID[kind]}, {bits} bits" for kind, bits in order],
            "thickness": 12,
        },
    )
    return Picture(
        "who",
        figure,
        f"A grid over {found.x.says} and {found.y.says}; each cell names the cheapest way and its cost.",
        "**Who is cheapest**, and what it costs on train, nats an output token above the full 16-bit model. A "
        "capital letter: held-out rows show it.",
    )


def _adds(found: Map) -> Picture:
    values = [p.pruning.train for p in found.points if p.pruning is not None]
    most = max((abs(value) for value in values), default=0.0) or 1.0
    # A few points at which nobody would serve cost nats: beside them all others would look alike.
    most = min(most, 0.3)
    figure = _heat(
        found,
        lambda p: None if p.pruning is None else p.pruning.train,
        lambda p: "" if p.pruning is None else f"{round(p.pruning.train, 3) + 0.0:+.3f}",
        zmin=-most,
        zmax=most,
        colorscale=[[0, drawing.VERMILLION], [0.5, "#F2F2F2"], [1, drawing.GREEN]],
        colorbar={"title": {"text": "nats"}, "thickness": 12},
    )
    return Picture(
        "adds",
        figure,
        f"A grid over {found.x.says} and {found.y.says}; each cell says what the best run-time pruning saves or loses.",
        "**What run-time pruning adds** on train: what its best saves beside the best without it; below 0 it "
        "costs more.",
    )


def _points(found: Map) -> Table:
    rows = []
    for point in found.points:
        lead = point.lead
        rows.append(
            [
                found.shown(point),
                point.best,
                f"{point.train.costs[point.best]:.4f}",
                "-" if point.test is None else f"{point.test.costs[point.best]:.4f}",
                "-" if lead is None else lead.over,
                "-" if lead is None else f"{lead.train:+.4f}",
                "-" if lead is None or lead.saves is None else f"{lead.saves:+.4f}",
                "-" if lead is None else interval_of(lead.low, lead.high),
                "-" if lead is None else lead.verdict or "-",
                *(
                    f"{point.train.fits[n]:.1%}" if n in point.train.fits else "-"
                    for n in worth.NAMES
                ),
            ]
        )
    head = [f"{found.x.name} and {found.y.name}", "cheapest", "train", "held-out", "next of another kind", "saves on train",
            "on held-out rows", "95 %", "verdict", *(f"fits in {n}" for n in worth.NAMES)]  # fmt: skip
    return Table("Every point", head, rows)


def _ways(found: Map) -> Table:
    own = found.own
    rows = [
        [
            way.name,
            way.says,
            f"{own.train.costs[way.name]:.4f}",
            "-" if own.test is None else f"{own.test.costs[way.name]:.4f}",
        ]
        for way in ways.EVERY
        if way.name in own.train.costs
    ]
    return Table(
        "The scenario as it is: every way",
        ["way", "what it does", "train", "held-out"],
        rows,
        open=True,
    )


def _made_of(found: Map) -> list[list[str]]:
    story, base = found.story, found.base
    table = tables.base_table(base)
    return [
        ["rapgym", provenance.VERSION],
        ["scenario", f"{story.id}: {story.story}"],
        ["card", f"{base.card_gib:g} GiB"],
        ["served", base.served],
        ["quality table", f"{table.name} {table.sha256[:12]}, {table.model}"],
        ["pairings of requests and tenant", f"{base.offsets}"],
        [
            "held-out rows fall into",
            f"{found.own.pieces} {found.own.unit}s" if found.own.unit else "not opened",
        ],
    ]
