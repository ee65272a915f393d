"""CPU seconds of a bench's cells, method by method: where a bench spends them, and what is left of one.

    python benchmarks/cells.py [--scenario chat-bursty-8bit] [--out rapgym/bench/cell_times.json]
    python benchmarks/cells.py --record tests/bench/recorded_bench.json
    NUMBA_CACHE_DIR=$(mktemp -d) python benchmarks/cells.py --record tests/bench/recorded_cold_bench.json

The cells of one scenario run one after the other in this process, in a bench's order. What is kept of
them is microseconds a row by method, over its seeds, and by kind: `rapgym bench` counts its cells by
that. `--list` prints each cell. `--record` runs a whole bench as `rapgym bench` does, two cells at a time, and
keeps when each cell ended: what a test holds the time left against.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import Any, ClassVar

from rapgym.bench import run as bench_run
from rapgym.bench.expected import Expected
from rapgym.bench.run import Task
from rapgym.files import provenance, writing
from rapgym.scenarios import catalogue, worlds

SCENARIO = "chat-bursty-8bit"  # one on which every method runs


def measured(scenario: str) -> list[tuple[Task, float]]:
    """Each cell of a scenario and the CPU seconds that it took."""
    story = catalogue.scenario(scenario)
    names, _ = bench_run.runnable([story], None)
    worlds.world(story, "test")
    tasks, spent = bench_run.tasks([story], names, (0,)), list[list[float]]()
    for task in tasks:
        spent.append([])
        for _ in range(2):  # what is loaded once counts nowhere
            begun_s = time.process_time()
            task.run()
            spent[-1].append(time.process_time() - begun_s)
    return [(task, min(each)) for task, each in zip(tasks, spent, strict=True)]


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
    work = sorted(bench_run.tasks(stories, names, (0,)), key=lambda task: -task.rows)
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


def kept(cells: list[tuple[Task, float]]) -> dict[str, Any]:
    """What `rapgym.bench.expected` reads."""
    spent, kinds = dict[str, list[float]](), dict[str, list[float]]()
    for task, seconds in cells:
        spent.setdefault(task.entrant.name, []).append(1e6 * seconds / task.rows)
    kind_of = {task.entrant.name: task.entrant.kind for task, _ in cells}
    methods = {name: round(mean(each), 1) for name, each in spent.items()}
    for name, each in methods.items():
        kinds.setdefault(kind_of[name], []).append(each)
    return {
        "us_a_row": dict(sorted(methods.items())),
        "kinds_us_a_row": {kind: round(median(each), 1) for kind, each in sorted(kinds.items())},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scenario", default=SCENARIO)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--list", action="store_true", help="print each cell")
    asked = parser.parse_args()
    if asked.record:
        with writing.written_aside(asked.record) as file:
            file.write((json.dumps(recorded(jobs=2)) + "\n").encode())
        return
    cells = measured(asked.scenario)
    if asked.list:
        for task, seconds in cells:
            print(f"{task.name:<28}{seconds:8.2f} s")
    print(f"{len(cells)} cells of {asked.scenario}: {sum(s for _, s in cells):.1f} CPU seconds")
    if asked.out:
        about = {"command": "python benchmarks/cells.py --out rapgym/bench/cell_times.json",
                 "scenario": asked.scenario, "commit": provenance.commit()}  # fmt: skip
        with writing.written_aside(asked.out) as file:
            file.write((json.dumps({**about, **kept(cells)}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
