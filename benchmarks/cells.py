"""CPU seconds of a bench's cells, method by method: where a bench spends them, and what is left of one.

    python benchmarks/cells.py [--scenario chat-bursty-8bit] [--out rapgym/bench/cell_times.json]

The cells of one scenario run one after the other in this process, in a bench's order. What is kept of
them is microseconds a row by method, over its seeds, and by kind: `rapgym bench` counts its cells by
that. `--list` prints each cell.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

from rapgym.bench import run as bench_run
from rapgym.bench.run import Task
from rapgym.files import provenance, writing
from rapgym.scenarios import catalogue, worlds

SCENARIO = "chat-bursty-8bit"  # one on which every method runs


def measured(scenario: str) -> list[tuple[Task, float]]:
    """Each cell of a scenario and the CPU seconds that it took."""
    story = catalogue.scenario(scenario)
    names, _ = bench_run.runnable([story], None)
    worlds.world(story, "test")
    tasks, found = bench_run.tasks([story], names, (0,)), []
    tasks[0].run()  # what is loaded once counts nowhere
    for task in tasks:
        begun_s = time.process_time()
        task.run()
        found.append((task, time.process_time() - begun_s))
    return found


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
    parser.add_argument("--list", action="store_true", help="print each cell")
    asked = parser.parse_args()
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
