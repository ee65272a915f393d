"""Which card a scenario gets: what each would cost on train, and the rule that chooses.

`python -m rapgym.studies.choice --scenario chat --out FILE` sweeps whole GiB. A card passes where, on
train and by calibration columns alone, the lookup costs less than every format that is not pruned,
with whole batches and with partial admission, and than the best static set, refused or trimmed; and
where the scenario is neither too easy nor too hard (`suitability.check`). Of the cards that pass, the
middle one is taken, the smaller of two. Nothing of test is opened.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rapgym import heldout
from rapgym.bench import suitability
from rapgym.bench.cells import KEEP_ALL, LOOKUP, STATIC_REPAIRED
from rapgym.bench.pieces import fitting_seconds
from rapgym.errors import InvalidSpec
from rapgym.files import places, writing
from rapgym.jobs import parallel
from rapgym.jobs.progress import Progress
from rapgym.model import memory
from rapgym.model.shapes import model_spec
from rapgym.policies import registry
from rapgym.policies.policy import briefing
from rapgym.rivals import rivals
from rapgym.rollout import tuning
from rapgym.scenarios import catalogue, worlds
from rapgym.scenarios.story import GIB, Scenario

OUT = places.RESULTS / "choice.json"
MUST_BEAT = ("static-best", STATIC_REPAIRED)  # with every rival that prunes nothing
BESIDE = (KEEP_ALL, *MUST_BEAT)  # what stands in the table
AROUND_GIB = 5  # of the card that a scenario states, to both sides
PAIRINGS = 4  # of the 16: enough to choose a card by
DECIMALS = 6

Entry = dict[str, Any]


def tried(story: Scenario) -> Entry:
    """What a scenario costs on train, and why its card does not pass; `why_not` is None if it does."""
    story = replace(story, offsets=min(PAIRINGS, story.offsets))
    with heldout.only("train", heldout.WHOLE):
        told = briefing(story)
        fits = fitting_seconds(told.train, np.ones(told.train.blocks, dtype=bool))
        costs = {name: _cost(name, told) for name in (LOOKUP, *BESIDE)}
        unpruned = [each for each in rivals.WHOLE if each.rule != "weight-streaming"]
        for rival in unpruned:
            costs[rival.name] = rivals.log(story, rival, "train").mean_cost
        try:
            found, why_not = suitability.check(story), None
        except InvalidSpec as error:
            found, why_not = str(error), str(error)
    beaten = [*MUST_BEAT, *(each.name for each in unpruned)]
    unbeaten = [name for name in beaten if costs[name] <= costs[LOOKUP]]
    if why_not is None and unbeaten:
        why_not = f"the lookup does not beat {', '.join(unbeaten)}"
    return {
        "scenario": story.id,
        "card_gib": story.card_gib,
        "full_fits_seconds": round(float(fits.mean()), DECIMALS),
        "check": found,
        "costs": {name: round(float(cost), DECIMALS) for name, cost in costs.items()},
        "why_not": why_not,
    }


def _cost(name: str, told: Any) -> float:
    entry = registry.entry(name)
    tune = registry.tuning(entry)
    settings = tune(told) if tune else {}
    return tuning.train_cost(partial(registry.build, entry, settings), told)


def cards(story: Scenario) -> list[float]:
    """Whole GiB around the stated card on which at least the full model's weights fit without a tenant."""
    weights = memory.weight_bytes(model_spec(story.served), story.form) / GIB
    middle = round(story.card_gib)
    around = range(middle - AROUND_GIB, middle + AROUND_GIB + 1)
    return [float(card) for card in around if card > weights]


def chosen(entries: Sequence[Entry]) -> float | None:
    """The middle of the cards that pass, the smaller of two; None where none does."""
    passing = sorted(entry["card_gib"] for entry in entries if entry["why_not"] is None)
    return passing[(len(passing) - 1) // 2] if passing else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--scenario", action="append", metavar="NAME", help="all but those of days unless named"
    )
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE")
    parser.add_argument("--jobs", type=int, default=parallel.processors(), metavar="N")
    arguments = parser.parse_args()
    stories = [
        replace(story, card_gib=card)
        for story in catalogue.named(arguments.scenario)
        for card in cards(story)
    ]
    for story in stories:
        worlds.workload(story)  # drawn once, not by each process
    entries: dict[int, Entry] = {}
    with Progress("choice", len(stories)) as progress:
        for place, entry in parallel.results(
            [partial(tried, story) for story in stories], arguments.jobs
        ):
            entries[place] = entry
            progress.advance(note=f"{entry['scenario']} on {entry['card_gib']:g} GiB")
    listed = [entries[place] for place in range(len(stories))]
    names = dict.fromkeys(entry["scenario"] for entry in listed)
    cards_chosen = {
        name: chosen([entry for entry in listed if entry["scenario"] == name]) for name in names
    }
    told = {"rule": (__doc__ or "").split("\n\n")[1], "chosen": cards_chosen, "entries": listed}
    with writing.written_aside(arguments.out) as file:
        file.write((json.dumps(told, indent=1) + "\n").encode())
    for name, card in cards_chosen.items():
        print(f"{name}: {'no card passes' if card is None else f'{card:g} GiB'}")


if __name__ == "__main__":
    main()
