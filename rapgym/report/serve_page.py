"""The page of a stretch of a serving engine: what a rule does beside the engine of today."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rapgym.files import provenance
from rapgym.report import drawing, serve_film
from rapgym.report.page import Page, Picture, Section, Table
from rapgym.report.serve_film import ServeFilm
from rapgym.scenarios import serving, tables
from rapgym.scenarios.story import GIB
from rapgym.serving import batch

MINUTE_S = 60


def page(named: Any, rule: str) -> Page:
    """The page of a serving scenario's busiest stretch of test under a rule.

    Raises:
        InvalidSpec: there is no such scenario or rule.
        DataUnavailable: a raw trace is not on this machine.
        MissingExtra: plotly is not installed.
    """
    drawing.graph_objects()
    story = serving.story_of(named)
    names = list(dict.fromkeys([rule, serve_film.TODAY]))
    films = serve_film.filmed(story, names)
    shown, today = films[0], films[-1]
    return Page(
        title="Where requests wait, second by second",
        subtitle=f"{story.id}: {story.story}",
        sections=[
            Section(
                "answer",
                "The answer",
                points=sentences(shown, today),
                notes=[] if story.claims else ["The scenario's numbers carry no claim: its story says why."],
                tables=[Table("The same in numbers", ["rule", *HEADS], [[f.rule, *numbers(f)] for f in films], open=True)],
            ),
            _film(shown, today),
            _provenance(shown, story),
        ],
    )  # fmt: skip


HEADS = ("cost, nats a token", "requests", "in time", "given up", "preemptions", "first token, s",
         "a token, ms", "attention blocks dropped", "FFN blocks dropped")  # fmt: skip


def numbers(film: ServeFilm) -> list[str]:
    """What the hour came to, by `HEADS`; blocks are means over its seconds."""
    arrived = max(1.0, film.total(batch.ARRIVED))
    gone = film.record[: film.seconds, [batch.ATTENTION_DROPPED, batch.FFN_DROPPED]].mean(axis=0)
    return [
        f"{film.cost:.4f}",
        f"{film.total(batch.ARRIVED):,.0f}",
        f"{film.total(batch.GOOD) / arrived:.1%}",
        f"{film.total(batch.SHED) / arrived:.1%}",
        f"{film.total(batch.PREEMPTIONS):,.0f}",
        f"{_mean(film, batch.TTFT, batch.FIRST):.2f}",
        f"{1000 * _mean(film, batch.TPOT, batch.PACED):.0f}",
        f"{gone[0]:.1f}",
        f"{gone[1]:.1f}",
    ]


def _mean(film: ServeFilm, total: int, count: int) -> float:
    return film.total(total) / max(1.0, film.total(count))


def sentences(shown: ServeFilm, today: ServeFilm) -> list[str]:
    """What the rule changes in this stretch, in two sentences; of the engine of today alone, one."""

    def told(film: ServeFilm) -> str:
        arrived = max(1.0, film.total(batch.ARRIVED))
        return (
            f"{film.total(batch.GOOD) / arrived:.1%} of {arrived:,.0f} requests are served in time and "
            f"{film.total(batch.SHED) / arrived:.1%} are given up; a first token takes "
            f"{_mean(film, batch.TTFT, batch.FIRST):.2f} s in the mean. It costs {film.cost:.4f} nats a token, "
            f"quality's part of which is {film.quality:.4f}"
        )

    said = [f"**The engine of today**, all blocks kept: {told(today)}."]
    if shown.rule == today.rule:
        return said
    less = shown.cost - today.cost
    return [
        *said,
        f"**`{shown.rule}`**: {told(shown)}. That is {abs(less):.4f} {'less' if less < 0 else 'more'}. It is one "
        f"stretch of {(shown.seconds + 1) / 60:.0f} minutes: the study of serving says what holds over all of test.",
    ]


def _film(shown: ServeFilm, today: ServeFilm) -> Section:
    return Section(
        "film",
        "Second by second",
        paragraphs=[
            f"`{shown.rule}` in the stretch of test, an hour at most, in which most tokens were asked for beside the memory that was "
            "left. From the top: memory in use by kind below the limit; blocks kept; requests that wait and run; "
            "mean time to the first token, and of a token after it; requests that were preempted or given up. "
            f"In grey: the engine of today (`{today.rule}`) meanwhile."
        ],
        pictures=[
            Picture(
                "figure-serve",
                serve_film.drawn(shown, today),
                f"Film of {shown.seconds} seconds of {shown.rule} on {shown.scenario}: memory against the limit, kept "
                "blocks, queue, times to the first and to further tokens, preemptions; the table below has it by the "
                "minute.",
                "Drag to zoom: all strips follow. Where an hour is drawn in stretches of seconds, memory is that of the "
                "fullest second, the limit the lowest, blocks the fewest.",
            )
        ],
        tables=[minutes(shown)],
    )  # fmt: skip


def minutes(shown: ServeFilm) -> Table:
    """The film by the minute."""
    rows = []
    used = shown.by_kind().sum(axis=1)
    for first in range(0, shown.seconds, MINUTE_S):
        here = shown.record[first : min(first + MINUTE_S, shown.seconds)]
        seconds = slice(first, first + len(here))

        def mean(total: int, count: int, here: Any = here) -> str:
            some = here[:, count].sum()
            return f"{here[:, total].sum() / some:.3f}" if some else "-"

        rows.append(
            [
                f"{first // MINUTE_S + 1}",
                f"{here[:, batch.LIMIT].min() / GIB:.2f}",
                f"{used[seconds].max() / GIB:.2f}",
                f"{here[:, batch.ATTENTION_DROPPED].max():.0f}",
                f"{here[:, batch.FFN_DROPPED].max():.0f}",
                f"{here[:, batch.WAITING].max():.0f}",
                f"{here[:, batch.RUNNING].max():.0f}",
                mean(batch.TTFT, batch.FIRST),
                mean(batch.TPOT, batch.PACED),
                f"{here[:, batch.PREEMPTIONS].sum():.0f}",
                f"{here[:, batch.SHED].sum():.0f}",
            ]
        )
    return Table(
        "By the minute",
        ["minute", "lowest limit, GiB", "most in use, GiB", "attention dropped, most", "FFN dropped, most",
         "waiting, most", "running, most", "first token, s", "a token, s", "preempted", "given up"],
        rows,
    )  # fmt: skip


def _provenance(shown: ServeFilm, story: serving.ServeScenario) -> Section:
    table = tables.base_table(story.base)
    profile = story.profile if isinstance(story.profile, str) else "assumed numbers"
    settings: Sequence[str] = [f"{name} = {value:g}" for name, value in shown.settings.items()]
    rows = [
        ["rapgym", provenance.VERSION],
        ["scenario", story.id],
        ["card", f"{story.base.card_gib:g} GiB"],
        ["engine's profile", profile],
        ["quality table", f"{table.name} {table.sha256[:12]}, {table.model}"],
        [
            "part of test",
            f"stretch {shown.part.span}, {shown.seconds + 1} s from {shown.part.start_s} s on",
        ],
        [
            "rule and settings, tuned on train",
            f"{shown.rule}: {', '.join(settings) or 'no free numbers'}",
        ],
        ["requests", f"{int(np.rint(shown.total(batch.ARRIVED))):,}"],
    ]
    return Section(
        "provenance",
        "Where this comes from, and how to make it again",
        paragraphs=[
            "The policy decides by calibration columns; costs are with test columns. What is in flight at the end is "
            "served on, and counts."
        ],
        tables=[Table("Provenance", ["what", "value"], rows)],
        commands=[f"rapgym report --serve {story.name} --policy {shown.rule}"],
    )  # fmt: skip
