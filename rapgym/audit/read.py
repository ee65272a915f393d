"""Reading an audit log: every line that holds, and a sentence for each place that does not.

A log may come from anybody: it is read line by line, as JSON, with a limit on the length of a line.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rapgym.audit.chain import FIRST, FORMAT, START, Head, link_of
from rapgym.audit.record import LATEST_US, Field
from rapgym.errors import DataUnavailable, InvalidResult
from rapgym.files import incoming, limits

KINDS = ("open", "close", "context", "decision", "gap")
MOST_STRETCHES = 1000


@dataclass(frozen=True, slots=True)
class Line:
    """A line whose sha256 is that of its bytes."""

    head: Head
    previous: str
    kind: str
    fields: dict[str, Any]

    def stated(self, fields: Iterable[Field]) -> dict[str, Any]:
        """What the line says of each of some fields, by name.

        Raises:
            InvalidResult: it lacks one, or one is out of its range.
        """
        values = dict[str, Any]()
        for field in fields:
            if field.name not in self.fields:
                raise InvalidResult(f"line {self.head.seq} has no {field.name}")
            value = self.fields[field.name]
            if not field.holds(value):
                raise InvalidResult(
                    f"line {self.head.seq} holds what no decision has: {field.name}"
                )
            values[field.name] = None if value is None else field.kind.read(value)
        return values


@dataclass(frozen=True, slots=True)
class Fault:
    """Where a log does not hold, in a sentence."""

    sentence: str

    def __str__(self) -> str:
        return self.sentence


def lines(path: Path, kept: Head | None = None) -> Iterator[Line | Fault]:
    """Every line of a log that holds, in the file's order, and what is wrong between them.

    Args:
        kept: a head that somebody kept: what it says must still be so.

    Raises:
        DataUnavailable: there is no such file.
        InvalidResult: it is no audit log, or of another format.
    """
    with ExitStack() as ends:
        try:
            file = ends.enter_context(incoming.opened(path))
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            why = getattr(error, "strerror", None) or error
            raise DataUnavailable(f"no audit log at {str(path)!r} ({why})") from error
        faults = 0
        for each in _lines(path, file, kept):
            yield each
            faults += isinstance(each, Fault)
            if faults == limits.AUDIT_FAULTS:
                yield Fault(f"{faults} places do not hold: the rest of the log is not read")
                return


def _lines(path: Path, file: IO[bytes], kept: Head | None) -> Iterator[Line | Fault]:
    first = file.readline(limits.AUDIT_LINE + 1)
    if not first:
        raise InvalidResult(f"{path} is empty: no line of an audit log is left")
    if not first.startswith(b'{"seq":'):
        raise InvalidResult(f"{path} is no audit log, or cut in its first bytes")
    chain = _Chain(kept)
    raw, number = first, 1
    while raw:
        if not raw.endswith(b"\n"):
            yield from _unended(raw, chain)
            while len(raw) > limits.AUDIT_LINE and not raw.endswith(b"\n"):
                raw = file.readline(limits.AUDIT_LINE + 1)
        else:
            yield from chain.follow(raw[:-1], number)
        raw, number = file.readline(limits.AUDIT_LINE + 1), number + 1
    yield from chain.end()


def _unended(raw: bytes, chain: "_Chain") -> Iterator[Fault]:
    place = f"after line {chain.last.seq}" if chain.last.seq >= 0 else "at the beginning"
    if len(raw) > limits.AUDIT_LINE:
        yield Fault(f"{place} stands a line longer than {limits.AUDIT_LINE} bytes: it is not read")
    else:
        yield Fault(
            f"{place} the log is cut, or being written: {len(raw)} bytes are left of line {chain.last.seq + 1}; it is "
            "gone, and whatever followed it"
        )


class _Chain:
    """What lines say of each other, while they go by."""

    def __init__(self, kept: Head | None) -> None:
        self.last, self.kept = START, kept
        self.spoiled = 0  # lines since `last` that cannot be relied on
        # First and last line of stretches that lack: of so many that a hostile log costs no time.
        self.missing: list[tuple[int, int]] = []

    def follow(self, raw: bytes, number: int) -> Iterator[Line | Fault]:
        found = parsed(raw)
        if isinstance(found, str):
            self.spoiled += 1
            yield Fault(f"line {number} of the file {found}: it stands after line {self.last.seq}")
            return
        yield from self._place(found)
        if self.kept is not None and found.head.seq == self.kept.seq:
            if found.head.sha256 != self.kept.sha256:
                yield Fault(f"line {self.kept.seq} is not the one whose sha256 was kept")
            self.kept = None

    def _place(self, found: Line) -> Iterator[Line | Fault]:
        seq, last = found.head.seq, self.last
        if seq <= last.seq:
            stretch = next((each for each in self.missing if each[0] <= seq <= each[1]), None)
            yield Fault(f"line {seq} stands after line {last.seq}: it was moved or doubled")
            if stretch is not None:
                yield found
            return
        lacking = seq - last.seq - 1
        if lacking:
            if len(self.missing) < MOST_STRETCHES:
                self.missing.append((last.seq + 1, seq - 1))
            if lacking > self.spoiled:
                what = "missing or damaged" if self.spoiled else "missing"
                yield Fault(f"{_stretch(last.seq + 1, seq - 1)} {what} before line {seq}")
        elif found.previous != last.sha256:
            yield Fault(
                f"line {seq} does not follow the line before it: one of the two was replaced"
            )
        elif found.head.decisions != last.decisions + (found.kind == "decision"):
            yield Fault(f"line {seq} counts {found.head.decisions} decisions, which cannot be")
        self.last, self.spoiled = found.head, 0
        yield found

    def end(self) -> Iterator[Fault]:
        if self.kept is not None:
            last = self.last.seq
            if self.kept.seq > last:
                yield Fault(
                    f"{_stretch(last + 1, self.kept.seq)} gone from the end: a head was kept"
                )
            else:
                yield Fault(f"line {self.kept.seq}, whose sha256 was kept, cannot be read")


def _stretch(first: int, last: int) -> str:
    return f"line {first} is" if first == last else f"lines {first} to {last} are"


def parsed(raw: bytes) -> Line | str:
    """The line that these bytes are, or what is wrong with them."""
    linked = link_of(raw)
    try:
        found = json.loads(raw, parse_constant=_refused, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return "cannot be read"
    if not isinstance(found, dict):
        return "cannot be read"
    if linked is None:
        seq = found.get("seq")
        named = f" (it calls itself line {seq})" if type(seq) is int else ""
        return f"was changed: its sha256 is not that of its bytes{named}"
    head, previous = linked
    kind, time_us = found.get("kind"), found.get("time_us")
    if kind not in KINDS or type(time_us) is not int or not 0 <= time_us <= LATEST_US:
        return "is of no kind that this version reads"
    if head.seq == 0 and (kind != "open" or previous != FIRST):
        return "is no first line of a log"
    if kind == "open" and found.get("format") != FORMAT:
        return f"is of format {found.get('format')!r}, which this version does not read"
    return Line(head, previous, str(kind), found)


def _refused(constant: str) -> Any:
    raise ValueError(constant)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which no name stands twice: two programs would read two things."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found
