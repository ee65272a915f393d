"""In which order a writer's lines can stand, and what a decision can say: what no writer produces.

A chain of hashes can be computed anew by whoever forges a log. What is forged without care still shows:
a writer states that it begins and ends, its time never runs back, and it decides once for a lane at a
time.
"""

from collections.abc import Iterator

from rapgym.audit.context import AuditContext
from rapgym.audit.read import Line
from rapgym.audit.record import Record
from rapgym.audit.serving.record import ServeRecord
from rapgym.guard.watchdog import Mode

STATES = frozenset(mode.name.lower() for mode in Mode)
LEAST_EXCESS = 1e-6  # nats above C that are no rounding


class Writers:
    """What the lines so far allow for the next one."""

    def __init__(self) -> None:
        self._open = self._closed = False
        self._last_us = 0
        self._lanes: set[int] = set()  # that decided at that time

    def follow(self, line: Line) -> Iterator[str]:
        """What is wrong with a line's place, in the order of the file."""
        number, time_us = line.head.seq, int(line.fields["time_us"])
        if line.kind == "open":
            self._open, self._last_us, self._lanes = True, time_us, set()
            return
        # What a writer could not write is the last thing that it says, after its close.
        last_word = line.kind == "gap" and self._closed
        self._closed = line.kind == "close"
        if not self._open and not last_word:
            yield f"line {number} ({line.kind}) stands where no writer has begun, or after its close"
        if time_us < self._last_us:
            yield f"line {number}: time runs back by {self._last_us - time_us} us"
        if time_us != self._last_us:
            self._lanes = set()
        self._last_us = max(time_us, self._last_us)
        if line.kind == "close":
            self._open = False

    def decided(self, record: Record | ServeRecord) -> str | None:
        """What is wrong with a decision that stands in the line that was followed last."""
        if record.lane is None:
            return None
        twice = record.lane in self._lanes
        self._lanes.add(record.lane)
        return f"lane {record.lane} decides twice at the same time" if twice else None


def impossible(context: AuditContext, record: Record) -> str | None:
    """What a decision says that cannot be, whatever was decided; None where there is nothing."""
    if record.watchdog is not None and record.watchdog not in STATES:
        return f"no watchdog has the state {record.watchdog}"
    if record.second >= context.window_s:
        return f"second {record.second} of a row of {context.window_s} s"
    if record.second and record.cost is not None:
        return "a fall inside a row has a cost of its own"
    if record.cost is None:
        return None
    quality, *unserved = (0.0 if term is None else term for term in record.cost)
    most = context.ceiling + LEAST_EXCESS
    if min(unserved) < 0 or quality > most or sum(unserved) > most:
        return "its cost is none that a row can have"
    return None
