"""What an audit log holds: which decisions, by which rules, at what cost, and what is missing."""

import base64
import binascii
import csv
import dataclasses
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain as chain_of
from itertools import islice
from pathlib import Path
from typing import Any

from rapgym.audit import chain
from rapgym.audit import entry as audit_entry
from rapgym.audit import read as audit_read
from rapgym.audit import sentence as audit_sentence
from rapgym.audit.chain import Head
from rapgym.audit.context import AuditContext
from rapgym.audit.read import Fault, Line
from rapgym.audit.record import (
    FIELDS,
    LINE,
    TERMS,
    Field,
    Flag,
    Floats,
    Kind,
    Number,
    Numbers,
    Record,
    Text,
    Whole,
)
from rapgym.audit.serving.context import ServeContext
from rapgym.audit.serving.record import FIELDS as SERVE_FIELDS
from rapgym.audit.serving.record import TERMS as SERVE_TERMS
from rapgym.audit.serving.record import Arrivals, ServeRecord, Wholes
from rapgym.errors import InvalidResult, InvalidSpec
from rapgym.files import limits, writing
from rapgym.files.shown import shown
from rapgym.model import blocks

FIRST_DECISIONS = 10  # numbers that a filtered summary names


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which decisions are asked for: all unless stated."""

    since_us: int | None = None
    until_us: int | None = None  # not with it
    reasons: frozenset[str] = frozenset()

    def __contains__(self, record: Record | ServeRecord) -> bool:
        return (
            (self.since_us is None or record.time_us >= self.since_us)
            and (self.until_us is None or record.time_us < self.until_us)
            and (not self.reasons or record.reason in self.reasons)
        )

    @property
    def everything(self) -> bool:
        return self == Chosen()


def moment_us(text: str) -> int:
    """Microseconds since 1970 of an ISO date or time; UTC unless it says otherwise.

    Raises:
        InvalidSpec: it is none.
    """
    try:
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1e6)
    except (ValueError, OverflowError) as error:
        raise InvalidSpec(
            f"{text!r} is no moment: write 2026-11-25, or 2026-11-25T10:30:00 (UTC), or with an "
            "offset as +02:00"
        ) from error


def moment(time_us: int) -> str:
    """ISO time in UTC."""
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(timespec="microseconds")


@dataclass(slots=True)
class Log:
    """A log while it is read: what was said of contexts, writers and gaps, and what does not hold."""

    path: Path
    head: Head = chain.START
    contexts: dict[str, AuditContext | ServeContext] = dataclasses.field(default_factory=dict)
    writers: int = 0
    closed: bool = False  # its last line says that its writer ended
    gaps: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    faults: list[str] = dataclasses.field(default_factory=list)  # the first of them
    faulty: int = 0

    def records(self, chosen: Chosen | None = None) -> Iterator[Record]:
        """Decisions of windows, of lines that hold, in the file's order; the fields above are filled on the way.

        Raises:
            DataUnavailable: there is no such file.
            InvalidResult: it is no audit log, or holds decisions of a serving engine.
        """
        for record in self.of_both_worlds(chosen):
            if isinstance(record, ServeRecord):
                raise InvalidResult(
                    f"{self.path} holds decisions of a serving engine: rapgym audit explains, exports and "
                    "verifies them; there is no page of them"
                )
            yield record

    def of_both_worlds(self, chosen: Chosen | None = None) -> Iterator[Record | ServeRecord]:
        """The same of either world.

        Raises:
            DataUnavailable: there is no such file.
            InvalidResult: it is no audit log.
        """
        chosen = Chosen() if chosen is None else chosen
        for each in audit_read.lines(self.path):
            if isinstance(each, Fault):
                self._fault(each.sentence)
                continue
            if each.head.seq > self.head.seq:
                self.head, self.closed = each.head, each.kind == "close"
            try:
                if each.kind == "decision":
                    record = audit_entry.decision_of(each, self.contexts)
                    if record in chosen:
                        yield record
                elif each.kind == "context":
                    context_id, context = audit_entry.context_of(each)
                    self._check_room(each, self.contexts)
                    self.contexts[context_id] = context
                elif each.kind == "gap":
                    lost = audit_entry.lost_of(each)
                    self._check_room(each, self.gaps)
                    cause = shown(str(each.fields.get("cause"))[:200])
                    gap = {"after": each.head.decisions, "decisions": lost, "cause": cause}
                    self.gaps.append(gap)
                else:
                    self.writers += each.kind == "open"
            except InvalidResult as error:
                self._fault(str(error))

    def context(self, record: Record) -> AuditContext:
        """What a decision has in common with others.

        Raises:
            InvalidResult: its line is missing or damaged.
        """
        found = self._context(record)
        assert isinstance(found, AuditContext)  # `records` gave the record
        return found

    def serving_context(self, record: ServeRecord) -> ServeContext:
        """The same of a serving engine's; raises as `context`."""
        found = self._context(record)
        assert isinstance(found, ServeContext)
        return found

    def _context(self, record: Record | ServeRecord) -> AuditContext | ServeContext:
        if record.context not in self.contexts:
            raise InvalidResult(f"decision {record.decision}: the log lacks its context")
        return self.contexts[record.context]

    def _check_room(self, line: Line, held: Sized) -> None:
        if len(held) >= limits.AUDIT_CONTEXTS:
            raise InvalidResult(
                f"line {line.head.seq}: more than {limits.AUDIT_CONTEXTS} contexts or gaps"
            )

    def _fault(self, sentence: str) -> None:
        self.faulty += 1
        if len(self.faults) < 10:
            self.faults.append(sentence)


def record_numbered(log: Log, number: int) -> Record | ServeRecord:
    """The decision of this number.

    Raises:
        InvalidSpec: the log has none.
    """
    found = next((record for record in log.of_both_worlds() if record.decision == number), None)
    if found is None:
        raise InvalidSpec(f"{log.path} has decisions 1 to {log.head.decisions}, not {number}")
    return found


def summary(log: Log, chosen: Chosen) -> dict[str, Any]:
    """Numbers of the decisions asked for, and of the whole log where they are not of decisions."""
    reasons: Counter[str] = Counter()
    policies: Counter[tuple[str, str]] = Counter()
    watchdog: Counter[str] = Counter()
    terms, tokens = dict.fromkeys(TERMS, 0.0), 0
    count = late = predicted = costed = 0
    times: list[int] = []
    first: list[int] = []
    for record in log.of_both_worlds(chosen):
        if isinstance(record, ServeRecord) and not count:
            terms = dict.fromkeys(SERVE_TERMS, 0.0)
        count += 1
        reasons[record.reason] += 1
        context = log.contexts.get(record.context)
        policies[(context.policy, context.scenario) if context else ("?", "?")] += 1
        watchdog.update([record.watchdog] if record.watchdog else [])
        late += bool(record.late_us)
        predicted += isinstance(record, Record) and record.measured is False
        times = [min([record.time_us, *times]), max([record.time_us, *times])]
        if len(first) < FIRST_DECISIONS:
            first.append(record.decision)
        if record.cost is not None and record.output_tokens is not None:
            costed, tokens = costed + 1, tokens + record.output_tokens
            names = SERVE_TERMS if isinstance(record, ServeRecord) else TERMS
            for name, part in zip(names, record.cost, strict=True):
                terms[name] = terms.get(name, 0.0) + (part or 0.0) * record.output_tokens
    cost = {name: term / tokens if tokens else None for name, term in terms.items()}
    return {
        "file": str(log.path),
        "decisions": count,
        "since": moment(times[0]) if times else None,
        "until": moment(times[1]) if times else None,
        "reasons": dict(sorted(reasons.items())),
        "policies": [
            {"policy": policy, "scenario": scenario, "decisions": number}
            for (policy, scenario), number in sorted(policies.items())
        ],
        "cost": sum(terms.values()) / tokens if tokens else None,
        "terms": cost,
        "rows_with_cost": costed,
        "late": late,
        "predicted": predicted,
        "watchdog": dict(sorted(watchdog.items())),
        "first": first,
        "writers": log.writers,
        "closed": log.closed,
        "gaps": log.gaps,
        "lost": sum(gap["decisions"] for gap in log.gaps),
        "faults": log.faulty,
        "fault_sentences": log.faults,
        "head": str(log.head),
    }


CHUNK = 4096
# What an export adds to each decision: of its context, and as `sentence` explains it.
_ADDED = (
    Field("time", Text(), False, "ISO time, UTC", LINE),
    Field("scenario", Text(), False, "of the context", LINE),
    Field("policy", Text(), False, "of the context", LINE),
    Field("split", Text(), False, "of the context", LINE),
    Field("nats", Number("nats a token"), True, "of what was executed", LINE),
    Field("runner_up_nats", Number("nats a token"), False, "of the best other thing", LINE),
    Field("dropped_attention", Whole("blocks"), False, "attention blocks dropped", LINE),
    Field("dropped_ffn", Whole("blocks"), False, "FFN blocks dropped", LINE),
)
# In this order an export has its columns.
_KINDS: tuple[type[Kind], ...] = (Whole, Text, Flag, Number, Floats)


def _columns(fields: Sequence[Field]) -> dict[str, type[Kind]]:
    """Names of an export's columns, in order, and their kinds: one for each part of `Numbers`."""
    found: dict[str, type[Kind]] = {}
    for kind in _KINDS:
        for field in fields:
            if isinstance(field.kind, kind):
                found |= dict.fromkeys(_parts(field) or [field.name], kind)
    return found


def _parts(field: Field) -> list[str]:
    parts = field.kind.parts if isinstance(field.kind, Numbers) else ()
    return [f"{field.name}_{part}" for part in parts]


COLUMNS = _columns((*_ADDED, *FIELDS))
# Of a serving engine: lists of whole numbers stand as text.
SERVE_COLUMNS = _columns((*_ADDED[:4], *SERVE_FIELDS)) | {
    field.name: Text for field in SERVE_FIELDS if isinstance(field.kind, Wholes | Arrivals)
}


def export(log: Log, chosen: Chosen, out: Path) -> int:
    """Write the decisions asked for; how many they are.

    Costs are in nats a token: `nats` of what was executed and `runner_up_nats` by calibration text,
    the four terms as means over the row.

    Raises:
        InvalidSpec: the file's name ends neither in .csv nor in .parquet.
        InvalidResult: a decision is damaged.
    """
    if out.suffix not in (".csv", ".parquet"):
        raise InvalidSpec(f"{out}: the ending says how to write it, .csv or .parquet")
    records = log.of_both_worlds(chosen)
    first = next(records, None)
    serving = isinstance(first, ServeRecord)
    columns = SERVE_COLUMNS if serving else COLUMNS
    every = chain_of([] if first is None else [first], records)
    rows = (_row_of(log, record, serving=serving) for record in every)
    write = _write_csv if out.suffix == ".csv" else _write_parquet
    return write(rows, out, columns)


def _row_of(log: Log, record: Record | ServeRecord, *, serving: bool) -> dict[str, Any]:
    """Raises InvalidResult where a log holds decisions of both worlds: their columns differ."""
    if isinstance(record, ServeRecord) != serving:
        raise InvalidResult(
            f"{log.path} holds decisions of windows and of a serving engine; choose one kind with --since "
            "and --until"
        )
    return _serve_row(log, record) if isinstance(record, ServeRecord) else _row(log, record)


def _serve_row(log: Log, record: ServeRecord) -> dict[str, Any]:
    context = log.serving_context(record)
    found: dict[str, Any] = {
        "time": moment(record.time_us),
        "scenario": context.scenario,
        "policy": context.policy,
        "split": context.split,
    }
    for field in SERVE_FIELDS:
        value = getattr(record, field.name)
        if parts := _parts(field):
            found |= dict(zip(parts, value or [None] * len(parts), strict=True))
        elif isinstance(field.kind, Wholes | Arrivals):
            found[field.name] = None if value is None else json.dumps(value)
        else:
            found[field.name] = value
    return found


def _row(log: Log, record: Record) -> dict[str, Any]:
    context = log.context(record)
    told = audit_sentence.explained(context, record)
    attention, ffn = blocks.dropped_counts(blocks.kept_of(record.kept, context.blocks)).tolist()
    found = {
        "time": moment(record.time_us),
        "scenario": context.scenario,
        "policy": context.policy,
        "split": context.split,
        "nats": told.nats,
        "runner_up_nats": told.runner_up.nats,
        "dropped_attention": attention,
        "dropped_ffn": ffn,
    }
    for field in FIELDS:
        value = getattr(record, field.name)
        if parts := _parts(field):
            found |= dict(zip(parts, value or [None] * len(parts), strict=True))
        else:
            found[field.name] = value
    return found


def _write_csv(rows: Iterator[dict[str, Any]], out: Path, columns: dict[str, type[Kind]]) -> int:
    count = 0
    with writing.written_aside(out) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        for row in rows:
            count += 1
            writer.writerow({name: _cell(value) for name, value in row.items()})
        text.detach()
    return count


def _cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


def _write_parquet(rows: Iterator[dict[str, Any]], out: Path, names: dict[str, type[Kind]]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        Whole: pa.int64(),
        Text: pa.string(),
        Flag: pa.bool_(),
        Number: pa.float64(),
        Floats: pa.list_(pa.float32()),
    }
    schema = pa.schema([(name, types[kind]) for name, kind in names.items()])
    count = 0
    with writing.written_aside(out) as file, pq.ParquetWriter(file, schema) as writer:
        while chunk := list(islice(rows, CHUNK)):
            count += len(chunk)
            columns = {name: [row[name] for row in chunk] for name in names}
            for name, kind in names.items():
                if kind is Floats:
                    columns[name] = [_numbers(text) for text in columns[name]]
            writer.write_table(pa.table(columns, schema=schema))
    return count


def _numbers(text: str | None) -> list[float] | None:
    import numpy as np

    if text is None:
        return None
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").tolist()
    except (binascii.Error, ValueError) as error:
        raise InvalidResult(f"an observation cannot be read ({error})") from error
