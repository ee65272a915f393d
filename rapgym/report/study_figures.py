"""Figures of studies that lie beside a bench: harm by kind of text, sensitivity, the machine, serving."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rapgym.bench.cells import LOOKUP
from rapgym.bench.sensitivity import FORESEEING
from rapgym.report import drawing
from rapgym.report import fidelity as fidelity_report
from rapgym.report import sensitivity as sensitivity_report
from rapgym.report.bench import interval_of
from rapgym.report.drawing import label

if TYPE_CHECKING:
    import plotly.graph_objects as go

Entry = Mapping[str, Any]
COLOURS = (drawing.BLUE, drawing.ORANGE, drawing.GREEN, drawing.PURPLE, drawing.SKY, drawing.YELLOW)
MARKS = ("circle", "diamond", "square", "triangle-up", "cross", "star")
Z_95 = 1.96


def harm(sets: Sequence[Entry]) -> "go.Figure":
    """What each set or format adds for each kind of text, and for the worst twentieth of sequences.

    Args:
        sets: entries as quality.json has them.
    """
    go = drawing.graph_objects()
    places = list(range(len(sets)))
    traces = []
    for kind, domain in enumerate(sets[0]["nll_by_domain"]):
        traces.append(
            go.Scatter(
                name=label(domain),
                mode="markers",
                x=[each["nll_by_domain"][domain] for each in sets],
                y=places,
                hovertext=[
                    f"{label(each['name'])}<br>{label(domain)}: {each['nll_by_domain'][domain]:+.4f} nats"
                    + (", the worst" if each["worst_domain"] == domain else "")
                    for each in sets
                ],
                hoverinfo="text",
                marker={
                    "color": COLOURS[kind % len(COLOURS)],
                    "symbol": MARKS[kind % len(MARKS)],
                    "size": 9,
                },
            )
        )
    traces.append(
        go.Scatter(
            name="one sequence in twenty loses more",
            mode="markers",
            x=[each["nll_p95"] for each in sets],
            y=places,
            hovertext=[
                f"{label(each['name'])}<br>95th percentile of sequences: {each['nll_p95']:+.4f} nats"
                for each in sets
            ],
            hoverinfo="text",
            marker={
                "color": drawing.VERMILLION,
                "symbol": "line-ns",
                "size": 12,
                "line": {"width": 2, "color": drawing.VERMILLION},
            },
        )
    )
    return drawing.figure(
        traces,
        drawing.listed_height(len(sets)),
        xaxis={"title": {"text": "nats above the whole model"}, "rangemode": "tozero"},
        yaxis=drawing.names_axis([each["name"] for each in sets]),
    )


def choice(sets: Sequence[Entry]) -> "go.Figure":
    """What each set or format does to the choice of the true one of four continuations, 95 % intervals.

    Args:
        sets: entries as quality.json has them; those without this choice are left out.
    """
    go = drawing.graph_objects()
    asked = [each for each in sets if "accuracy_difference" in each]
    trace = go.Scatter(
        name="points of accuracy",
        showlegend=False,
        mode="markers",
        x=[100 * each["accuracy_difference"] for each in asked],
        y=list(range(len(asked))),
        error_x={
            "type": "data",
            "array": [100 * Z_95 * each["accuracy_difference_se"] for each in asked],
            "color": drawing.BLUE,
            "thickness": 1.5,
        },
        customdata=[each["accuracy"] for each in asked],
        hovertext=[
            f"{label(each['name'])}<br>{each['accuracy']:.1%} right, "
            f"{100 * each['accuracy_difference']:+.1f} points beside the whole model"
            for each in asked
        ],
        hoverinfo="text",
        marker={"color": drawing.BLUE, "size": 9},
    )
    return drawing.figure(
        [trace],
        drawing.listed_height(len(asked), 100),
        xaxis={"title": {"text": "points of accuracy beside the whole model"}, "zeroline": True},
        yaxis=drawing.names_axis([each["name"] for each in asked]),
    )


def sensitivity(found: Mapping[str, Any]) -> "go.Figure":
    """Cost less the lookup's of what looks ahead, where one number of a scenario is another.

    Args:
        found: sensitivity.json.
    """
    go = drawing.graph_objects()
    groups = sensitivity_report.by_scenario(found)
    # A line means the same in all scenarios: their cards differ, and what is added to them does not.
    names = list(
        dict.fromkeys(sensitivity_report.short_label(e) for g in groups.values() for e in g)
    )
    traces = []
    for scenario, group in groups.items():
        for kind, policy in enumerate(FORESEEING):
            own = [(e, p) for e in group if (p := e["policies"].get(policy))]
            own = [(e, p) for e, p in own if p["low"] is not None and p["high"] is not None]
            lookups = [e["policies"][LOOKUP]["cost"] for e, _ in own]
            x = [p["cost"] - cost for (_, p), cost in zip(own, lookups, strict=True)]
            shift = 0.16 * (2 * kind - 1)  # the two policies stand beside each other
            traces.append(
                go.Scatter(
                    name=label(policy),
                    meta=label(scenario),
                    visible=scenario == next(iter(groups)),
                    mode="markers",
                    x=x,
                    y=[names.index(sensitivity_report.short_label(e)) + shift for e, _ in own],
                    error_x={
                        "type": "data",
                        "symmetric": False,
                        "array": [max(p["high"] - at, 0) for at, (_, p) in zip(x, own, strict=True)],
                        "arrayminus": [max(at - p["low"], 0) for at, (_, p) in zip(x, own, strict=True)],
                        "color": COLOURS[kind],
                        "thickness": 1.5,
                    },
                    hovertext=[
                        f"{label(sensitivity_report.label(e))}<br>{label(policy)}: {at:+.4f} nats "
                        f"{interval_of(p['low'], p['high'])}"
                        for at, (e, p) in zip(x, own, strict=True)
                    ],
                    hoverinfo="text",
                    marker={"color": COLOURS[kind], "symbol": MARKS[kind], "size": 8},
                )
            )  # fmt: skip
    return drawing.figure(
        traces,
        drawing.listed_height(len(names)),
        xaxis={"title": {"text": "nats above the lookup's cost"}, "zeroline": True},
        yaxis=drawing.names_axis(names),
    )


def fidelity(runs: Sequence[Entry]) -> "go.Figure":
    """By how much the simulated engine misses each measure of recorded runs, per cent.

    Args:
        runs: fidelity.json.
    """
    go = drawing.graph_objects()
    names = list(dict.fromkeys(name for run in runs for name in run["measures"]))
    traces = [
        go.Scatter(
            name=label(run["run"]),
            mode="markers",
            x=[100 * each["error"] for each in run["measures"].values()],
            y=[names.index(name) for name in run["measures"]],
            hovertext=[
                f"{label(run['run'])}<br>{label(fidelity_report.name_of(name))}: {each['measured']:.4g} measured, "
                f"{each['simulated']:.4g} simulated, {each['error']:+.2%}"
                for name, each in run["measures"].items()
            ],
            hoverinfo="text",
            marker={
                "color": COLOURS[kind % len(COLOURS)],
                "symbol": MARKS[kind % len(MARKS)],
                "size": 10,
            },
        )
        for kind, run in enumerate(runs)
    ]
    return drawing.figure(
        traces,
        drawing.listed_height(len(names)),
        xaxis={"title": {"text": "simulated less measured, %"}, "zeroline": True},
        yaxis=drawing.names_axis([fidelity_report.name_of(name) for name in names]),
    )


def serving_costs(found: Mapping[str, Any]) -> "go.Figure":
    """What each rule costs on each serving scenario, with 95 % intervals.

    Args:
        found: serving.json.
    """
    go = drawing.graph_objects()
    entries = found["scenarios"]
    names = list(dict.fromkeys(name for entry in entries for name in entry["rules"]))
    traces = []
    for place, entry in enumerate(entries):
        rules = entry["rules"]
        traces.append(
            go.Scatter(
                name=label(entry["scenario"]),
                meta=label(entry["scenario"]),
                visible=place == 0,
                showlegend=False,
                mode="markers",
                x=[rule["cost"] for rule in rules.values()],
                y=[names.index(name) for name in rules],
                error_x={
                    "type": "data",
                    "symmetric": False,
                    # None where test is a single part: no bar.
                    "array": [
                        max((rule["high"] or 0) - rule["cost"], 0) for rule in rules.values()
                    ],
                    "arrayminus": [
                        0 if rule["low"] is None else max(rule["cost"] - rule["low"], 0)
                        for rule in rules.values()
                    ],
                    "color": drawing.BLUE,
                    "thickness": 1.5,
                },
                hovertext=[
                    f"{label(name)} on {label(entry['scenario'])}<br>{rule['cost']:.4f} nats a token<br>"
                    f"{rule['goodput']:.1%} in time, first token after {rule['ttft_s']:.2f} s"
                    for name, rule in rules.items()
                ],
                hoverinfo="text",
                marker={"color": drawing.BLUE, "symbol": "circle", "size": 9},
            )
        )
    return drawing.figure(
        traces,
        drawing.listed_height(len(names)),
        xaxis={"title": {"text": "nats an output token"}, "rangemode": "tozero"},
        yaxis=drawing.names_axis(names),
    )
