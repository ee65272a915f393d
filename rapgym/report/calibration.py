"""What calibration costs, and after how many output tokens it has paid for itself."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rapgym.bench.records import Score
from rapgym.errors import RapgymError
from rapgym.policies import trained
from rapgym.report import drawing
from rapgym.report.bench import by_scenario, plain, shown_tokens
from rapgym.report.drawing import label
from rapgym.report.page import Choice, Picture, Section, Table
from rapgym.scenarios import catalogue

if TYPE_CHECKING:
    import plotly.graph_objects as go


def figure(entries: Sequence[Score], a_day: Mapping[str, float] | None = None) -> "go.Figure":
    """Output tokens after which each policy's calibration has paid for itself, one scenario at a time.

    Args:
        a_day: output tokens of a day like the test rows, by the scenario's id, where known: a line.
    """
    go = drawing.graph_objects()
    days = a_day or {}
    known = [e for e in entries if e.break_even_tokens]
    policies = list(dict.fromkeys(e.policy for e in known))
    places = {name: place for place, name in enumerate(policies)}
    traces = []
    for scenario, group in by_scenario(known).items():
        shown = {"meta": label(scenario), "visible": scenario == known[0].scenario}
        traces.append(
            go.Scatter(
                name="pays after",
                mode="markers",
                x=[e.break_even_tokens for e in group],
                y=[places[e.policy] for e in group],
                customdata=[e.calibration_tokens for e in group],
                hovertext=[
                    f"{label(e.policy)} on {label(plain(e.scenario))}<br>read {shown_tokens(e.calibration_tokens)} "
                    f"tokens of text<br>pays after {shown_tokens(e.break_even_tokens)} output tokens"
                    for e in group
                ],
                hoverinfo="text",
                marker={"color": drawing.BLUE, "symbol": "circle", "size": 9},
                **shown,
            )
        )
        if scenario in days:
            traces.append(
                go.Scatter(
                    name="output tokens of a day like these rows",
                    mode="lines",
                    x=[days[scenario]] * 2,
                    y=[-0.6, len(policies) - 0.4],
                    hoverinfo="skip",
                    line={"color": drawing.VERMILLION, "dash": "dash"},
                    **shown,
                )
            )
    ends = {
        scenario: _ends(
            [e.break_even_tokens or 0.0 for e in group]
            + ([days[scenario]] if days.get(scenario) else [])
        )
        for scenario, group in by_scenario(known).items()
    }
    return drawing.figure(
        traces,
        drawing.listed_height(len(policies)),
        xaxis={
            "type": "log",
            "title": {"text": "output tokens"},
            "exponentformat": "SI",
            "dtick": "D2",  # 1, 2 and 5 of each power of ten: all of them would not fit a phone
            "tickangle": 0,
            "range": next(iter(ends.values()), None),
        },
        yaxis=drawing.names_axis(policies),
        meta={"ranges": {label(name): each for name, each in ends.items()}},
    )


def _ends(values: Sequence[float]) -> list[float]:
    """Ends of a logarithmic axis that shows these values, powers of ten."""
    return [math.log10(min(values)) - 0.1, math.log10(max(values)) + 0.1]


def section(entries: Sequence[Score], a_day: Mapping[str, float]) -> Section:
    """What each policy read to decide as it does, and what that is worth."""
    title = "Calibration, and when it has paid"
    read = [e for e in entries if e.calibration_tokens]
    if not read:
        return Section("calibration", title, notes=["Nothing in this file read calibration text."])
    rows = [
        [
            e.policy,
            plain(e.scenario),
            shown_tokens(e.calibration_tokens),
            "-" if e.calibration_passes is None else f"{e.calibration_passes:,.0f}",
            shown_tokens(e.break_even_tokens),
            shown_tokens(a_day.get(e.scenario)),
            e.seeds,
        ]
        for e in read
    ]
    paid = [e for e in read if e.break_even_tokens]
    pictures = [
        Picture(
            "figure-calibration",
            figure(entries, a_day),
            "Output tokens after which calibration has paid for itself, by policy, one scenario at a time; the table "
            "below holds every number.",
            "Left is better: an upper limit, on a logarithmic axis. Left of the dashed line it pays within a day.",
            choices=[
                Choice(plain(name), label(name)) for name in dict.fromkeys(e.scenario for e in paid)
            ],
        )
    ]
    return Section(
        "calibration",
        title,
        paragraphs=[
            "A token of calibration text takes the place of one that could be served, and costs C nats; it earns what "
            "a policy saves beside dropping blocks at random. A policy without a number saves nothing beside that. "
            "Training reads no more of it: it plays rows of train."
        ],
        notes=[] if paid else ["On no scenario does it save anything beside dropping at random."],
        pictures=pictures if paid else [],
        tables=[
            *_training(entries),
            Table(
                "The numbers",
                ["policy", "scenario", "tokens read", "passes of 512 tokens", "pays after, output tokens",
                 "output tokens a day", "training seeds"],
                rows,
            )
        ],
    )  # fmt: skip


def _training(entries: Sequence[Score]) -> list[Table]:
    """What training the shipped learned policies took: steps and seconds, all seeds together."""
    rows = []
    for entry in entries:
        if entry.kind != "learned":
            continue
        try:
            story = catalogue.scenario(entry.scenario)
            files = [
                trained.place(entry.policy, story, "train", seed)
                for seed in trained.seeds(entry.policy, story, "train")
            ]
            told = [trained.load(file).training for file in files]
            seconds, steps = (
                sum(float(each[name]) for each in told) for name in ("seconds", "steps")
            )
        except (RapgymError, LookupError, TypeError, ValueError):
            continue  # trained elsewhere, or it does not say
        if told:
            rows.append(
                [
                    entry.policy,
                    plain(entry.scenario),
                    len(told),
                    f"{steps:,.0f}",
                    f"{seconds / 60:,.1f}",
                ]
            )
    head = ["policy", "scenario", "seeds", "steps, all seeds", "minutes, all seeds"]
    return [Table("What training took", head, rows)] if rows else []
