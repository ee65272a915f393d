"""What a scenario's quality table says: nats against bytes freed, and which blocks matter for which text."""

from typing import TYPE_CHECKING, Any

import numpy as np

from rapgym.arrays import BoolArray, IntArray
from rapgym.errors import InvalidTable, RapgymError
from rapgym.model import blocks, memory
from rapgym.model.shapes import BF16, FORMATS, Format
from rapgym.report import drawing
from rapgym.report.drawing import label
from rapgym.scenarios import card, catalogue, tables, worlds
from rapgym.scenarios.story import GIB, Scenario

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

MOST_SETS = 60  # of a policy, those that served most output tokens
DESIGNS = {
    "joint-order": (drawing.GREY, "circle"),
    "attention-order": (drawing.SKY, "circle"),
    "ffn-order": (drawing.ORANGE, "circle"),
    "grid": (drawing.BLUE, "diamond"),
}
OTHERS = (drawing.GREY, "circle-open")
USERS = ((drawing.VERMILLION, "x"), (drawing.GREEN, "star"), (drawing.PURPLE, "cross"))


def nats_against_bytes(rows: "pandas.DataFrame", scenario: str, *policies: str) -> "go.Figure":
    """What each measured set costs and frees at the scenario's median demand, and what policies used.

    Nats are of calibration text, above the full bf16 model, up to C, what a refused token costs; smaller formats of the whole model stand beside.

    Args:
        rows: of `rapgym.read_results`, or some of them.
        scenario: id or name.
        policies: whose kept sets to mark; at most three.

    Raises:
        InvalidSpec: there is no such scenario.
        InvalidTable, DataUnavailable: its table or traffic cannot be read here.
    """
    go = drawing.graph_objects()
    story = catalogue.scenario(scenario)
    columns, tokens = tables.told(story), _median_tokens(story)
    sets = columns.sets
    freed = _freed(story, sets.kept, tokens)
    traces = []
    kinds = [design if design in DESIGNS else "others" for design in sets.design]
    for design in [*DESIGNS, "others"]:
        of = [i for i, own in enumerate(kinds) if own == design]
        if not of:
            continue
        colour, mark = DESIGNS.get(design, OTHERS)
        traces.append(
            go.Scatter(
                name=label(f"measured: {design}"),
                mode="markers",
                x=drawing.short(freed[of] / GIB),
                y=drawing.short(sets.nll[of]),
                hovertemplate="%{y:.4f} nats a token for %{x:.2f} GiB<extra></extra>",
                marker={"color": colour, "symbol": mark, "size": 5, "opacity": 0.55},
            )
        )
    traces += _formats(go, story, tokens)
    for policy, (colour, mark) in zip(policies, USERS, strict=False):
        traces += _used(go, rows, story, policy, tokens, colour, mark)
    return drawing.figure(
        traces,
        560,
        xaxis={"title": {"text": "GiB freed at the median demand"}},
        yaxis={
            "title": {"text": "nats a token above the full model"},
            "range": [min(float(sets.nll.min()), 0.0) - 0.05, 1.05 * columns.ceiling],
        },
    )


def _median_tokens(story: Scenario) -> int:
    """Tokens in flight in the middle one of the test rows that have requests."""
    rows = worlds.world(story, "test").rows
    tokens = (rows.prompt_tokens + rows.reserved_tokens)[rows.batch > 0]
    return int(np.median(tokens)) if len(tokens) else 0


def _freed(story: Scenario, kept: BoolArray, tokens: int) -> IntArray:
    costs = card.footprint(story).block_bytes(np.array(tokens))
    return memory.spent(~kept, costs)


def _formats(go: Any, story: Scenario, tokens: int) -> list[Any]:
    """The whole model in other formats, as far as they are measured."""
    found = []
    whole = np.ones(tables.table(story).blocks, dtype=bool)

    def bytes_of(form: Format) -> int:
        return int(card.footprint(story, form).used_bytes(whole, np.array(tokens), np.array(0)))

    for form in (BF16, *FORMATS):
        try:
            nats = tables.base_table(story).format_nll(form, "calib", story.domain)
        except RapgymError:  # not measured, or a table that is not here
            continue
        name = f"{form.weights} weights, {form.kv} KV"
        freed = (bytes_of(story.form) - bytes_of(form)) / GIB
        if freed > 0:
            found.append((name, freed, nats))
    if not found:
        return []
    return [
        go.Scatter(
            name="whole model in a smaller format",
            mode="markers",
            x=drawing.short(freed for _, freed, _ in found),
            y=[nats for *_, nats in found],
            hovertext=[
                f"{name}<br>{nats:.4f} nats a token for {freed:.2f} GiB"
                for name, freed, nats in found
            ],
            hoverinfo="text",
            marker={"color": drawing.PURPLE, "symbol": "triangle-up", "size": 11},
        )
    ]


def _used(
    go: Any,
    rows: "pandas.DataFrame",
    story: Scenario,
    policy: str,
    tokens: int,
    colour: str,
    mark: str,
) -> list[Any]:
    own = rows[(rows.scenario == story.id) & (rows.policy == policy) & (rows.reason != "refused")]
    if own.empty:
        return []
    by_set = own.groupby("kept", observed=True).agg({"output_tokens": "sum", "nll": "first"})
    by_set = by_set[by_set.output_tokens > 0].sort_values("output_tokens", ascending=False)[
        :MOST_SETS
    ]
    kept = blocks.kept_sets_of([*by_set.index.astype(str)], tables.table(story).blocks)
    freed = _freed(story, kept, tokens) / GIB
    share = (by_set.output_tokens / own.output_tokens.sum()).to_numpy()
    return [
        go.Scatter(
            name=label(f"used by {policy}"),
            mode="markers",
            x=drawing.short(freed),
            y=drawing.short(by_set.nll),
            customdata=share.tolist(),
            hovertemplate="%{y:.4f} nats a token for %{x:.2f} GiB, in rows with %{customdata:.1%} of all output tokens<extra></extra>",
            marker={
                "color": colour,
                "symbol": mark,
                "size": (6 + 18 * np.sqrt(share)).round(2).tolist(),
                "line": {"width": 0},
            },
        )
    ]


def importance(scenario: str) -> "go.Figure":
    """How much each block matters for each kind of text: nats that the greedy order pays to drop it.

    Darker is dearer. A block of the floor, which is never dropped, is grey.

    Raises:
        InvalidSpec: there is no such scenario.
        InvalidTable, DataUnavailable: its table cannot be read here.
    """
    go = drawing.graph_objects()
    table = tables.table(catalogue.scenario(scenario))
    domains = table.header.domains
    views = [table.calibration(domain) for domain in (*domains, None)]
    names = [*domains, "mean of all"]
    found = np.array([np.where(view.floor, np.nan, view.importance) for view in views])
    if np.isnan(found).all():
        raise InvalidTable(f"{table.name} has no block that may be dropped")
    ceiling = float(np.nanmax(found))
    traces = []
    for place, (kind, axis) in enumerate((("attention", "y"), ("FFN", "y2"))):
        z = found[:, place::2]
        floor = [[0 if np.isnan(v) else None for v in line] for line in z]
        traces.append(
            go.Heatmap(
                name=f"{kind}, floor",
                x=list(range(z.shape[1])),
                y=list(range(len(names))),
                z=floor,
                yaxis=axis,
                colorscale=[[0, drawing.GREY], [1, drawing.GREY]],
                opacity=0.3,
                showscale=False,
                hovertemplate=f"{kind} of layer %{{x}} is never dropped<extra></extra>",
            )
        )
        traces.append(
            go.Heatmap(
                name=kind,
                x=list(range(z.shape[1])),
                y=list(range(len(names))),
                z=[[None if np.isnan(v) else round(float(v), 5) for v in line] for line in z],
                yaxis=axis,
                zmin=0,
                zmax=ceiling,
                colorscale="Cividis",
                reversescale=True,
                showscale=place == 0,
                colorbar={"title": {"text": "nats"}, "thickness": 12},
                hovertemplate=f"{kind} of layer %{{x}}: %{{z:.4f}} nats a token<extra></extra>",
            )
        )
    return drawing.figure(
        traces,
        380,
        xaxis={"title": {"text": "layer"}, "anchor": "y2"},
        yaxis=drawing.names_axis(names, domain=[0.54, 1], title={"text": "attention"}),
        yaxis2=drawing.names_axis(names, domain=[0, 0.46], title={"text": "FFN"}),
    )
