"""What run-time pruning is worth where requests wait: rules for the serving engine, tuned on train, on test.

`python -m rapgym.studies.serving` tunes every rule on stretches of train, each with as many settings as any
method may try, plays the whole test split with calibration's decisions and test columns, and lets searches
that know the future plan stretches of it. It writes `baselines/results/serving.json`.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rapgym.bench.serving_score import estimate
from rapgym.files import places, writing
from rapgym.jobs import parallel
from rapgym.jobs.progress import Progress
from rapgym.policies import serve_rules
from rapgym.policies.serving import ServePolicy, serve_briefing
from rapgym.rollout import serve_search
from rapgym.rollout.serving import Served, best_settings, play, spread
from rapgym.scenarios import serving, serving_worlds
from rapgym.scenarios.serving import ServeScenario
from rapgym.serving import batch
from rapgym.serving.world import Part

OUT = places.RESULTS / "serving.json"
SEARCH_PARTS, SEARCH_S = 12, 600  # of test, evenly spread: a search takes minutes an hour
DECIMALS = 6
Entry = dict[str, Any]


def told(served: Served) -> Entry:
    """What a policy came to: cost with its interval over parts, and what a server would ask."""
    total = served.record.sum(axis=0)
    tokens, finished = max(1.0, float(served.tokens.sum())), max(1.0, float(total[batch.FINISHED]))
    cost = estimate(served)
    lost = float(total[batch.SHED_TOKENS] + total[batch.LOST])
    found = {
        "cost": cost.value, "low": cost.low, "high": cost.high,
        "nats": float(total[batch.NATS]) / max(1.0, float(total[batch.TOKENS])),
        "undelivered": lost / tokens,
        "goodput": float(total[batch.GOOD]) / max(1.0, float(total[batch.ARRIVED])),
        "shed": float(total[batch.SHED]) / max(1.0, float(total[batch.ARRIVED])),
        "preemptions": float(total[batch.PREEMPTIONS]) / max(1.0, float(total[batch.ARRIVED])),
        "ttft_s": float(total[batch.TTFT]) / max(1.0, float(total[batch.FIRST])),
        "tpot_s": float(total[batch.TPOT]) / max(1.0, float(total[batch.PACED])),
        "e2e_s": float(total[batch.E2E]) / finished,
        "attention": float(served.counts[:, 0].mean()), "ffn": float(served.counts[:, 1].mean()),
    }  # fmt: skip
    return {name: round(value, DECIMALS) for name, value in found.items()}


def rule(story: ServeScenario, name: str) -> tuple[Entry, Served]:
    """One rule, tuned on train, on the whole of test."""
    begun_s, briefing = time.process_time(), serve_briefing(story)
    make: Callable[..., ServePolicy] = serve_rules.RULES[name].make
    settings, train_cost = best_settings(make, serve_rules.settings_of(name, briefing), briefing)
    world = serving_worlds.scoring_world(story)
    served = play(partial(make, **settings), world, world.pieces, briefing)
    entry = told(served) | {
        "settings": settings,
        "train_cost": round(train_cost, DECIMALS),
        "cpu_s": round(time.process_time() - begun_s),
    }
    return entry, served


def searched(story: ServeScenario, search: serve_search.Search, parts: list[Part]) -> Entry:
    """What one search that knows the future comes to on stretches of test."""
    begun_s = time.process_time()
    world, briefing = serving_worlds.scoring_world(story), serve_briefing(story)
    plans = [serve_search.plan(world, part, search) for part in parts]
    served = play(lambda: serve_search.Planned(plans), world, parts, briefing)
    return told(served) | {"cpu_s": round(time.process_time() - begun_s)}


def beside(story: ServeScenario, settings: dict[str, Any], name: str, parts: list[Part]) -> Entry:
    """What a tuned rule comes to on the same stretches."""
    world = serving_worlds.scoring_world(story)
    make = partial(serve_rules.RULES[name].make, **settings)
    return told(play(make, world, parts, serve_briefing(story)))


def studied(story: ServeScenario, *, searches: bool) -> Entry:
    """Everything of one scenario."""
    rules = {name: rule(story, name) for name in serve_rules.RULES}
    entry: Entry = {
        "scenario": story.id,
        "rules": {name: found for name, (found, _) in rules.items()},
        "against_lookup": {
            name: {
                field: round(value, DECIMALS)
                for field, value in asdict(estimate(served, rules["lookup"][1])).items()
            }
            for name, (_, served) in rules.items()
            if name != "lookup"
        },
    }
    if searches:
        parts = spread(serving_worlds.scoring_world(story), SEARCH_PARTS, SEARCH_S)
        entry["stretches"] = {
            "parts": [asdict(part) for part in parts],
            "rules": {
                name: beside(story, found["settings"], name, parts)
                for name, (found, _) in rules.items()
            },
            "searches": {
                search.name: searched(story, search, parts) for search in serve_search.SEARCHES
            },
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
