"""Which card and load a serving scenario gets: a sweep on train, and the rule that chooses.

`python -m rapgym.studies.serving_choice` plays stretches of train at whole GiB around the card of
the windows that it stands on and at shares of their requests. A point passes where, by calibration columns alone, the lookup costs
0.05 to 0.5 nats a token and at least 15 % less than keep-all with drop. Of the loads, the one with most
passing cards is taken, the higher of two; of its cards the middle one, the smaller of two. Nothing of
test is opened.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rapgym import heldout
from rapgym.files import places, writing
from rapgym.jobs import parallel
from rapgym.jobs.progress import Progress
from rapgym.policies import serve_rules
from rapgym.policies.serving import serve_briefing
from rapgym.rollout.serving import best_settings, spread
from rapgym.scenarios import catalogue, serving
from rapgym.scenarios.serving import ServeScenario
from rapgym.studies import choice

OUT = places.RESULTS / "serving_choice.json"
LOWEST, HIGHEST, LESS = (
    0.05,
    0.5,
    0.15,
)  # nats a token of the lookup, and how much less than keep-all
# Of the base's requests every first, second, third; a load that is drawn takes minutes and 150 MB.
SHARES, DRAWN_SHARES = (1, 2, 3), (1, 2)
PARTS = 12  # stretches of train at each point: enough to choose by
RULES = ("engine", "keep-all-drop", "lookup")
DECIMALS = 6

Entry = dict[str, Any]


def points(story: ServeScenario) -> list[ServeScenario]:
    """The scenario on each card and at each load around those of the windows that it stands on.

    Not around its own, so that the points are the same once it has taken one of them.
    """
    windows = catalogue.scenario(story.base.name)
    return [
        replace(
            story,
            base=replace(story.base, card_gib=card, every=windows.every * share),
            # Drawn traffic of another load is drawn anew.
            traffic_sha256=story.traffic_sha256
            if windows.every * share == story.base.every
            else "",
        )
        for share in (DRAWN_SHARES if windows.is_drawn else SHARES)
        for card in choice.cards(windows)
    ]


def tried(story: ServeScenario) -> Entry:
    """What one point costs on train, and why it does not pass; `why_not` is None if it does."""
    with heldout.only("train"):
        told = serve_briefing(story)
        parts = spread(told.train, PARTS)
        costs = {}
        for name in RULES:
            make = serve_rules.RULES[name].make
            settings = serve_rules.coarse_settings(name, told)
            costs[name] = best_settings(make, settings, told, parts)[1]
    return {
        "scenario": story.id,
        "card_gib": story.base.card_gib,
        "every": story.base.every,
        "costs": {name: round(cost, DECIMALS) for name, cost in costs.items()},
        "why_not": why_not(costs["lookup"], costs["keep-all-drop"]),
    }


def why_not(lookup: float, keep_all: float) -> str | None:
    """Why a point does not pass, by two costs on train; None where it does."""
    if lookup < LOWEST:
        return f"too easy: the lookup costs less than {LOWEST:g}"
    if lookup > HIGHEST:
        return f"too hard: the lookup costs more than {HIGHEST:g}"
    if lookup > (1 - LESS) * keep_all:
        return f"the lookup does not cost {LESS:.0%} less than keep-all with drop"
    return None


def chosen(entries: Sequence[Entry]) -> dict[str, float] | None:
    """Card and load of the point that the rule takes; None where none passes."""
    passing = [entry for entry in entries if entry["why_not"] is None]
    if not passing:
        return None
    loads = [entry["every"] for entry in passing]
    every = max(sorted(set(loads)), key=loads.count)
    cards = sorted(entry["card_gib"] for entry in passing if entry["every"] == every)
    return {"card_gib": cards[(len(cards) - 1) // 2], "every": every}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scenario", action="append", metavar="NAME", help="all unless named")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE")
    parser.add_argument("--jobs", type=int, default=parallel.processors(), metavar="N")
    arguments = parser.parse_args()
    stories = [serving.story_of(name) for name in arguments.scenario or ()] or [*serving.shipped()]
    work = [point for story in stories for point in points(story)]
    entries: dict[int, Entry] = {}
    with Progress("serving choice", len(work)) as progress:
        for place, entry in parallel.results(
            [partial(tried, point) for point in work], arguments.jobs
        ):
            entries[place] = entry
            progress.advance(
                note=f"{entry['scenario']} on {entry['card_gib']:g} GiB, every {entry['every']}"
            )
    listed = [entries[place] for place in range(len(work))]
    taken = {
        story.id: chosen([entry for entry in listed if entry["scenario"] == story.id])
        for story in stories
    }
    told = {"rule": (__doc__ or "").split("\n\n")[1], "chosen": taken, "entries": listed}
    with writing.written_aside(arguments.out) as file:
        file.write((json.dumps(told, indent=1) + "\n").encode())
    for name, point in taken.items():
        print(
            f"{name}: no point passes"
            if point is None
            else f"{name}: {point['card_gib']:g} GiB, every {point['every']}"
        )


if __name__ == "__main__":
    main()
