"""One hour of a card as a film: what the tenant left, what was in memory, which blocks stayed, and why.

The rows are those of a results file; bytes by kind, and the sentence that `rapgym audit` says of a
decision, follow from the scenario here. Rows that do not fit this scenario are refused, not drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.audit import sentence as audit_sentence
from rapgym.audit.context import AuditContext
from rapgym.audit.record import REASONS, Record
from rapgym.errors import InvalidResult, InvalidSpec
from rapgym.model import blocks
from rapgym.report import drawing
from rapgym.scenarios import catalogue, tables, worlds
from rapgym.scenarios.card import card_bytes
from rapgym.scenarios.story import GIB, Scenario
from rapgym.world.records import World

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

HOUR_S = 3600
KINDS = ("weights that always stay", "activations", "FFN weights", "attention weights", "KV cache")
COLOURS = (drawing.GREY, drawing.YELLOW, drawing.ORANGE, drawing.SKY, drawing.PURPLE)
LOST = ("stall", "emergency", "refused")  # terms of the cost that are seconds without service
# Colour and mark of each reason for what was executed, in the order of `REASONS`.
REASON_MARKS = (
    (drawing.BLUE, "circle"),
    (drawing.ORANGE, "diamond"),
    (drawing.YELLOW, "square"),
    (drawing.VERMILLION, "x"),
    (drawing.PURPLE, "star"),
    (drawing.GREEN, "hexagon"),
    (drawing.GREY, "cross"),
)


@dataclass(frozen=True, slots=True)
class Film:
    """R rows of one policy in one pairing; costs are by calibration columns."""

    scenario: str  # id
    policy: str
    pairing: int
    start_s: IntArray  # of each row from the film's beginning, seconds, [R]
    window_s: int
    card_bytes: int
    limit_bytes: IntArray  # in each second, [R, W]
    used_bytes: IntArray  # as the results say; 0 where refused, [R]
    by_kind: IntArray  # the same by `KINDS`, [R, 5]
    kept: BoolArray  # at a row's start, [R, N]
    lost_s: FloatArray  # seconds without service by `LOST`, [R, 3]
    reason: tuple[str, ...]  # [R]
    sentence: tuple[
        str, ...
    ]  # as `rapgym audit` explains each decision, without number and time, [R]


def filmed(
    rows: "pandas.DataFrame",
    scenario: str,
    policy: str,
    *,
    pairing: int = 0,
    seed: int = 0,
    refuses_misfit: bool = False,
) -> Film:
    """The hour of a policy's rows in which it paid most; all of them where they last no longer.

    Args:
        rows: of `rapgym.read_results`, or some of them.
        scenario: id or name.
        refuses_misfit: whether the policy declares that what does not fit is refused.

    Raises:
        InvalidSpec: there are no such rows, or the policy is a rival or an oracle, which decides nothing.
        InvalidResult: the rows are not those that the scenario has here.
        DataUnavailable: a file of the scenario is not here.
    """
    story = catalogue.scenario(scenario)
    own = rows[
        (rows.scenario == story.id)
        & (rows.policy == policy)
        & (rows.seed == seed)
        & (rows.pairing == pairing)
    ].sort_values("step")
    if own.empty:
        raise InvalidSpec(f"no rows of {policy!r}, seed {seed}, on {story.id} in pairing {pairing}")
    if own.kind.iloc[0] in ("rival", "bound"):
        raise InvalidSpec(f"{policy} does not decide row by row: there is nothing to film")
    world = worlds.world(story, "test")
    own = _dearest(own, max(HOUR_S // world.window_s, 1))
    return _film(own, story, world, policy, pairing, refuses_misfit)


def _dearest(rows: "pandas.DataFrame", count: int) -> "pandas.DataFrame":
    """The stretch of so many rows that cost most, of those that begin at its multiples."""
    paid = (rows.cost * rows.output_tokens).to_numpy()
    starts = range(0, max(len(rows) - count, 0) + 1, count)
    best = max(starts, key=lambda first: float(paid[first : first + count].sum()))
    return rows.iloc[best : best + count]


def _film(
    rows: "pandas.DataFrame", story: Scenario, world: World, policy: str, pairing: int, strict: bool
) -> Film:
    kept, used = _checked(rows, story, world)
    of = rows.row.to_numpy()
    demand = world.demand_of(of, np.ones(len(of)))
    costs, prompt = world.footprint, demand.prompt_tokens
    attention, ffn = kept[:, 0::2].sum(axis=1), kept[:, 1::2].sum(axis=1)
    fixed = np.full(len(of), costs.fixed_bytes)
    by_kind = np.stack(
        [
            fixed,
            costs.overhead_bytes(prompt) - costs.fixed_bytes,
            ffn * costs.ffn_bytes,
            attention * costs.attention_bytes,
            attention * costs.kv_bytes(demand.tokens),
        ],
        axis=1,
    )
    context = AuditContext.of(
        world,
        scenario=story.id,
        policy=policy,
        split="test",
        table_sha256=tables.table(story).sha256,
    )
    told = [
        audit_sentence.told(audit_sentence.explained(context, record))
        for record in _records(rows, world, context, strict)
    ]
    lost = rows[list(LOST)].to_numpy() / world.ceiling * world.window_s
    return Film(
        scenario=story.id,
        policy=policy,
        pairing=pairing,
        start_s=np.arange(len(of)) * world.window_s,
        window_s=world.window_s,
        card_bytes=card_bytes(story),
        limit_bytes=world.rows.limit_bytes[rows.limit_row.to_numpy()],
        used_bytes=used,
        by_kind=np.where((used > 0)[:, None], by_kind, 0),
        kept=kept,
        lost_s=lost,
        reason=tuple(rows.reason.astype(str)),
        sentence=tuple(told),
    )


def _checked(rows: "pandas.DataFrame", story: Scenario, world: World) -> tuple[BoolArray, IntArray]:
    """Kept sets and bytes of rows, once they are known to be of this world.

    Raises:
        InvalidResult: a row, its limit, its sets or its bytes are of another.
    """
    other = f"these rows are not those of {story.id} here: it, its traffic or its table has changed"
    of, limit_row = rows.row.to_numpy(), rows.limit_row.to_numpy()
    if min(of.min(), limit_row.min()) < 0 or max(of.max(), limit_row.max()) >= len(world.rows):
        raise InvalidResult(other)
    try:
        kept = blocks.kept_sets_of([*rows.kept.astype(str)], world.blocks)
    except InvalidSpec as error:
        raise InvalidResult(other) from error
    demand = world.demand_of(of, np.ones(len(of)))
    counted = world.footprint.used_bytes(kept, demand.tokens, demand.prompt_tokens)
    used, refused = rows.used_bytes.to_numpy(), (rows.reason == "refused").to_numpy()
    same = (
        (rows.limit_bytes.to_numpy() == world.rows.limit_bytes[limit_row, 0])
        & (np.where(refused, 0, counted) == used)
        & (rows.output_tokens.to_numpy() == world.rows.output_tokens[of])
    )
    if not same.all():
        raise InvalidResult(other)
    return kept, used


def _records(
    rows: "pandas.DataFrame", world: World, context: AuditContext, strict: bool
) -> list[Record]:
    """The rows as an audit log of the same run would state them; their time is not known."""
    demand = world.demand_of(rows.row.to_numpy(), np.ones(len(rows)))
    budget = context.footprint.budget_bytes(rows.limit_bytes.to_numpy(), demand.prompt_tokens)
    return [
        Record(
            seq=0,
            decision=int(row.step) + 1,
            time_us=0,
            context=context.id,
            second=0,
            batch=int(demand.batch[i]),
            prompt_tokens=int(demand.prompt_tokens[i]),
            reserved_tokens=int(demand.reserved_tokens[i]),
            longest_tokens=int(demand.longest_tokens[i]),
            limit_bytes=int(row.limit_bytes),
            budget_bytes=int(budget[i]),
            used_bytes=int(row.used_bytes),
            lane=int(row.pairing),
            row=int(row.row),
            limit_row=int(row.limit_row),
            late_us=None,
            measured_bytes=None,
            output_tokens=int(row.output_tokens),
            nll=float(row.nll),
            readable=None,  # a late answer stands in a results file as one that cannot be read does
            pinned=None,
            measured=bool(row.measured),
            cost=(row.quality, row.stall, row.emergency, row.refused),
            watchdog=None,
            refuses_misfit=strict,
            refused=row.reason == "refused",
            source=row.source,
            reason=row.reason,
            proposal=row.proposal,
            kept=row.kept,
            loaded=None,
            own_proposal=None,
            observation=None,
        )
        for i, row in enumerate(rows.itertuples())
    ]


def film(
    rows: "pandas.DataFrame", scenario: str, policy: str, *, pairing: int = 0, seed: int = 0
) -> "go.Figure":
    """The film of `filmed`, drawn; zoom is linked, and a decision's hover text is the audit's sentence."""
    return drawn(filmed(rows, scenario, policy, pairing=pairing, seed=seed))


def drawn(shown: Film) -> "go.Figure":
    """Memory, both strips of blocks, lost seconds and decisions above one axis of time."""
    go = drawing.graph_objects()
    end = int(shown.start_s[-1]) + shown.window_s
    marks, reasons = decisions(shown.reason, shown.start_s.tolist(), shown.sentence, "y5")
    traces = [*_memory(go, shown, end), *_strips(go, shown), *_lost(go, shown), *marks]
    places = {
        "y": (0.6, 1.0),
        "y2": (0.43, 0.57),
        "y3": (0.27, 0.41),
        "y4": (0.13, 0.24),
        "y5": (0.0, 0.1),
    }
    titles = ("GiB", "attention", "FFN", "lost, s")
    axes: dict[str, Any] = {
        f"yaxis{name[1:]}": {
            "domain": domain,
            "title": {"text": title},
            "automargin": True,
            "fixedrange": True,
        }
        for (name, domain), title in zip(places.items(), titles, strict=False)
    }
    layers = shown.kept.shape[1] // 2
    for name in ("yaxis2", "yaxis3"):
        axes[name] |= {"range": [layers - 0.5, -0.5], "nticks": 4, "zeroline": False}
    axes["yaxis"] |= {"rangemode": "tozero"}
    axes["yaxis5"] = reasons | {"domain": places["y5"]}
    return drawing.figure(
        traces,
        820,
        barmode="stack",
        hovermode="closest",
        xaxis={
            "title": {"text": "seconds"},
            "range": [0, end],
            "anchor": "y5",
            "zeroline": False,
        },
        **axes,
    )


def stacked(go: Any, x: Sequence[float], heights: Sequence[Sequence[float]]) -> list[Any]:
    """Areas of `KINDS` on top of each other, GiB over seconds."""
    return [
        go.Scatter(
            name=name,
            x=x,
            y=height,
            mode="lines",
            line={"width": 0, "shape": "hv", "color": colour},
            fillcolor=colour,
            stackgroup="used",
            hoverinfo="skip",
        )
        for name, colour, height in zip(KINDS, COLOURS, heights, strict=True)
    ]


def _memory(go: Any, shown: Film, end: int) -> list[Any]:
    x = [*shown.start_s.tolist(), end]
    areas = stacked(go, x, [_closed(shown.by_kind[:, kind] / GIB) for kind in range(len(KINDS))])
    limit = shown.limit_bytes.ravel()
    turns = np.flatnonzero(np.append(True, limit[1:] != limit[:-1]))
    limits = go.Scatter(
        name="limit that the tenant leaves",
        x=[*turns.tolist(), end],
        y=_closed(limit[turns] / GIB),
        mode="lines",
        line={"shape": "hv", "color": drawing.VERMILLION, "width": 2},
        hovertemplate="limit %{y:.2f} GiB at %{x} s<extra></extra>",
    )
    card = go.Scatter(
        name="card",
        x=[0, end],
        y=[shown.card_bytes / GIB] * 2,
        mode="lines",
        line={"color": drawing.GREY, "dash": "dot"},
        hoverinfo="skip",
    )
    return [*areas, limits, card]


def _closed(values: FloatArray) -> list[float]:
    """A value a row as a line of steps, whose last one ends where the film does."""
    return drawing.short([*values.tolist(), float(values[-1])])


def _strips(go: Any, shown: Film) -> list[Any]:
    colours = [[0, drawing.VERMILLION], [0.5, drawing.VERMILLION], [0.5, "#BFD7EA"], [1, "#BFD7EA"]]
    middle = (shown.start_s + shown.window_s / 2).tolist()
    return [
        go.Heatmap(
            name=f"{kind} blocks",
            x=middle,
            z=shown.kept[:, place::2].T.astype(int).tolist(),
            yaxis=axis,
            colorscale=colours,
            zmin=0,
            zmax=1,
            showscale=False,
            hovertemplate=f"{kind} of layer %{{y}}: %{{z}} (1 is kept, 0 dropped)<extra></extra>",
        )
        for place, (kind, axis) in enumerate((("attention", "y2"), ("FFN", "y3")))
    ]


def _lost(go: Any, shown: Film) -> list[Any]:
    names = ("paused while blocks return", "lost in an emergency", "refused")
    colours = (drawing.YELLOW, drawing.VERMILLION, drawing.GREY)
    return [
        go.Bar(
            name=f"seconds {name}",
            x=(shown.start_s + shown.window_s / 2).tolist(),
            y=drawing.short(shown.lost_s[:, term]),
            width=shown.window_s,
            yaxis="y4",
            marker={"color": colour, "line": {"width": 0}},
            hovertemplate=f"%{{y:.2f}} s {name}<extra></extra>",
        )
        for term, (name, colour) in enumerate(zip(names, colours, strict=True))
    ]


def decisions(
    reasons: Sequence[str], x: Sequence[float], sentences: Sequence[str], axis: str
) -> tuple[list[Any], dict[str, Any]]:
    """A mark for each decision in a line for each reason, which hovers as its sentence; and that axis.

    Args:
        axis: its name, such as "y5".
    """
    go = drawing.graph_objects()
    present = [reason for reason in REASONS if reason in reasons]
    traces = []
    for level, reason in enumerate(present):
        colour, mark = REASON_MARKS[REASONS.index(reason)]
        of = [i for i, own in enumerate(reasons) if own == reason]
        traces.append(
            go.Scatter(
                name=f"decided: {reason}",
                mode="markers",
                x=[x[i] for i in of],
                y=[level] * len(of),
                yaxis=axis,
                meta=drawing.STEPS,
                customdata=of,
                hovertext=[drawing.wrapped(sentences[i]) for i in of],
                hoverinfo="text",
                marker={"color": colour, "symbol": mark, "size": 8},
                showlegend=False,
            )
        )
    return traces, drawing.names_axis(present, fixedrange=True)
