"""The operator's page of an audit log: who decided when, what was taken away from whom, and why.

It answers "why did the model answer badly at 14:03": each decision that was not simply the policy's, or that
dropped blocks, stands in a table with its sentence, as `rapgym audit --row` says it.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from rapgym.audit import sentence as audit_sentence
from rapgym.audit import summary as audit_summary
from rapgym.audit.context import AuditContext
from rapgym.audit.record import Record
from rapgym.audit.sentence import RULES
from rapgym.audit.summary import Chosen, Log
from rapgym.errors import InvalidResult
from rapgym.model import blocks
from rapgym.report import drawing
from rapgym.report.film import decisions
from rapgym.report.page import Page, Picture, Section, Step, Table
from rapgym.scenarios.story import GIB

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_DRAWN = 600  # decisions in the figure, each with its sentence: the last ones
MOST_TOLD = 200  # in a table, of each kind: the last ones
TICKS = 5  # moments that the axis names
POLICY = "policy"
MODES = {  # of a watchdog, in the words of `rapgym audit`
    "policy": "the policy decides",
    "reference": "the reference policy decides until the policy has proven itself",
    "reverted": "the reference policy decides for good",
}


@dataclass(slots=True)
class Seen:
    """What a log's decisions are, gathered while it is read once."""

    counts: Counter[str] = field(default_factory=Counter)
    drawn: "deque[Record]" = field(default_factory=lambda: deque(maxlen=MOST_DRAWN))
    # Decisions that were not the policy's unchanged, and those that dropped blocks.
    taken: "deque[Record]" = field(default_factory=lambda: deque(maxlen=MOST_TOLD))
    dropped: "deque[Record]" = field(default_factory=lambda: deque(maxlen=MOST_TOLD))
    trips: list[tuple[Record, str, str]] = field(
        default_factory=list
    )  # a lane's state, before and after
    trip_count: int = 0
    overrides: int = 0
    first_us: int = 0
    last_us: int = 0
    _modes: dict[tuple[str, int | None], str] = field(default_factory=dict)

    def add(self, record: Record, whole: bool) -> None:
        """One more decision.

        Args:
            whole: whether no block was dropped.
        """
        self.first_us = min(self.first_us, record.time_us) if self.counts else record.time_us
        self.last_us = max(self.last_us, record.time_us)
        self.counts[record.reason] += 1
        self.drawn.append(record)
        if record.reason != POLICY:
            self.taken.append(record)
        elif not whole:
            self.dropped.append(record)
        self.overrides += record.reason == "override"
        if record.watchdog is not None:
            lane = (record.context, record.lane)
            before = self._modes.get(lane, POLICY)
            if before != record.watchdog:
                self.trip_count += 1
                if len(self.trips) < MOST_TOLD:
                    self.trips.append((record, before, record.watchdog))
            if len(self._modes) < 1 << 16:
                self._modes[lane] = record.watchdog


def clock(time_us: int) -> str:
    """A moment as a person reads it, UTC, to the second."""
    return datetime.fromtimestamp(time_us // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def page(log: Log, chosen: Chosen) -> Page:
    """The report of a log, or of the decisions asked for.

    Raises:
        DataUnavailable: there is no such file.
        InvalidResult: it is no audit log.
        MissingExtra: plotly is not installed.
    """
    drawing.graph_objects()
    found = audit_summary.summary(log, chosen)
    again, seen = Log(log.path), Seen()
    for record in again.records(chosen):
        seen.add(record, _is_whole(again, record))
    sections = [
        _answer(found, seen),
        _timeline(again, seen),
        _watchdog(found, seen),
        _told(
            "taken",
            "Decisions that were not the policy's own",
            again,
            seen.taken,
            _count(seen, True),
        ),
        _told("dropped", "Where the policy dropped blocks", again, seen.dropped, None),
        _chain(found, log),
    ]
    return Page(
        title="Who decided, when, and why",
        subtitle=f"Audit log {log.path.name}: {found['decisions']:,} decisions.",
        sections=sections,
    )


def _count(seen: Seen, taken: bool) -> int:
    return sum(count for reason, count in seen.counts.items() if (reason != POLICY) == taken)


def _is_whole(log: Log, record: Record) -> bool:
    context = _context(log, record)
    return context is not None and record.kept == blocks.key(np.ones(context.blocks, dtype=bool))


def _context(log: Log, record: Record) -> AuditContext | None:
    found = log.contexts.get(record.context)
    return found if isinstance(found, AuditContext) else None


def _answer(found: dict[str, Any], seen: Seen) -> Section:
    total = found["decisions"]
    if not total:
        return Section("answer", "The answer", points=[*_faults(found), "No decision was found."])
    own, taken = seen.counts[POLICY], _count(seen, True)
    said = [
        f"**Who decided**: of {total:,} decisions from {clock(seen.first_us)} to {clock(seen.last_us)}, {own:,} are the policy's "
        f"own, executed unchanged, and {taken:,} are not."
    ]
    others = [
        f"{count:,} {reason}" for reason, count in seen.counts.most_common() if reason != POLICY
    ]
    said.append(
        f"**What intervened**: {', '.join(others) if others else 'nothing'}; the watchdog changed who decides "
        f"{seen.trip_count:,} times, {seen.overrides:,} decisions were an operator's override, and {found['late']:,} "
        "answers came too late."
    )
    if found["cost"] is None:
        said.append("**What it cost**: the log does not say.")
    else:
        terms = ", ".join(f"{name} {value:.4f}" for name, value in found["terms"].items())
        said.append(
            f"**What it cost**: {found['cost']:.4f} nats an output token above the full model ({terms}), over "
            f"{found['rows_with_cost']:,} rows."
        )
    return Section(
        "answer",
        "The answer",
        points=[*_faults(found), *said],
        tables=[
            Table(
                "Decisions by rule",
                ["rule", "decisions", "what it means"],
                [[reason, count, RULES[reason]] for reason, count in seen.counts.most_common()],
                open=True,
            ),
            Table(
                "Decisions by policy",
                ["policy", "scenario", "decisions"],
                [
                    [each["policy"], each["scenario"], each["decisions"]]
                    for each in found["policies"]
                ],
            ),
        ],
    )


def _faults(found: dict[str, Any]) -> list[str]:
    said = [f"**The log does not hold**: {sentence}." for sentence in found["fault_sentences"]]
    if found["faults"] > len(said):
        said.append(f"**{found['faults'] - len(said)} more places do not hold.**")
    return said + [
        f"**A gap**: {gap['decisions']} decisions after decision {gap['after']} were not logged: {gap['cause']}."
        for gap in found["gaps"]
    ]


def _timeline(log: Log, seen: Seen) -> Section:
    title, shown = "Decisions over time", list(seen.drawn)
    if not shown:
        return Section("timeline", title, notes=["There is nothing to draw."])
    total = sum(seen.counts.values())
    notes = [
        f"Drawn are the last {len(shown):,} of {total:,} decisions; name others with --since and --until."
    ] if total > len(shown) else []  # fmt: skip
    steps = [Step(f"decision {r.decision}", r.decision, sentence(log, r)) for r in shown]
    return Section(
        "timeline",
        title,
        notes=notes,
        pictures=[
            Picture(
                "figure-timeline",
                timeline(log, shown, [step.text for step in steps]),
                f"Limit and bytes in use, dropped blocks and the rule of each of {len(shown)} decisions. The slider "
                "below reads each as a sentence.",
                "Hover over a decision, or walk with the slider, for its sentence. Drag to zoom: all strips follow.",
                steps=steps,
            )
        ],
    )


def timeline(log: Log, shown: Sequence[Record], told: Sequence[str]) -> "go.Figure":
    """Memory, dropped blocks and who decided, decision by decision; a hover text is what is `told` of it."""
    go = drawing.graph_objects()
    x = [record.decision for record in shown]
    ticks = sorted({round(step * (len(shown) - 1) / (TICKS - 1)) for step in range(TICKS)})
    dropped = [_dropped(log, record) for record in shown]
    traces = [
        go.Scatter(
            name="limit",
            x=x,
            y=drawing.short(record.limit_bytes / GIB for record in shown),
            mode="lines",
            line={"shape": "hv", "color": drawing.VERMILLION},
        ),
        go.Scatter(
            name="in use",
            x=x,
            y=drawing.short(_used(record) / GIB for record in shown),
            mode="lines",
            line={"shape": "hv", "color": drawing.BLUE},
            fill="tozeroy",
        ),
    ]
    for place, (name, colour) in enumerate((("attention", drawing.SKY), ("FFN", drawing.ORANGE))):
        traces.append(
            go.Bar(
                name=f"{name} blocks dropped",
                x=x,
                y=[counts[place] for counts in dropped],
                yaxis="y2",
                marker={"color": colour, "line": {"width": 0}},
            )
        )
    marks, reasons = decisions([record.reason for record in shown], x, told, "y3")
    return drawing.figure(
        [*traces, *marks],
        560,
        barmode="stack",
        bargap=0,
        hovermode="closest",
        xaxis={
            "title": {"text": "decision, and its time (UTC)"},
            "anchor": "y3",
            "range": [x[0] - 0.5, x[-1] + 0.5],
            "tickmode": "array",
            "tickvals": [shown[place].decision for place in ticks],
            "ticktext": [f"{shown[p].decision}<br>{clock(shown[p].time_us)[11:]}" for p in ticks],
        },
        yaxis={
            "domain": [0.5, 1],
            "title": {"text": "GiB"},
            "rangemode": "tozero",
            "fixedrange": True,
        },
        yaxis2={"domain": [0.2, 0.45], "title": {"text": "dropped"}, "fixedrange": True},
        yaxis3=reasons | {"domain": [0, 0.14]},
    )


def _used(record: Record) -> int:
    return record.used_bytes if record.measured_bytes is None else record.measured_bytes


def _dropped(log: Log, record: Record) -> tuple[int, int]:
    context = _context(log, record)
    if context is None:
        return 0, 0
    try:
        attention, ffn = blocks.dropped_counts(blocks.kept_of(record.kept, context.blocks)).tolist()
    except ValueError:  # a key of another model: its sentence says so
        return 0, 0
    return attention, ffn


def sentence(log: Log, record: Record) -> str:
    """What `rapgym audit --row` says of a decision; what is wrong, where it can say nothing."""
    try:
        return audit_sentence.explained(log.context(record), record).sentence
    except InvalidResult as error:
        return f"Decision {record.decision} cannot be explained: {error}"


def _watchdog(found: dict[str, Any], seen: Seen) -> Section:
    title = "The watchdog"
    if not found["watchdog"]:
        return Section("watchdog", title, notes=["No watchdog stood above these decisions."])
    rows = [
        [
            clock(r.time_us),
            r.decision,
            "-" if r.lane is None else r.lane,
            _mode(before),
            _mode(after),
        ]
        for r, before, after in seen.trips
    ]
    points = [f"{_mode(name)}: {count:,} decisions" for name, count in found["watchdog"].items()]
    if not rows:
        return Section("watchdog", title, points=points, notes=["It never changed who decides."])
    more = seen.trip_count - len(seen.trips)
    return Section(
        "watchdog",
        title,
        points=points,
        notes=[f"The first {len(seen.trips)} changes are listed, {more:,} more are not."]
        if more
        else [],
        tables=[
            Table(
                "Each change of who decides",
                ["time", "decision", "lane", "before", "after"],
                rows,
                open=True,
            )
        ],
    )


def _mode(name: str) -> str:
    return MODES.get(name, name)


def _told(
    anchor: str, title: str, log: Log, records: "deque[Record]", total: int | None
) -> Section:
    if not records:
        return Section(anchor, title, notes=["There are none."])
    rows = [
        [r.decision, clock(r.time_us), r.reason, _names(log, r), sentence(log, r)] for r in records
    ]
    full = len(records) == MOST_TOLD and (total is None or total > MOST_TOLD)
    return Section(
        anchor,
        title,
        notes=[f"Only the last {MOST_TOLD} are told; name others with --since and --until."]
        if full
        else [],
        tables=[
            Table(
                "Decision by decision",
                ["decision", "time", "rule", "dropped", "why"],
                rows,
                open=anchor == "taken",
                stacked=True,
            )
        ],
    )


def _names(log: Log, record: Record) -> str:
    attention, ffn = _dropped(log, record)
    return f"{attention} attention, {ffn} FFN"


def _chain(found: dict[str, Any], log: Log) -> Section:
    ended = "its last one ended it" if found["closed"] else "the last one has not ended it (yet)"
    return Section(
        "chain",
        "Whether the log holds",
        paragraphs=[
            "Each line carries the sha256 of the line before. Follow the chain and replay every decision with the "
            "command below; keep the head elsewhere to see that nothing is gone since."
        ],
        tables=[
            Table(
                "The chain",
                ["what", "value"],
                [["head", found["head"]], ["writers", f"{found['writers']}; {ended}"], ["lost", found["lost"]], ["places that do not hold", found["faults"]]],
                open=True,
            )
        ],
        commands=[f"rapgym audit {_quoted(log)} --verify", f"rapgym audit {_quoted(log)} --row 1"],
    )  # fmt: skip


def _quoted(log: Log) -> str:
    import shlex

    return shlex.quote(str(log.path))
