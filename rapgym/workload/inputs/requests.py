"""A log of requests, in whatever format of the table, read into a trace; what is left out is counted.

Arrivals and lengths alone are read: what anybody wrote is passed over.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rapgym.errors import InvalidTrace
from rapgym.files import json_text, limits
from rapgym.workload.inputs import (
    clock,
    expand,
    failures,
    formats,
    names,
    own,
    server_logs,
    text,
    tokens,
)  # fmt: skip
from rapgym.workload.inputs.formats import Format
from rapgym.workload.inputs.how import EMPTY, FAILED, LATER, SUMS, UNANSWERED, How, Report
from rapgym.workload.inputs.names import Entry
from rapgym.workload.inputs.text import Text
from rapgym.workload.inputs.tokens import Counts, count
from rapgym.workload.trace import REQUEST_COLUMNS, RequestTrace, read_requests

_MOST_SEEN = 200
_SUMMING = {"invoke_agent", "create_agent", "execute_tool", "invoke_workflow"}


class Found(NamedTuple):
    """What a log says of its requests."""

    requests: RequestTrace
    report: Report


def read(path: Path, how: How | None = None, name: str = "") -> Found:
    """The requests of a file; one that has not changed is not read again.

    Args:
        how: what the user says of units and zones.
        name: of the trace; the file's unless stated.

    Raises:
        DataUnavailable: it cannot be read.
        InvalidTrace: it holds no request whose arrival and lengths are known; the message says what was
            found and which format is nearest.
    """
    return _once(*own.state(path), how or How(), name or path.name)


@lru_cache(maxsize=2)
def _once(path: Path, size: int, changed_ns: int, how: How, name: str) -> Found:
    if own.is_of(path, REQUEST_COLUMNS) and not how.units:
        report = Report(formats={formats.OWN: 0})
        found = own.on_wall(read_requests(path, name), report)
        report.formats[formats.OWN] = len(found)
        return Found(found, report)
    return text.read(path, limits.ACCESS_WHOLE, lambda pieces: parse(pieces, name, how))


def parse(pieces: Iterable[str], name: str, how: How | None = None) -> Found:
    """As `read`, of the text of a file, piece by piece."""
    return _Reading(name, how or How()).whole(Text.of(pieces))


@dataclass(slots=True)
class _Reading:
    """One file while it is read."""

    name: str
    how: How
    report: Report = field(default_factory=Report)
    times: clock.Times = field(default_factory=clock.Times)
    # Tuples would take ten times as much.
    lengths: "array[int]" = field(default_factory=lambda: array("q"))
    inexact: bytearray = field(default_factory=bytearray)
    vllm: server_logs.VllmLog = field(default_factory=server_logs.VllmLog)
    plans: names.Plans = field(default_factory=names.Plans)
    seen: set[str] = field(default_factory=set)  # names of what was no request, for a refusal
    told: int = 0  # entries that speak of a request, left out or not

    def whole(self, found: Text) -> Found:
        if found.shape == "table":
            self._table(found)
        elif found.shape == "json":
            for number, value in enumerate(text.values(found.whole), 1):
                self._tried(f"entry {number}", self._value, value)
                self._check_count()
        else:
            self._lines(found)
        self._vllm_requests()
        if not len(self.times):
            raise InvalidTrace(self._nothing())
        return self._found()

    def _lines(self, found: Text) -> None:
        known, since = 0, 0  # what the log told so far, and the line that told it
        number = 0
        for number, line, logged in text.unwrapped(text.lines(found.whole)):
            self._tried(f"line {number}", self._line, line, logged)
            if (told := self.told + self.vllm.noted) > known:
                known, since = told, number
                self._check_count()
            elif number - since > limits.ACCESS_SILENT:
                fault = f"; {self.report.first_fault}" if self.report.first_fault else ""
                raise InvalidTrace(
                    f"{self.name} is no log of requests: {limits.ACCESS_SILENT} lines from line "
                    f"{since + 1} on tell of none{fault}"
                )

    def _tried(self, where: str, take: Callable[..., None], *given: Any) -> None:
        """One entry; one that cannot be read costs no other."""
        try:
            take(*given)
        except InvalidTrace:
            raise
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            self.report.fault(f"{where}: {str(error)[:200]}")

    def _line(self, line: str, logged: str) -> None:
        start = line.lstrip()
        if start.startswith("{"):
            self._value(json_text.parsed(start), logged)
        elif server_logs.is_sglang(line):
            self.told += 1
            ended, seconds, prompt, output = server_logs.of_sglang(line)
            at_s, kind = clock.point(ended)
            self._add(server_logs.SGLANG, at_s - seconds, kind, Counts(prompt, output))
        else:
            self.vllm.take(line, self.name)

    def _value(self, value: Any, logged: str = "") -> None:
        if isinstance(value, text.Damaged):
            raise ValueError(value.fault)
        if not isinstance(value, dict) or not value:
            raise ValueError("it is no JSON object, or an empty one")
        for each in expand.entries(value):
            self._entry(Entry(each, self.plans), logged)

    def _entry(self, entry: Entry, logged: str) -> None:
        form = entry.plan.form
        if form is None:
            form = entry.plan.form = next(each for each in formats.REQUESTS if each.fits(entry))
            if len(self.seen) < _MOST_SEEN:
                self.seen |= {*entry.level(())}
        if form.count is None:
            self._bench(entry, form)
            return
        if failures.is_of(entry):
            self.told += 1
            self.report.leave_out(FAILED)
            return
        counts = _counts(form, entry)
        if form.name == "OTel GenAI spans" and (
            entry.at("attributes/gen_ai.operation.name") in _SUMMING
        ):
            self.told += 1
            self.report.leave_out(SUMS)
            return
        if later := entry.at(expand.LATER):
            self.report.leave_out(LATER, int(later))
        key, time = entry.first(form.arrival)
        if counts.prompt is None and counts.output is None:
            if form.name == formats.PLAIN and not entry.has("usage") and not time:
                raise ValueError(f"none of {', '.join(formats.TIME[:6])} is there")
            if form.name != formats.PLAIN or entry.has("usage") or _speaks_of_tokens(entry):
                self.told += 1
                self.report.leave_out(UNANSWERED)
            return
        self.told += 1
        if counts.prompt is None or counts.output is None:
            missing = "prompt" if counts.prompt is None else "output"
            raise ValueError(f"the number of its {missing} tokens is not there")
        if time is None:
            if not logged:
                raise ValueError(f"none of {', '.join(formats.TIME[:6])} is there")
            time = logged
            note = "answers without a time: they arrive when their line was logged, which is late"
            if note not in self.report.notes:
                self.report.notes.append(note)
        at_s, kind = clock.point(time, self._unit(form, key), form.utc)
        self._add(form.name, at_s, kind, counts)

    def _unit(self, form: Format, key: str) -> str:
        """Of times that are numbers: as stated, as the format has it, as the key's name says; or none."""
        stated = "" if form.clock == "wall" else self.how.time_unit
        return stated or form.unit or clock.unit_of(key)

    def _bench(self, entry: Entry, form: Format) -> None:
        """The requests of one run of `vllm bench serve`, which lists each column of them."""
        columns = [entry.at(name) for name in ("start_times", "input_lens", "output_lens")]
        if not isinstance(columns[0], list):
            raise InvalidTrace(
                f"{self.name} is a result of vllm bench serve without start_times: run it with "
                "--save-result --save-detailed, of a vLLM that writes them"
            )
        errors = entry.at("errors")
        errors = errors if isinstance(errors, list) else [""] * len(columns[0])
        if (
            not all(isinstance(each, list) for each in columns)
            or len({len(each) for each in (*columns, errors)}) != 1
        ):
            raise InvalidTrace(
                f"{self.name}: start_times, input_lens and output_lens differ in length"
            )
        for number, (time, prompt, output, error) in enumerate(
            zip(*columns, errors, strict=True), 1
        ):
            self.told += 1
            if error:
                self.report.leave_out(FAILED)
                continue
            self._tried(f"request {number}", self._of_bench, form, time, prompt, output)

    def _of_bench(self, form: Format, time: Any, prompt: Any, output: Any) -> None:
        at_s, kind = clock.point(time, self.how.time_unit or form.unit)
        self._add(form.name, at_s, kind, Counts(count(prompt), count(output)))

    def _table(self, found: Text) -> None:
        rows = text.rows(found, self.name)
        columns = next(rows)
        self.seen = {names.plain(column) for column in columns}
        first = next(rows, None)
        form = self._form_of(columns, first or [])
        assert form.count is not None
        failing = failures.columns_of(columns)
        arrival = next(iter(_columns_of(columns, form.arrival)), None)
        assert arrival is not None
        unit = self._unit(form, columns[arrival])
        fast = _two_columns(form, columns)
        for number, row in enumerate(chain([first] if first else [], rows), 1):
            if len(row) != len(columns):
                raise InvalidTrace(
                    f"{self.name}: row {number} has {len(row)} fields, its header {len(columns)}; a "
                    "decimal comma makes two fields of a number, and ends of rows may be cut"
                )
            self.told += 1
            self._tried(
                f"row {number}", self._row, form, columns, row, failing, arrival, unit, fast
            )
            if not number % 4096:
                self._check_count()
        self._check_count()

    def _form_of(self, columns: list[str], first: list[str]) -> Format:
        """The format of a table, by its columns; a cell of the first row may hold an object."""
        cells = dict(zip(columns, first, strict=False))
        entry = Entry(
            dict.fromkeys(columns, 1) | {k: v for k, v in _objects(cells).items() if v != cells[k]}
        )
        form = next(each for each in formats.REQUESTS if each.fits(entry))
        counts = _counts(form, entry) if form.count else Counts(None, None)
        if counts.prompt is None or counts.output is None or not entry.first(form.arrival)[0]:
            raise InvalidTrace(self._nothing())
        return form

    def _row(
        self, form: Format, columns: list[str], row: list[str], failing: Sequence[int],
        arrival: int, unit: str, fast: tuple[int, int] | None,
    ) -> None:  # fmt: skip
        if failing and failures.is_of(
            Entry({columns[index]: row[index] for index in failing}, self.plans)
        ):
            self.report.leave_out(FAILED)
            return
        if fast is not None:
            told = [row[index] for index in fast]
            if not all(told):
                self.report.leave_out(UNANSWERED)
                return
            counts = Counts(count(told[0]), count(told[1]))
        else:
            counts = _counts(
                form, Entry(_objects(dict(zip(columns, row, strict=True))), self.plans)
            )
            if counts.prompt is None or counts.output is None:
                self.report.leave_out(UNANSWERED)
                return
        if form.name == "BurstGPT" and not counts.output:
            self.report.leave_out(FAILED)
            return
        at_s, kind = clock.point(row[arrival], unit, form.utc)
        self._add(form.name, at_s, kind, counts)

    def _add(self, form: str, at_s: float, kind: int, counts: Counts) -> None:
        assert counts.prompt is not None
        assert counts.output is not None
        if counts.prompt + counts.output == 0:
            self.report.leave_out(EMPTY)
            return
        self.times.add(at_s, kind)
        self.lengths.append(counts.prompt)
        self.lengths.append(counts.output)
        self.inexact.append(not counts.exact)
        self.report.formats[form] = self.report.formats.get(form, 0) + 1

    def _vllm_requests(self) -> None:
        for at_s, prompt, output in self.vllm.requests():
            self._add(server_logs.VLLM, at_s, clock.SECONDS, Counts(prompt, output))
        aborted, unanswered = self.vllm.left_out()
        self.report.leave_out(FAILED, aborted)
        self.report.leave_out(UNANSWERED, unanswered)

    def _check_count(self) -> None:
        if len(self.times) > limits.ACCESS_REQUESTS:
            raise InvalidTrace(
                f"{self.name} holds more than {limits.ACCESS_REQUESTS} requests: cut it in parts"
            )

    def _found(self) -> Found:
        is_own = {*self.report.formats} == {formats.OWN}
        settled = clock.settled(self.times, self.name, self.how, self.report, own=is_own)
        lengths = np.array(self.lengths, dtype=np.int64).reshape(-1, 2)[settled.kept]
        inexact = np.frombuffer(bytes(self.inexact), dtype=bool)[settled.kept]
        order = np.argsort(settled.at_s, kind="stable")
        self.report.estimated = int(inexact.sum())
        trace = RequestTrace(
            self.name,
            settled.at_s[order],
            lengths[order, 0],
            lengths[order, 1],
            start_wall_s=settled.start_wall_s,
        )
        return Found(trace, self.report)

    def _nothing(self) -> str:
        """Why nothing of the file can be taken: what was found, and what comes nearest."""
        parts = [f"{rows} {reason}" for reason, rows in self.report.left_out.items()]
        if self.report.first_fault:
            parts.append(self.report.first_fault)
        if self.seen:
            shown = ", ".join(sorted(self.seen)[:12])
            parts.append(
                f"found: {shown}; nearest format: {formats.nearest(self.seen, 'requests')}"
            )
        why = f" ({'; '.join(parts)})" if parts else ""
        advice = f"read are {formats.named('requests')}"
        if memory := formats.of_memory(self.seen):
            advice = f"this is memory in use ({memory}): give it as --memory-log or --trace"
        elif not self.seen:
            advice += "; a web server's log has no token counts: record with --proxy instead"
        return f"{self.name} holds no request whose arrival, prompt and output tokens are known{why}; {advice}"


def _counts(form: Format, entry: Entry) -> Counts:
    assert form.count is not None
    return form.count(entry)


def _objects(cells: dict[str, str]) -> dict[str, Any]:
    """The cells of a row; those that hold a JSON object as that."""
    found: dict[str, Any] = dict(cells)
    for name, cell in cells.items():
        if cell.startswith("{") and len(cell) < limits.CSV_ROW:
            try:
                found[name] = json_text.parsed(cell)
            except ValueError:
                continue
    return found


def _speaks_of_tokens(entry: Entry) -> bool:
    return any("token" in name for name in entry.level(()))


def _columns_of(columns: list[str], wanted: Iterable[str]) -> Iterator[int]:
    """Where the columns of some names stand, in the order of the names."""
    plain = [names.plain(column) for column in columns]
    for name in wanted:
        if names.plain(name) in plain:
            yield plain.index(names.plain(name))


def _two_columns(form: Format, columns: list[str]) -> tuple[int, int] | None:
    """Where prompt and output stand where no other column says anything of them: read without detours."""
    plain = {names.plain(column) for column in columns}
    parts = (*tokens.TOTAL, *tokens.BESIDE, "cached_tokens", "reasoning_tokens")
    if form.count is not formats.flat or plain & {*parts} - (
        {"total_tokens"} if form.name == "BurstGPT" else set()
    ):
        return None
    prompt = next(_columns_of(columns, tokens.PROMPT), None)
    output = next(_columns_of(columns, tokens.OUTPUT), None)
    return None if prompt is None or output is None else (prompt, output)
