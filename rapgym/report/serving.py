"""Scores of the serving world as text: the table of `rapgym bench`, and what a study's intervals say."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rapgym.bench.serving.records import ServeScore
from rapgym.bench.verdicts import CONDITIONAL
from rapgym.files.shown import shown
from rapgym.report.bench import interval_of

COLUMNS = ("policy", "cost", "[95 %]", "gain", "foresight", "shed", "TTFT s", "TPOT ms", "goodput",
           "verdict", "from lookup [95 %]")  # fmt: skip


def table(scores: Sequence[ServeScore]) -> str:
    """What each policy cost on each scenario, beside the lookup, and what a server would ask."""
    names = dict.fromkeys(score.scenario for score in scores)
    return "\n\n".join(_scenario([s for s in scores if s.scenario == name]) for name in names)


def _scenario(scores: Sequence[ServeScore]) -> str:
    rows = [COLUMNS, *(_cells(score) for score in scores)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join([_heading(scores), *lines, *_notes(scores)])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        cell.ljust(width) if not place else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join([first, *rest]).rstrip()


def _heading(scores: Sequence[ServeScore]) -> str:
    one = next(score for score in scores if score.cost is not None)
    pieces = f"{one.pieces} piece{'' if one.pieces == 1 else 's'} of up to an hour"
    said = f"{shown(one.scenario)}: nats an output token above the full model; {pieces}"
    return f"{said}, {CONDITIONAL}" if one.conditional else said


def _cells(score: ServeScore) -> tuple[str, ...]:
    cost = score.stretch_cost if score.cost is None else score.cost
    return (
        " ".join([shown(score.policy), *_marks(score)]),
        "-" if cost is None else f"{cost:.4f}",
        interval_of(score.cost_low, score.cost_high, ""),
        "-" if score.gain is None else f"{score.gain:.1f}",
        "-" if score.foresight is None else f"{score.foresight:.1f}",
        f"{score.shed:.1%}",
        f"{score.ttft_s:.2f}",
        f"{1000 * score.tpot_s:.1f}",
        f"{score.goodput:.1%}",
        score.verdict or "-",
        interval_of(score.low, score.high),
    )


def _marks(score: ServeScore) -> list[str]:
    apart = {"none": "(in-process)", "open": "(files open)"}.get(score.isolation or "", "")
    stood_in = "!" if score.fallback or score.watchdog else ""
    plan = "(stretches)" if score.cost is None else ""
    return [mark for mark in (stood_in, apart, plan) if mark]


def _notes(scores: Sequence[ServeScore]) -> list[str]:
    notes = list[str]()
    if any(score.cost is None for score in scores):
        notes.append(
            "Searches know the future and plan stretches alone; gain and foresight are told there, from "
            "today's engine and from the lookup to the best plan found, which is no bound."
        )
    for score in scores:
        who = shown(score.policy)
        if score.fallback:
            fault = f" ({shown(score.fault)})" if score.fault else ""
            notes.append(
                f"! the lookup stood in for {who} in {score.fallback:.1%} of seconds, whose answers could "
                f"not be used{fault}"
            )
        if score.watchdog:
            notes.append(f"! the watchdog let the lookup decide for {who} in {score.watchdog:.1%}")
    return notes


def judged(beside: Mapping[str, Any]) -> Literal["more", "less", "undecided"]:
    """Whether a rule of serving.json costs more or less than the lookup; its interval decides.

    Args:
        beside: cost less the lookup's, with `low` and `high`, None where test is a single part.
    """
    if beside["low"] is None:
        return "undecided"
    if beside["high"] < 0:
        return "less"
    return "more" if beside["low"] > 0 else "undecided"


def bounds(found: Mapping[str, Any], sign: str = "") -> str:
    """The interval behind a cost of serving.json; nothing where test is a single part."""
    return "" if found["low"] is None else f" {interval_of(found['low'], found['high'], sign)}"
