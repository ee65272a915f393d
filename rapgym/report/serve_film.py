"""An hour of a serving engine as a film: memory by kind, kept blocks, the queue, waiting times, preemptions."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from rapgym.arrays import FloatArray, IntArray
from rapgym.errors import InvalidSpec
from rapgym.policies import serve_rules
from rapgym.policies.serving import ServeBriefing, serve_briefing
from rapgym.report import drawing
from rapgym.report.film import KINDS, stacked
from rapgym.rollout.serving import best_settings, by_second
from rapgym.scenarios import serving, serving_worlds
from rapgym.scenarios.story import GIB
from rapgym.serving import batch
from rapgym.serving.card import ATTENTION, FFN, Card
from rapgym.serving.world import Part, ServeWorld

if TYPE_CHECKING:
    import plotly.graph_objects as go

TODAY = "engine"  # the rule that every film stands beside
MOST_BINS = 600  # of an axis of time


@dataclass(frozen=True, slots=True, eq=False)
class ServeFilm:
    """S seconds of one rule on one part of test, as a server's meters would show them."""

    scenario: str  # id
    rule: str
    settings: dict[str, Any]  # tuned on train; empty of a rule without free numbers
    part: Part
    card: Card
    card_bytes: int
    page_tokens: int
    record: (
        FloatArray  # columns of `batch.COLUMNS`, calibration decides and test columns price, [S, K]
    )

    @property
    def seconds(self) -> int:
        """Of the part itself: its last second, which holds all that came after, is left out."""
        return len(self.record) - 1

    def total(self, column: int) -> float:
        """The sum of a column over the part and what was served on after it."""
        return float(self.record[:, column].sum())

    @property
    def cost(self) -> float:
        """Nats an output token: delivered, shed or lost."""
        tokens = sum(map(self.total, (batch.TOKENS, batch.SHED_TOKENS, batch.LOST)))
        return self.total(batch.COST) / max(1.0, tokens)

    @property
    def quality(self) -> float:
        """What format and dropped blocks cost a delivered token, nats above the full bf16 model."""
        return self.total(batch.NATS) / max(1.0, self.total(batch.TOKENS))

    def by_kind(self) -> IntArray:
        """Bytes in use at the end of each second by `KINDS`, [S, 5]."""
        here, foot = self.record[: self.seconds], self.card.footprint
        gone = here[:, [batch.ATTENTION_DROPPED, batch.FFN_DROPPED]].astype(np.int64)
        loading = here[:, batch.LOADING]
        attention = foot.layers - gone[:, 0]
        ffn = foot.layers - gone[:, 1]
        activations = int(foot.overhead_bytes(np.array(self.card.step_tokens))) - foot.fixed_bytes
        cached = here[:, batch.PAGES_USED].astype(np.int64) * self.page_tokens
        return np.stack(
            [
                np.full(len(here), foot.fixed_bytes),
                np.full(len(here), activations),
                # A block that is on its way in takes its bytes already.
                (ffn + (loading == FFN)) * foot.ffn_bytes,
                (attention + (loading == ATTENTION)) * foot.attention_bytes,
                cached * attention * self.card.block_token_bytes,
            ],
            axis=1,
        )


def busiest(world: ServeWorld) -> Part:
    """The hour in which most tokens were asked for, for each byte that the tenant left."""

    def load(part: Part) -> float:
        asked = world.requests(part)
        tokens = int(asked.prompt_tokens.sum() + asked.output_tokens.sum())
        return tokens / part.seconds / float(world.card_of(part).limit_bytes.mean())

    return max(world.pieces, key=load)


def filmed(named: Any, rules: Sequence[str]) -> list[ServeFilm]:
    """The busiest hour of a serving scenario's test split, under each of these rules.

    A rule with free numbers is tuned on train first, as the study of serving does: half a minute.

    Args:
        named: the scenario, as `rapgym.scenarios.serving.story_of` takes it.

    Raises:
        InvalidSpec: there is no such scenario or rule.
        DataUnavailable: a raw trace is not on this machine.
    """
    story = serving.story_of(named)
    if unknown := [name for name in rules if name not in serve_rules.RULES]:
        raise InvalidSpec(
            f"no rule of the serving engine is called {unknown[0]!r}; there are {', '.join(serve_rules.RULES)}"
        )
    told, world = serve_briefing(story), serving_worlds.scoring_world(story)
    part = busiest(world)
    return [_played(story.id, name, told, world, part) for name in rules]


def _played(
    scenario: str, name: str, told: ServeBriefing, world: ServeWorld, part: Part
) -> ServeFilm:
    make, settings = serve_rules.RULES[name].make, serve_rules.settings_of(name, told)
    tuned: dict[str, Any] = {}
    if max((len(values) for values in settings.values()), default=0) > 1:
        tuned, _ = best_settings(make, settings, told)
    else:
        tuned = {key: values[0].item() for key, values in settings.items()}
    record = by_second(partial(make, **tuned)(), world, part, told)
    card, profile = world.card_of(part), world.profile
    return ServeFilm(
        scenario, name, tuned, part, card, world.card_bytes, profile.page_tokens, record
    )


def film(named: Any, rule: str = "lookup") -> "go.Figure":
    """The film of `filmed`, drawn, beside the engine of today."""
    shown, today = filmed(named, [rule, TODAY])
    return drawn(shown, today)


def drawn(shown: ServeFilm, today: ServeFilm) -> "go.Figure":
    """Memory, kept blocks, queue, first token, pace, and what was turned away, above one axis of time.

    Args:
        today: the same hour of the engine of today, in grey.
    """
    go = drawing.graph_objects()
    traces = [
        *_memory(go, shown),
        *_blocks(go, shown),
        *_queue(go, shown, today),
        *_waits(go, shown, today, "time to first token", batch.TTFT, batch.FIRST, 1.0, "y4"),
        *_waits(go, shown, today, "time a token", batch.TPOT, batch.PACED, 1000.0, "y5"),
        *_turned_away(go, shown),
    ]
    places = (("GiB", 0.66, 1.0), ("blocks kept", 0.53, 0.63), ("queue", 0.4, 0.5),
              ("first token, s", 0.27, 0.37), ("a token, ms", 0.14, 0.24), ("requests", 0.0, 0.11))  # fmt: skip
    axes: dict[str, Any] = {}
    for place, (title, low, high) in enumerate(places):
        axes[f"yaxis{place + 1 if place else ''}"] = {
            "domain": [low, high],
            "title": {"text": title},
            "automargin": True,
            "fixedrange": True,
            "rangemode": "tozero",
        }
    return drawing.figure(
        traces,
        980,
        barmode="stack",
        hovermode="closest",
        xaxis={"title": {"text": "seconds"}, "range": [0, shown.seconds], "anchor": "y6", "zeroline": False},
        **axes,
    )  # fmt: skip


def _starts(shown: ServeFilm) -> IntArray:
    """First seconds of the stretches that one point of the drawing stands for."""
    width = -(-shown.seconds // MOST_BINS)
    return np.arange(0, shown.seconds, width)


def _memory(go: Any, shown: ServeFilm) -> list[Any]:
    starts, kinds = _starts(shown), shown.by_kind()
    most = kinds[[*starts]] if len(starts) == shown.seconds else _most(kinds, starts)
    heights = [drawing.short(most[:, kind] / GIB) for kind in range(len(KINDS))]
    areas = stacked(go, starts.tolist(), heights)
    limit = np.minimum.reduceat(shown.record[: shown.seconds, batch.LIMIT], starts)
    limits = go.Scatter(
        name="limit that the tenant leaves",
        x=starts.tolist(),
        y=drawing.short(limit / GIB),
        mode="lines",
        line={"shape": "hv", "color": drawing.VERMILLION, "width": 2},
        hovertemplate="limit %{y:.2f} GiB at %{x} s<extra></extra>",
    )
    card = go.Scatter(
        name="card",
        x=[0, shown.seconds],
        y=[shown.card_bytes / GIB] * 2,
        mode="lines",
        line={"color": drawing.GREY, "dash": "dot"},
        hoverinfo="skip",
    )
    return [*areas, limits, card]


def _most(kinds: IntArray, starts: IntArray) -> IntArray:
    """Of each stretch the second in which most is in use, so that parts still add up, [bins, 5]."""
    total, ends = kinds.sum(axis=1), [*starts[1:], len(kinds)]
    at = [first + int(total[first:end].argmax()) for first, end in zip(starts, ends, strict=True)]
    return kinds[at]


def _blocks(go: Any, shown: ServeFilm) -> list[Any]:
    starts, layers = _starts(shown), shown.card.footprint.layers
    parts = (
        ("attention blocks kept", batch.ATTENTION_DROPPED, drawing.SKY, "solid"),
        ("FFN blocks kept", batch.FFN_DROPPED, drawing.ORANGE, "dash"),
    )
    return [
        go.Scatter(
            name=name,
            x=starts.tolist(),
            y=(layers - np.maximum.reduceat(shown.record[: shown.seconds, column], starts)).tolist(),
            yaxis="y2",
            mode="lines",
            line={"shape": "hv", "color": colour, "dash": dash},
            hovertemplate=f"%{{y}} of {layers} {name} at %{{x}} s<extra></extra>",
        )
        for name, column, colour, dash in parts
    ]  # fmt: skip


def _queue(go: Any, shown: ServeFilm, today: ServeFilm) -> list[Any]:
    starts = _starts(shown)
    parts = (
        (today, f"waiting, {TODAY}", batch.WAITING, drawing.GREY, "dot"),
        (shown, "waiting", batch.WAITING, drawing.VERMILLION, "solid"),
        (shown, "running", batch.RUNNING, drawing.BLUE, "solid"),
    )
    return [
        go.Scatter(
            name=name,
            x=starts.tolist(),
            y=np.maximum.reduceat(which.record[: which.seconds, column], starts).tolist(),
            yaxis="y3",
            mode="lines",
            line={"shape": "hv", "color": colour, "dash": dash, "width": 1.5},
            hovertemplate=f"%{{y}} {name} at %{{x}} s<extra></extra>",
        )
        for which, name, column, colour, dash in parts
    ]


def _waits(
    go: Any, shown: ServeFilm, today: ServeFilm, name: str, total: int, count: int, times: float,
    axis: str,
) -> list[Any]:  # fmt: skip
    """The mean of those that came to it in each stretch; a gap where none did."""
    starts = _starts(shown)
    drawn = []
    for which, said, colour, size in (
        (today, f"{name}, {TODAY}", drawing.GREY, 3),
        (shown, name, drawing.PURPLE if axis == "y4" else drawing.GREEN, 4),
    ):
        here = which.record[: which.seconds]
        sums, counts = (np.add.reduceat(here[:, column], starts) for column in (total, count))
        some = counts > 0
        drawn.append(
            go.Scatter(
                name=said,
                x=starts[some].tolist(),
                y=drawing.short(times * sums[some] / counts[some]),
                yaxis=axis,
                mode="markers",
                marker={"color": colour, "size": size},
                hovertemplate=f"{said} %{{y:.3g}} {'s' if times == 1 else 'ms'} at %{{x}} s<extra></extra>",
            )
        )
    return drawn


def _turned_away(go: Any, shown: ServeFilm) -> list[Any]:
    starts = _starts(shown)
    width = int(starts[1] - starts[0]) if len(starts) > 1 else 1
    parts = (
        ("preempted", batch.PREEMPTIONS, drawing.YELLOW),
        ("given up", batch.SHED, drawing.VERMILLION),
    )
    return [
        go.Bar(
            name=f"requests {name}",
            x=(starts + width / 2).tolist(),
            y=np.add.reduceat(shown.record[: shown.seconds, column], starts).tolist(),
            width=width,
            yaxis="y6",
            marker={"color": colour, "line": {"width": 0}},
            hovertemplate=f"%{{y}} {name} at %{{x}} s<extra></extra>",
        )
        for name, column, colour in parts
    ]
