"""What the long days say: the questions of the field, and what each day of test costs.

`rapgym bench --scenario NAME $(python -m rapgym.studies.days --entrants NAME)` runs one of them; this reads
each such file that is published and writes `baselines/results/days.json`, so that pages need not draw
fourteen days. Four days are fewer than a claim by days needs: intervals are by hours, and each day's cost
stands beside them, so that a reader sees whether one day decides.

Rows coarser than those that were served could not be replayed, and what is read of a results file is bounded
(`limits.RESULTS` and `limits.RESULT_ROWS`, which bound memory). So `days-mid` and `days-small`, with 2.3 and 3.5
times the rows of `days-large`, are benched with fewer entrants: those that the questions and the tables of days
name, and of those that learn as many as there is room for. Who is missing is listed in `left_out` and `untrained`.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rapgym.bench import entrants, results
from rapgym.bench.cells import BOUND, LOOKUP
from rapgym.bench.pieces import SECONDS
from rapgym.bench.results import Cell, Results
from rapgym.files import places, writing
from rapgym.report import questions
from rapgym.rollout.log import weighted_mean
from rapgym.scenarios import catalogue
from rapgym.scenarios.story import Scenario

OUT = places.RESULTS / "days.json"
FEWER = (
    "static-best", "static-best-repaired", "keep-all", "gsi", "frontier", "frontier-margin",
    "frontier-recent", "frontier-hysteresis", "forecast", "int8-int8-kv", "int4-int8-kv",
    "int4-int8-kv-admission", "partial-admission",
)  # fmt: skip
# Asked for where not all are; those that are always run come on top.
ASKED = {
    "days-mid": (*FEWER, "random", "hindsight", "dqn", "maskable_ppo", "ppo_counts"),
    "days-small": (*FEWER, "hindsight"),
}
Entry = dict[str, Any]


def asked_for(story: Scenario) -> tuple[str, ...]:
    """Whom bench is asked for on a scenario of days: as many as its file can hold."""
    if story.name in ASKED:
        return ASKED[story.name]
    return tuple(each.name for each in entrants.every() if each.is_ready(story))


def files(folder: Path = places.RESULTS) -> list[Path]:
    """The published results of scenarios of days: a file each, named as the scenario is."""
    stories = (story for story in catalogue.shipped() if story.group == "days")
    paths = (folder / f"{story.name}.csv.xz" for story in stories)
    return [path for path in paths if path.is_file()]


def by_day(cell: Cell, window_s: int) -> list[float]:
    """What each day of a cell's rows costs with test columns; less than half a day counts to the last."""
    count = max(1, round(len(cell.log) * window_s / SECONDS["day"]))
    day = np.minimum(np.arange(len(cell.log)) * window_s // SECONDS["day"], count - 1)
    costs = (
        weighted_mean(cell.test_cost[day == each], cell.log.output_tokens[day == each])
        for each in range(count)
    )
    return [round(cost, results.DECIMALS) for cost in costs]


def missing(found: Results, story: Scenario) -> dict[str, list[str]]:
    """What has no cell: `untrained`, for no training run is of this scenario; `left_out` of this bench."""
    run = {cell.about.policy for cell in found.cells}
    absent = [each for each in entrants.every() if each.name not in run]
    return {
        "untrained": [e.name for e in absent if entrants.learns(e) and not e.is_ready(story)],
        "left_out": [e.name for e in absent if e.is_ready(story)],
    }


def studied(found: Results) -> Iterator[Entry]:
    """Of each scenario of a results file: answers to the questions, costs by day, who is missing."""
    for name in found.header["scenarios"]:
        story, cells = catalogue.scenario(name), found.of(name)
        alone = Results(
            found.header, tuple(cells), tuple(s for s in found.scores if s.scenario == name)
        )
        days = {
            cell.about.policy: by_day(cell, story.window_s)
            for cell in cells
            if cell.about.seed == 0
        }
        yield {
            "scenario": name,
            "rows": sum(cell.log.row.size for cell in cells),
            **missing(alone, story),
            "days": {policy: costs for policy, costs in days.items() if policy != BOUND},
            "lookup_less_bound": [
                round(ours - least, results.DECIMALS)
                for ours, least in zip(days[LOOKUP], days[BOUND], strict=True)
            ],
            "questions": [
                {
                    "asked": each.asked,
                    "hypothesis": each.hypothesis,
                    "verdict": answer.verdict if answer else None,
                    "number": answer.number if answer else "",
                }
                for each in questions.all_asked(alone, None)
                for _, answer in each.answers
            ],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE")
    parser.add_argument(
        "--entrants", metavar="SCENARIO", help="print what bench is asked for on it instead"
    )
    arguments = parser.parse_args()
    if arguments.entrants:
        story = catalogue.scenario(arguments.entrants)
        print(*(f"--policy {name}" for name in asked_for(story)))
        return
    listed = [entry for path in files() for entry in studied(results.read(path))]
    if not listed:
        parser.exit(2, f"no results of days lie in {places.RESULTS}; make one: rapgym bench\n")
    with writing.written_aside(arguments.out) as file:
        file.write((json.dumps({"scenarios": listed}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
