"""Each figure of a bench as a Plotly figure, for a page or a notebook: `rapgym.figures`.

    scores = rapgym.figures.read_scores("results/bench.csv.gz")
    rapgym.figures.cost_by_scenario(scores).show()
    rows = rapgym.read_results("results/bench.csv.gz")
    rapgym.figures.film(rows, "laptop-v0", "frontier").show()

Figures of scores take a frame of `read_scores`, those of rows a frame of `rapgym.read_results`, those of
studies what their JSON holds. All need the extra `report`. A trace's `meta` names the scenario that it belongs to, where a page shows one at a
time; what an axis cannot show stands in `customdata`.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from rapgym import heldout
from rapgym.bench.records import Score
from rapgym.bench.verdicts import LEAST_ROOM
from rapgym.report import calibration as calibration_figure
from rapgym.report import drawing, roles
from rapgym.report.bench import by_scenario, interval, interval_of, plain
from rapgym.report.drawing import label
from rapgym.report.film import film
from rapgym.report.quality_figures import importance, nats_against_bytes
from rapgym.report.serve_film import film as serving_film
from rapgym.report.study_figures import choice, fidelity, harm, sensitivity, serving_costs

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

__all__ = [
    "calibration",
    "choice",
    "cost_by_scenario",
    "decision_time",
    "fidelity",
    "film",
    "foresight",
    "gain",
    "harm",
    "importance",
    "nats_against_bytes",
    "read_scores",
    "sensitivity",
    "serving_costs",
    "serving_film",
]

Values: TypeAlias = tuple[float, float | None, float | None]  # with its 95 % interval
Scores: TypeAlias = "pandas.DataFrame | Sequence[Score]"
LOWEST = 0.001  # nats: a cost below it is drawn at the left end, as an arrow
# Colour and mark of each role, in their order: marks differ where colours might not.
MARKS = (
    (drawing.GREY, "x"),
    (drawing.ORANGE, "diamond"),
    (drawing.ORANGE, "diamond-open"),
    (drawing.PURPLE, "triangle-up"),
    (drawing.PURPLE, "triangle-down"),
    (drawing.BLUE, "circle-open"),
    (drawing.SKY, "circle"),
    (drawing.GREEN, "square"),
    (drawing.VERMILLION, "line-ns"),
)
KINDS = {
    "static": (drawing.ORANGE, "diamond"),
    "reactive": (drawing.BLUE, "circle-open"),
    "heuristic": (drawing.SKY, "circle"),
    "learned": (drawing.GREEN, "square"),
    "rival": (drawing.PURPLE, "triangle-up"),
    "bound": (drawing.VERMILLION, "x"),
}


def read_scores(path: Path | str) -> "pandas.DataFrame":
    """The entries of a results file as a pandas frame: one a scenario and policy.

    Returns:
        A column for each field of `rapgym.bench.records.Score`; None stands where something is not
        defined.

    Raises:
        InvalidResult: the file cannot be read.
        HeldOut: training asks.
    """
    import pandas

    from rapgym.bench import results

    heldout.check(heldout.COLUMNS)
    found = [
        entry.as_json() | {"isolation": entry.isolation}
        for entry in results.read(Path(path)).scores
    ]
    return pandas.DataFrame(found, dtype=object)


def entries_of(scores: Scores) -> list[Score]:
    """The records of a frame of `read_scores`, or the records themselves.

    Raises:
        InvalidResult: a column is missing, or holds another type.
    """
    if not hasattr(scores, "to_dict"):
        return list(scores)
    return [
        Score.from_json({k: _json(v) for k, v in row.items()}) for row in scores.to_dict("records")
    ]


def _json(value: Any) -> Any:
    """A cell as JSON has it: a NaN that pandas made of None is None again."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _positions(names: Sequence[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}


def cost_by_scenario(scores: Scores) -> "go.Figure":
    """What each role costs on each scenario, nats an output token above the full model; left is better."""
    go = drawing.graph_objects()
    groups = by_scenario(entries_of(scores))
    traces = []
    for role, (colour, mark) in zip(roles.ROLES, MARKS, strict=True):
        found = [(y, e) for y, group in enumerate(groups.values()) if (e := role.of(group))]
        if not found:
            continue
        traces.append(
            go.Scatter(
                name=role.name,
                mode="markers",
                x=[max(entry.cost, LOWEST) for _, entry in found],
                y=[y for y, _ in found],
                customdata=[entry.cost for _, entry in found],
                hovertext=[
                    f"{label(plain(e.scenario))}<br>{label(role.name)}: {label(e.policy)}<br>{e.cost:.4f} nats"
                    for _, e in found
                ],
                hoverinfo="text",
                marker={
                    "color": colour,
                    "size": 11,
                    "symbol": ["triangle-left" if e.cost < LOWEST else mark for _, e in found],
                    "line": {"width": 2, "color": colour},
                },
            )
        )
    return drawing.figure(
        traces,
        drawing.listed_height(len(groups), 250),
        xaxis=drawing.log_axis(
            [x for trace in traces for x in trace.x], "nats an output token above the full model"
        ),
        yaxis=drawing.names_axis([plain(name) for name in groups]),
    )


def gain(scores: Scores) -> "go.Figure":
    """Points of gain of each policy with 95 % intervals: 0 is not pruning, 100 the bound."""
    return _intervals(
        entries_of(scores),
        lambda e, _: None if e.gain is None else (e.gain, e.gain_low, e.gain_high),
        lambda e, _: f"gain {interval(e.gain, e.gain_low, e.gain_high)}",
        lambda _: (-60.0, 120.0),
        "points of gain",
    )


def foresight(scores: Scores) -> "go.Figure":
    """Cost less the lookup's of each policy, nats, with 95 % intervals; left of 0 is better.

    Points of foresight are the same on another scale, and stand in the hover text where they are
    defined.
    """

    def difference(entry: Score, group: Sequence[Score]) -> Values | None:
        lookup = roles.lookup(group)
        if lookup is None or entry.low is None or entry.is_rival:
            return None
        return entry.cost - lookup.cost, entry.low, entry.high

    def told(entry: Score, group: Sequence[Score]) -> str:
        points = (
            f"less than {LEAST_ROOM} nats lie between lookup and bound"
            if entry.foresight is None
            else f"{entry.foresight:.1f} points of foresight"
        )
        ends = interval_of(entry.low, entry.high)
        return f"from lookup {ends} nats<br>{points}<br>verdict: {entry.verdict or '-'}"

    def shown(group: Sequence[Score]) -> tuple[float, float]:
        lookup = roles.lookup(group)
        room = max(lookup.behind_bound if lookup else 0.0, LEAST_ROOM)
        return -1.6 * room, 2.4 * room

    return _intervals(entries_of(scores), difference, told, shown, "nats above the lookup's cost")


def _intervals(
    entries: Sequence[Score],
    value: Callable[[Score, Sequence[Score]], Values | None],
    told: Callable[[Score, Sequence[Score]], str],
    shown: Callable[[Sequence[Score]], tuple[float, float]],
    title: str,
) -> "go.Figure":
    """A value with its interval for each policy, one scenario at a time: the first is shown.

    Args:
        shown: the ends of a scenario's axis; what lies beyond is drawn there, as an arrow.
    """
    go = drawing.graph_objects()
    groups = by_scenario(entries)
    values: dict[str, list[tuple[Score, Values]]] = {}
    for name, group in groups.items():
        for entry in group:
            if (read := value(entry, group)) is not None:
                values.setdefault(name, []).append((entry, read))
    policies = list(dict.fromkeys(e.policy for found in values.values() for e, _ in found))
    places, traces = _positions(policies), []
    ranges = {name: shown(groups[name]) for name in values}
    for scenario, found in values.items():
        low, high = ranges[scenario]
        for kind, (colour, mark) in KINDS.items():
            own = [(e, v) for e, v in found if e.kind == kind]
            if not own:
                continue
            inset = 0.03 * (high - low)  # an arrow at the end is drawn whole
            x = [
                min(max(v[0], low + inset), high - inset) if _arrow(v[0], low, high) else v[0]
                for _, v in own
            ]
            traces.append(
                go.Scatter(
                    name=kind,
                    meta=label(scenario),
                    visible=scenario == next(iter(values)),
                    mode="markers",
                    x=x,
                    y=[places[e.policy] for e, _ in own],
                    error_x={
                        "type": "data",
                        "symmetric": False,
                        "array": [max((v[0] if v[2] is None else v[2]) - at, 0) for at, (_, v) in zip(x, own, strict=True)],
                        "arrayminus": [max(at - (v[0] if v[1] is None else v[1]), 0) for at, (_, v) in zip(x, own, strict=True)],
                        "color": colour,
                        "thickness": 1.5,
                    },
                    customdata=[list(v) for _, v in own],
                    hovertext=[
                        f"{label(e.policy)} on {label(plain(e.scenario))}<br>{told(e, groups[scenario])}"
                        for e, _ in own
                    ],
                    hoverinfo="text",
                    marker={
                        "color": colour,
                        "symbol": [_arrow(v[0], low, high) or mark for _, v in own],
                        "size": 9,
                        "line": {"width": 2, "color": colour},
                    },
                )
            )  # fmt: skip
    return drawing.figure(
        traces,
        drawing.listed_height(len(policies)),
        xaxis={
            "title": {"text": title},
            "zeroline": True,
            "range": next(iter(ranges.values()), None),
        },
        yaxis=drawing.names_axis(policies),
        meta={"ranges": {label(name): list(ends) for name, ends in ranges.items()}},
    )


def calibration(scores: Scores) -> "go.Figure":
    """Output tokens after which calibration has paid for itself, beside dropping blocks at random."""
    return calibration_figure.figure(entries_of(scores))


def _arrow(value: float, low: float, high: float) -> str | None:
    """The mark of a value that lies beyond an axis; None of one that does not."""
    if value < low:
        return "triangle-left"
    return "triangle-right" if value > high else None


def decision_time(scores: Scores) -> "go.Figure":
    """Microseconds that a decision takes, median and 99th percentile, of whatever decides row by row."""
    go = drawing.graph_objects()
    timed = [e for e in entries_of(scores) if e.decision_us_p50 and e.decision_us_p99]
    policies = list(dict.fromkeys(entry.policy for entry in timed))
    places, traces = _positions(policies), []
    parts = (
        ("median", "decision_us_p50", drawing.BLUE, "circle"),
        ("99th percentile", "decision_us_p99", drawing.VERMILLION, "diamond-open"),
    )
    for scenario, group in by_scenario(timed).items():
        for name, field, colour, mark in parts:
            traces.append(
                go.Scatter(
                    name=name,
                    meta=label(scenario),
                    visible=scenario == timed[0].scenario,
                    mode="markers",
                    x=[getattr(entry, field) for entry in group],
                    y=[places[entry.policy] for entry in group],
                    hovertext=[
                        f"{label(e.policy)} on {label(plain(e.scenario))}<br>{name}: {getattr(e, field):,.0f} µs"
                        for e in group
                    ],
                    hoverinfo="text",
                    marker={"color": colour, "symbol": mark, "size": 9},
                )
            )
    return drawing.figure(
        traces,
        drawing.listed_height(len(policies)),
        xaxis=drawing.log_axis(
            [us for e in timed for us in (e.decision_us_p50, e.decision_us_p99) if us],
            "microseconds a decision",
        ),
        yaxis=drawing.names_axis(policies),
    )
