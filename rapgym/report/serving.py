"""Scores of the serving world as text: the table of `rapgym bench`, and what a study's intervals say."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rapgym.bench.serving.records import ServeScore
from rapgym.bench.verdicts import CONDITIONAL
from rapgym.files.shown import shown
from rapgym.report.bench import interval_of
from rapgym.serving.latency import QUANTILES

COLUMNS = ("policy", "cost", "[95 %]", "gain", "foresight", "shed", "TTFT s", "p99", "TPOT ms", "goodput",
           "verdict", "from lookup [95 %]")  # fmt: skip
# Of a second table, for who runs a server.
LATENCY = ("policy", "TTFT s p50", "p95", "p99", "p99 from lookup", "TPOT ms p50", "p95", "p99",
           "end to end s p50", "p95", "p99", "goodput", "from lookup [95 %]", "TTFT met", "from lookup [95 %]", "TPOT met", "late",
           "shed", "lost", "preempted", "tokens/s")  # fmt: skip
LATENCY_NOTE = """\
Percentiles are over all requests that finished, and carry no interval: an hour or two can hold all of the slowest
hundredth. Shed and lost requests (neither finished nor shed) are in none; they miss goodput (every token on time)
and both levels: the first token by its deadline, and the pace of the other tokens. Late: finished, with a token
past its deadline. Shares are of the requests that arrived."""
MS = 1000


def table(scores: Sequence[ServeScore], *, wide: bool = False) -> str:
    """What each policy cost on each scenario, beside the lookup, and what a server would ask.

    Args:
        wide: a second table of each scenario, with percentiles and service levels.
    """
    names = dict.fromkeys(score.scenario for score in scores)
    parts = [_scenario([s for s in scores if s.scenario == name], wide=wide) for name in names]
    return "\n\n".join([*parts, LATENCY_NOTE] if wide else parts)


def _scenario(scores: Sequence[ServeScore], *, wide: bool) -> str:
    lines = [*_aligned(COLUMNS, [_cells(score) for score in scores]), *_notes(scores)]
    if wide:
        lines += ["", *_aligned(LATENCY, [_latency(score) for score in scores])]
    return "\n".join([_heading(scores), *lines])


def _aligned(head: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    rows = [head, *cells]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


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
        _name(score),
        "-" if cost is None else f"{cost:.4f}",
        interval_of(score.cost_low, score.cost_high, ""),
        "-" if score.gain is None else f"{score.gain:.1f}",
        "-" if score.foresight is None else f"{score.foresight:.1f}",
        f"{score.shed:.1%}",
        f"{score.ttft_s:.2f}",
        _seconds(score.ttft_p99_s),
        f"{MS * score.tpot_s:.1f}",
        f"{score.goodput:.1%}",
        score.verdict or "-",
        interval_of(score.low, score.high),
    )


def _latency(score: ServeScore) -> tuple[str, ...]:
    """The cells of `LATENCY`."""
    less = score.ttft_p99_less_s
    return (
        _name(score),
        *map(_seconds, (score.ttft_p50_s, score.ttft_p95_s, score.ttft_p99_s)),
        "-" if less is None else f"{less:+.3f}",
        *map(_milliseconds, (score.tpot_p50_s, score.tpot_p95_s, score.tpot_p99_s)),
        *map(_seconds, (score.e2e_p50_s, score.e2e_p95_s, score.e2e_p99_s)),
        f"{score.goodput:.1%}",
        _points(score.goodput_low, score.goodput_high),
        f"{score.ttft_met:.1%}",
        _points(score.ttft_met_low, score.ttft_met_high),
        *(
            f"{share:.1%}"
            for share in (
                score.tpot_met, score.late, score.shed, score.lost, score.preempted,
            )
        ),
        f"{score.throughput:.0f}",
    )  # fmt: skip


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{MS * value:.1f}"


def _points(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"[{low:+.1%}, {high:+.1%}]"


def _name(score: ServeScore) -> str:
    return " ".join([shown(score.policy), *_marks(score)])


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


# What a rule of serving.json says of latency, and what of requests, with heads of a table.
PERCENTILES = (
    ("TTFT p50 / p95 / p99, s", "ttft", 1, 2),
    ("TPOT p50 / p95 / p99, ms", "tpot", MS, 1),
    ("end to end p50 / p95 / p99, s", "e2e", 1, 2),
)
LEVELS = (("goodput", "goodput"), ("TTFT met", "ttft_met"), ("TPOT met", "tpot_met"), ("late", "late"),
          ("shed", "shed"), ("lost", "lost"), ("preempted", "preempted"))  # fmt: skip
LATENCY_HEADS = (*(head for head, *_ in PERCENTILES), *(head for head, _ in LEVELS))


def latency_cells(rule: Mapping[str, Any]) -> list[str] | None:
    """The cells of `LATENCY_HEADS` of a rule of serving.json; None where it was made without them."""
    if "ttft_p99_s" not in rule:
        return None
    times = []
    for _, name, unit, digits in PERCENTILES:
        values = [rule[f"{name}_p{share}_s"] for share in QUANTILES]
        times.append(" / ".join("-" if v is None else f"{unit * v:.{digits}f}" for v in values))
    return [*times, *(f"{rule[name]:.1%}" for _, name in LEVELS)]


def by_cost(rules: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Rules of serving.json with their names, the cheapest first."""
    return sorted(rules.items(), key=lambda item: float(item[1]["cost"]))


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
