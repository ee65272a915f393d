"""What run-time pruning is worth where requests wait: rules for the serving engine, tuned on train, on test.

`python -m rapgym.studies.serving` tunes every rule on stretches of train, each with as many settings as any
method may try, plays the whole test split with calibration's decisions and test columns, and lets searches
that know the future plan stretches of it. It writes `baselines/results/serving.json`.
"""

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rapgym.bench.serving import cells, score
from rapgym.bench.serving.cells import ServeCell
from rapgym.files import places, writing
from rapgym.jobs import parallel
from rapgym.jobs.progress import Progress
from rapgym.rollout import serve_search
from rapgym.scenarios import serving
from rapgym.scenarios.serving import ServeScenario

OUT = places.RESULTS / "serving.json"
Entry = dict[str, Any]


def rule(story: ServeScenario, name: str, *, searches: bool = False) -> tuple[Entry, ServeCell]:
    """One rule, tuned on train, on the whole of test, and its cell."""
    begun_s, cell = time.process_time(), cells.rule_cell(story, name, searches=searches)
    assert cell.whole is not None
    assert cell.about.train_cost is not None
    entry = score.told(cell.whole) | {
        "settings": dict(cell.about.settings),
        "train_cost": round(cell.about.train_cost, score.DECIMALS),
        "cpu_s": round(time.process_time() - begun_s),
    }
    return entry, cell


def searched(story: ServeScenario, search: serve_search.Search) -> Entry:
    """What one search that knows the future comes to on stretches of test."""
    begun_s, cell = time.process_time(), cells.search_cell(story, search)
    assert cell.stretches is not None
    return score.told(cell.stretches) | {"cpu_s": round(time.process_time() - begun_s)}


def beside(
    rules: dict[str, tuple[Entry, ServeCell]], reference: str, names: Iterable[str]
) -> dict[str, Entry]:
    """The cost of each rule less that of one of them, over the same parts."""
    known = {name: whole for name, (_, cell) in rules.items() if (whole := cell.whole) is not None}
    return {
        name: {
            field: score.number(value)
            for field, value in asdict(score.estimate(known[name], known[reference])).items()
        }
        for name in names
        if name != reference
    }


def studied(story: ServeScenario, *, searches: bool) -> Entry:
    """Everything of one scenario."""
    rules = {name: rule(story, name, searches=searches) for name in cells.KINDS}
    entry: Entry = {
        "scenario": story.id,
        "rules": {name: found for name, (found, _) in rules.items()},
        "against_lookup": beside(rules, cells.LOOKUP, [*rules]),
        "patient_against_lookup": beside(rules, cells.PATIENT_LOOKUP, [*cells.PATIENT]),
    }
    if searches:
        entry["stretches"] = {
            "parts": [asdict(part) for part in cells.stretches(story)],
            "rules": {
                name: score.told(cell.stretches)
                for name, (_, cell) in rules.items()
                if cell.stretches is not None
            },
            "searches": {search.name: searched(story, search) for search in serve_search.SEARCHES},
        }
    return entry


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scenario", action="append", metavar="NAME", help="all unless named")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE")
    parser.add_argument("--jobs", type=int, default=parallel.processors(), metavar="N")
    parser.add_argument("--no-search", action="store_true", help="rules alone")
    arguments = parser.parse_args()
    stories = [serving.story_of(name) for name in arguments.scenario or ()] or [*serving.shipped()]
    entries: dict[int, Entry] = {}
    with Progress("serving", len(stories)) as progress:
        tasks = [partial(studied, story, searches=not arguments.no_search) for story in stories]
        for place, entry in parallel.results(tasks, arguments.jobs):
            entries[place] = entry
            progress.advance(note=entry["scenario"])
    with writing.written_aside(arguments.out) as file:
        listed = [entries[place] for place in range(len(stories))]
        file.write((json.dumps({"scenarios": listed}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
