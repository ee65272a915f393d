"""Seconds of a bench's cells, method by method: where a bench spends them, and what is left of one.

    python benchmarks/cells.py [--out rapgym/bench/cell_times.json]
    python benchmarks/cells.py --record tests/bench/recorded_bench.json
    NUMBA_CACHE_DIR=$(mktemp -d) python benchmarks/cells.py --record tests/bench/recorded_cold_bench.json

The cells of two scenarios run one after the other in this process, in a bench's order. What is kept of them
is what a cell of each method takes however few its rows, and what a row adds, over its seeds, and medians of
each kind: `rapgym bench` counts its cells by that. `--record` runs a whole bench as `rapgym bench` does, two
cells at a time, and keeps when each cell ended: what a test holds the time left against.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean, median
from typing import Any, ClassVar

from rapgym.bench import run as bench_run
from rapgym.bench.expected import Expected, Timed
from rapgym.files import provenance, writing
from rapgym.scenarios import catalogue

Measured = dict[str, tuple[str, int, float]]  # kind, rows and seconds of a method's cell
SCENARIOS = ("chat-bursty-8bit", "code-8bit")  # of unlike length, on which every method runs


def measured(scenario: str) -> Measured:
    """Each method on a scenario, compiling aside; the mean over its seeds."""
    story, spent = catalogue.scenario(scenario), dict[str, list[float]]()
    names, _ = bench_run.runnable([story], None)
    work = bench_run.tasks([story], names, (0,))
    work[0].run()  # what a scenario loads once counts nowhere
    for task in work:
        spent.setdefault(task.entrant.name, []).append(Timed(task.run)()[1].seconds)
    return {
        task.entrant.name: (task.entrant.kind, task.rows, mean(spent[task.entrant.name]))
        for task in work
    }


def kept(short: Measured, long: Measured) -> dict[str, Any]:
    """What `rapgym.bench.expected` reads: of each method a cell's own microseconds, and those of a row."""
    methods, kinds = dict[str, tuple[float, float]](), dict[str, list[tuple[float, float]]]()
    for name, (kind, rows, seconds) in short.items():
        _, more_rows, longer_s = long[name]
        row_us = max(0.0, 1e6 * (longer_s - seconds) / (more_rows - rows))
        cell_us = max(0.0, 1e6 * seconds - rows * row_us)
        methods[name] = round(cell_us, 1), round(row_us, 2)
        kinds.setdefault(kind, []).append(methods[name])
    return {
        "us_a_cell_and_a_row": dict(sorted(methods.items())),
        "kinds_us_a_cell_and_a_row": {
            kind: [median(part) for part in zip(*each, strict=True)]
            for kind, each in sorted(kinds.items())
        },
    }


class Recording(Expected):
    """What is left of a bench, and what became of its cells."""

    # Of each cell: which it is, its seconds, seconds from the run's beginning, seconds that it waited for compiling.
    ends: ClassVar[list[tuple[float, ...]]] = []

    def ended(self, cell: int, seconds: float, elapsed_s: float, compiling_s: float = 0.0) -> None:
        super().ended(cell, seconds, elapsed_s, compiling_s)
        self.ends.append((cell, *(round(each, 3) for each in (seconds, elapsed_s, compiling_s))))


def recorded(jobs: int) -> dict[str, Any]:
    """A whole bench: its cells in the order in which they begin, and how they ended."""
    stories = list(catalogue.by_default())
    names, _ = bench_run.runnable(stories, None)
    work = bench_run.tasks(stories, names, (0,))
    work = [work[i] for i in bench_run.longest_first(work)]
    vars(bench_run)["Expected"] = Recording
    with tempfile.TemporaryDirectory() as folder:
        bench_run.run(stories, names, Path(folder) / "bench.csv.xz", jobs=jobs)
    return {
        "about": "cells of a bench as they begin: method, kind, rows of the scenario; ends: which cell, its "
        "seconds, seconds since the run began, seconds that it waited for code to be compiled",
        "jobs": jobs,
        "cells": [[task.entrant.name, task.entrant.kind, task.rows] for task in work],
        "ends": Recording.ends,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--record", type=Path)
    asked = parser.parse_args()
    if asked.record:
        with writing.written_aside(asked.record) as file:
            file.write((json.dumps(recorded(jobs=2)) + "\n").encode())
        return
    short, long = (measured(scenario) for scenario in SCENARIOS)
    for name, (_, _, seconds) in short.items():
        print(f"{name:<28}{seconds:8.2f} s{long[name][2]:8.2f} s")
    if asked.out:
        about = {"command": "python benchmarks/cells.py --out rapgym/bench/cell_times.json",
                 "scenarios": SCENARIOS, "commit": provenance.commit()}  # fmt: skip
        with writing.written_aside(asked.out) as file:
            file.write((json.dumps({**about, **kept(short, long)}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
