"""What is left of a bench in seconds: cells cost unlike, so they count by what they are known to take.

What a cell takes is first known from a measurement that is kept (`benchmarks/cells.py`), of two scenarios.
As a run goes on, its own cells correct that: all of them its pace, those of one method what that method takes
beside the others. Medians tell both, for some cells pay for what others use: the first one of a scenario reads
its files. What cells waited for code to be compiled, as where none is kept yet, stands
apart: methods that are still to come wait as long as those that have ended, at the median.
"""

import heapq
import json
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, islice
from statistics import median
from typing import Any, NamedTuple

from rapgym.files import compiling, places

MEMORY = 0.2  # share of a run whose cells tell how quick the machine is now
LEAST_S = 1e-9  # so that nothing is divided by 0


@lru_cache
def measured_us() -> Mapping[str, Mapping[str, tuple[float, float]]]:
    """Microseconds of a cell and of each of its rows, of each method by name and of each kind by medians."""
    found = json.loads(places.CELL_TIMES.read_text())
    return {
        "methods": found["us_a_cell_and_a_row"],
        "kinds": found["kinds_us_a_cell_and_a_row"],
    }


def prior_s(method: str, kind: str, rows: int) -> float:
    """Seconds that a cell takes by the kept measurement, above 0.

    Args:
        rows: of its scenario, in all pairings together.
    """
    known = measured_us()
    usual = known["kinds"].get(kind, known["kinds"]["reactive"])
    cell_us, row_us = known["methods"].get(method, usual)
    return max(LEAST_S, 1e-6 * (cell_us + rows * row_us))


class Spent(NamedTuple):
    """Seconds of a call by the clock."""

    seconds: float  # compiling aside
    compiling_s: float  # for which it waited


@dataclass(frozen=True, slots=True)
class Timed:
    """A call that says what it spent, beside what it returned; picklable if the call is."""

    call: Callable[[], Any]

    def __call__(self) -> tuple[Any, Spent]:
        begun_s, waited_s = time.perf_counter(), compiling.waited_s()
        found = self.call()
        spent_s, waited_s = time.perf_counter() - begun_s, compiling.waited_s() - waited_s
        return found, Spent(max(0.0, spent_s - waited_s), waited_s)


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
        self._whole = sum(prior for _, prior in cells)
        self._waiting = dict.fromkeys(range(len(cells)))  # in their order
        self._begun_s = dict[int, float]()  # of those that are under way
        self._elapsed_s = self._spent_s = 0.0
        self._begin()
        # Of cells that ended: what they took over what they counted, and kept seconds, which are its weight.
        self._times = list[tuple[float, float]]()
        # Of each method that has ended: what its cells took over kept seconds, the pace aside.
        self._beside = dict[str, list[float]]()
        self._compiling_s = dict[str, float]()  # for which they waited, likewise

    def ended(self, cell: int, seconds: float, elapsed_s: float, compiling_s: float = 0.0) -> None:
        """A cell has ended that took so many seconds, so long after the first one began.

        Args:
            compiling_s: for which it waited beside them.
        """
        method, prior = self._cells[cell]
        self._waiting.pop(cell, None)
        self._begun_s.pop(cell, None)
        self._elapsed_s, self._spent_s = elapsed_s, self._spent_s + seconds + compiling_s
        self._begin()
        self._compiling_s[method] = self._compiling_s.get(method, 0.0) + compiling_s
        took = max(seconds, LEAST_S)
        self._times.append((took / self._count(cell), prior))
        self._beside.setdefault(method, []).append(took / prior / self._pace)

    def _begin(self) -> None:
        """Of those that wait, the first begin as soon as there is room."""
        room = (self._jobs or 1) - len(self._begun_s)
        for cell in [*islice(self._waiting, room)]:
            del self._waiting[cell]
            self._begun_s[cell] = self._elapsed_s

    @property
    def left_s(self) -> float:
        """Seconds by the clock until all have ended; NaN before the first one has."""
        if not self._beside:
            return float("nan")
        side_by_side = self._spent_s / max(self._elapsed_s, LEAST_S)
        jobs = self._jobs or max(1, round(side_by_side))
        left = self._left([*self._begun_s, *self._waiting])
        gone = [self._elapsed_s - begun_s for begun_s in self._begun_s.values()]
        free = [max(0.0, seconds - ago_s) for seconds, ago_s in zip(left, gone, strict=False)]
        free = sorted([*free, *[0.0] * (jobs - len(free))])
        for seconds in left[len(gone) :]:  # each begins where one is free first
            heapq.heapreplace(free, free[0] + seconds)
        # One after the other, what is done between cells takes its time too.
        return max(free) * (max(1.0, 1 / side_by_side) if jobs == 1 and side_by_side else 1.0)

    def _left(self, cells: Iterable[int]) -> list[float]:
        """What each of these cells will take, from its beginning, seconds."""
        pace, compiling_s = self._pace, median(self._compiling_s.values())
        seen, found = {*self._beside}, list[float]()
        for cell in cells:
            method = self._cells[cell][0]
            found.append(pace * self._count(cell) + (0.0 if method in seen else compiling_s))
            seen.add(method)
        return found

    @property
    def _pace(self) -> float:
        """Seconds that a second of what cells count takes now: the weighted median of the last ones."""
        late, weight = list[tuple[float, float]](), 0.0
        for times, prior in reversed(self._times):
            late.append((times, prior))
            weight += prior
            if weight >= MEMORY * self._whole:
                break
        late.sort()
        below = [*accumulate(prior for _, prior in late)]
        return late[bisect_left(below, below[-1] / 2)][0]

    def _count(self, cell: int) -> float:
        """What a cell counts: by its method's own cells, as far as there are any."""
        method, prior = self._cells[cell]
        return prior * median([1.0, *self._beside.get(method, ())])
