"""What is left of a bench in seconds: cells cost unlike, so they count by what they are known to take.

What a cell takes is first known from a measurement that is kept (`benchmarks/cells.py`), of one scenario
and by the row. As a run goes on, its own cells correct that: all of them its pace, those of one method
what that method takes beside the others.
"""

import heapq
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from statistics import median
from typing import Any, TypeVar

from rapgym.files import places

Answer = TypeVar("Answer")

# A kept measurement counts as so many cells of a method beside those that this run has measured.
TRUST = 1.0
# Share of a run whose cells tell how quick the machine is now.
MEMORY = 0.2
LEAST_S = 1e-9


@lru_cache
def measured_us() -> Mapping[str, Mapping[str, float]]:
    """CPU microseconds a row, of each method by name and of each kind of them by its median."""
    found = json.loads(places.CELL_TIMES.read_text())
    return {"methods": found["us_a_row"], "kinds": found["kinds_us_a_row"]}


def prior_s(method: str, kind: str, rows: int) -> float:
    """Seconds that a cell takes by the kept measurement.

    Args:
        rows: of its scenario, in all pairings together.
    """
    known = measured_us()
    usual = known["kinds"].get(kind, median(known["kinds"].values()))
    return 1e-6 * rows * known["methods"].get(method, usual)


@dataclass(frozen=True, slots=True)
class Timed:
    """A call that says how many seconds it took, beside what it returned; picklable if the call is."""

    call: Callable[[], Any]

    def __call__(self) -> tuple[Any, float]:
        begun_s = time.perf_counter()
        found = self.call()
        return found, time.perf_counter() - begun_s


class Expected:
    """Cells in the order in which they begin, and what those that are left will take.

    A cell counts as its kept seconds, corrected by what its method took in this run beside others. How
    long such a second lasts is told by the last cells, for machines are busy at times.
    """

    def __init__(self, cells: Sequence[tuple[str, float]], jobs: int | None = None) -> None:
        """Args:
        cells: each one's method, and its seconds by the kept measurement, above 0.
        jobs: how many run side by side; None where that is not known.
        """
        self._cells, self._jobs = cells, jobs
        self._waiting = dict.fromkeys(range(len(cells)))  # in their order
        self._begun_s = dict[int, float]()  # of those that are under way
        self._elapsed_s = 0.0
        self._begin()
        self._memory = MEMORY * sum(prior for _, prior in cells)
        # Of cells that ended, by method: kept seconds, and what they were in this run.
        self._prior, self._took = dict[str, float](), dict[str, float]()
        # Of the last ones: what they counted, what they took, and how long that was by the clock.
        self._counted = self._spent = self._clock_s = 0.0

    def ended(self, cell: int, seconds: float, elapsed_s: float) -> None:
        """A cell has ended that took so many seconds, so long after the first one began."""
        method, prior = self._cells[cell]
        self._waiting.pop(cell, None)
        self._begun_s.pop(cell, None)
        stays = max(0.0, 1.0 - prior / self._memory)
        self._counted = stays * self._counted + self._count(cell)
        self._spent = stays * self._spent + seconds
        self._clock_s = stays * self._clock_s + elapsed_s - self._elapsed_s
        self._elapsed_s = elapsed_s
        self._begin()
        self._prior[method] = self._prior.get(method, 0.0) + prior
        took = seconds * self._counted / max(self._spent, LEAST_S)
        self._took[method] = self._took.get(method, 0.0) + took

    def _begin(self) -> None:
        """Of those that wait, the first begin as soon as there is room."""
        room = (self._jobs or 1) - len(self._begun_s)
        for cell in [*islice(self._waiting, room)]:
            del self._waiting[cell]
            self._begun_s[cell] = self._elapsed_s

    @property
    def left_s(self) -> float:
        """Seconds by the clock until all have ended; NaN before the first one has."""
        if not self._counted:
            return float("nan")
        pace = self._spent / self._counted
        jobs = self._jobs or max(1, round(self._spent / max(self._clock_s, LEAST_S)))
        free = [
            max(0.0, pace * self._count(cell) - (self._elapsed_s - begun_s))
            for cell, begun_s in self._begun_s.items()
        ]
        free = sorted([*free, *[0.0] * (jobs - len(free))])
        for cell in self._waiting:  # each begins where one is free first
            heapq.heapreplace(free, free[0] + pace * self._count(cell))
        # One after the other, what is done between cells takes its time too.
        between = max(1.0, self._clock_s / max(self._spent, LEAST_S)) if jobs == 1 else 1.0
        return max(free) * between

    def _count(self, cell: int) -> float:
        """What a cell counts: by its method's own cells, as far as there are any."""
        method, prior = self._cells[cell]
        trusted = TRUST * prior
        took = self._took.get(method, 0.0) + trusted
        return prior * took / (self._prior.get(method, 0.0) + trusted)
