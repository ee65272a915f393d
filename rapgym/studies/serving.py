"""What run-time pruning is worth where requests wait: rules for the serving engine, tuned on train, on test.

`python -m rapgym.studies.serving` tunes every rule on stretches of train, each with as many settings as any
method may try, plays the whole test split with calibration's decisions and test columns, and lets searches
that know the future plan stretches of it. It writes `baselines/results/serving.json`; a run that was
stopped goes on where it stopped, rule by rule.
"""

import argparse
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rapgym.bench.serving import cells, score
from rapgym.bench.serving import run as serving_bench
from rapgym.files import places, writing
from rapgym.jobs import kept, parallel
from rapgym.jobs.progress import Progress
from rapgym.rollout import serve_search
from rapgym.rollout.serving import Served
from rapgym.scenarios import serving, serving_worlds
from rapgym.scenarios.serving import ServeScenario
from rapgym.serving.world import Part, traffic_sha256

OUT = places.RESULTS / "serving.json"
Entry = dict[str, Any]


def part(story: ServeScenario, name: str, *, searches: bool) -> Entry:
    """What one rule or search comes to, as JSON: a run that was stopped takes it up again."""
    search = next((each for each in serve_search.SEARCHES if each.name == name), None)
    return rule(story, name, searches=searches) if search is None else searched(story, search)


def names(*, searches: bool) -> list[str]:
    """The parts of a scenario: its rules, then the searches that know the future."""
    return [*cells.KINDS, *(each.name for each in serve_search.SEARCHES if searches)]


def rule(story: ServeScenario, name: str, *, searches: bool = False) -> Entry:
    """One rule, tuned on train, on the whole of test: its entry, each part of test, and the stretches."""
    begun_s, cell = time.process_time(), cells.rule_cell(story, name, searches=searches)
    assert cell.whole is not None
    assert cell.about.train_cost is not None
    entry = score.told(cell.whole) | {
        "settings": dict(cell.about.settings),
        "train_cost": round(cell.about.train_cost, score.DECIMALS),
        "cpu_s": round(time.process_time() - begun_s),
    }
    return {
        "entry": entry,
        "parts": [asdict(each) for each in cell.whole.parts],
        "record": cell.whole.record.tolist(),
        "stretches": None if cell.stretches is None else score.told(cell.stretches),
    }


def searched(story: ServeScenario, search: serve_search.Search) -> Entry:
    """What one search that knows the future comes to on stretches of test."""
    begun_s, cell = time.process_time(), cells.search_cell(story, search)
    assert cell.stretches is not None
    return score.told(cell.stretches) | {"cpu_s": round(time.process_time() - begun_s)}


def beside(whole: Mapping[str, Served], reference: str, others: Iterable[str]) -> dict[str, Entry]:
    """The cost of rules less that of one of them, over the same parts."""
    return {
        name: {
            field: score.number(value)
            for field, value in asdict(score.estimate(whole[name], whole[reference])).items()
        }
        for name in others
        if name != reference
    }


def put_together(story: ServeScenario, found: Mapping[str, Entry]) -> Entry:
    """The entry of a scenario from its parts, by their names."""
    rules = {name: found[name] for name in cells.KINDS}
    searches = {each.name: found[each.name] for each in serve_search.SEARCHES if each.name in found}
    whole = {
        name: Served(tuple(Part(**its) for its in each["parts"]), np.array(each["record"]))
        for name, each in rules.items()
    }
    entry: Entry = {
        "scenario": story.id,
        "claims": story.claims,
        "rules": {name: each["entry"] for name, each in rules.items()},
        "against_lookup": beside(whole, cells.LOOKUP, whole),
        "patient_against_lookup": beside(whole, cells.PATIENT_LOOKUP, cells.PATIENT),
    }
    if searches:
        entry["stretches"] = {
            "parts": [asdict(stretch) for stretch in cells.stretches(story)],
            "rules": {name: each["stretches"] for name, each in rules.items()},
            "searches": searches,
        }
    return entry


def run(
    stories: Sequence[ServeScenario],
    work: Path,
    *,
    searches: bool = True,
    jobs: int | None = 1,
    quiet: bool = False,
) -> Entry:
    """Study scenarios, what is not kept aside in `work` yet.

    Args:
        work: a JSON-lines file; what other code, data or settings gave is not taken from it.

    Returns:
        What the file of results holds.
    """
    asked = [(story, name) for story in stories for name in names(searches=searches)]
    calls = [partial(part, story, name, searches=searches) for story, name in asked]
    bases = {story.id: _basis(story, searches=searches) for story in stories}
    found: dict[str, dict[str, Entry]] = {story.id: {} for story in stories}
    with Progress("serving", len(asked), quiet=quiet) as progress:
        for place, entry, before in kept.results(
            calls, [bases[story.id] | {"part": name} for story, name in asked], work, jobs
        ):
            story, name = asked[place]
            found[story.id][name] = entry
            progress.advance(skipped=before, note=f"{name} on {story.name}")
    return {"scenarios": [put_together(story, found[story.id]) for story in stories]}


def _basis(story: ServeScenario, *, searches: bool) -> Entry:
    """All that the parts of a scenario depend on."""
    return serving_bench.origin_of([story], [], searches=searches) | {
        "train": traffic_sha256(serving_worlds.world(story, "train"))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scenario", action="append", metavar="NAME", help="all unless named")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"{OUT.name} of all unless named")
    parser.add_argument("--jobs", type=int, default=parallel.processors(), metavar="N")
    parser.add_argument("--no-search", action="store_true", help="rules alone")
    arguments = parser.parse_args()
    if arguments.scenario and arguments.out is None:
        parser.error("--scenario needs --out FILE: what is published holds all scenarios")
    out = arguments.out or OUT
    stories = [serving.story_of(name) for name in arguments.scenario or ()] or [*serving.shipped()]
    found = run(
        stories,
        out.with_suffix(".work.jsonl"),
        searches=not arguments.no_search,
        jobs=arguments.jobs,
    )
    with writing.written_aside(out) as file:
        file.write((json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
