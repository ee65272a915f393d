"""What the watchdog saves where policies go bad half-way, and what it costs where they do not.

    python -m rapgym.studies.watchdog [--split test] [--scenario NAME] [--out FILE]

On each scenario a good policy decides the first half of the split's rows; from then on it is frozen
(repeats its last proposal), inverted, noise, a miser (proposes to drop all that may be dropped), or
foreign (the same method, tuned and briefed for another scenario, whose units it reads memory in).
Each is run alone and under the watchdog, in every pairing of the split, and set against the reference
policy: cost by calibration columns, which the watchdog sees, and by test columns. The rules of
`rapgym.guard.watchdog.Rules` were chosen on train rows.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.files import places, provenance, writing
from rapgym.guard.guard import Guard, Guarding
from rapgym.guard.watchdog import Mode, Rules
from rapgym.policies import registry
from rapgym.policies.policy import Briefing, Policy, Told, briefing, told_before
from rapgym.policies.reference import FrontierLookup
from rapgym.rollout import rollout
from rapgym.rollout.log import EpisodeLog, LogWriter, weighted_mean
from rapgym.scenarios import catalogue, worlds
from rapgym.scenarios.lanes import Lanes
from rapgym.scenarios.story import Scenario, Split
from rapgym.workload import series

# Scenarios, and for each the one whose policy is the foreigner: the same length of observations.
SCENARIOS = {
    "chat": "chat-gqa-8bit",
    "chat-bursty-8bit": "chat-gqa-8bit",
    "chat-gqa-8bit": "chat",
    "chat-mixed-8bit": "chat",
    "chat-beside-code": "chat-gqa",
    "chat-gqa": "chat-beside-code",
    "code-8bit": "",  # none other has rows of two seconds
    "laptop": "chat-beside-code",
}
OUT = places.RESULTS / "watchdog.json"
GOOD = "forecast"
PRICED = ("frontier", "forecast", "frontier-margin", "frontier-recent", "frontier-hysteresis",
          "gsi", "keep-all", "static-best", "random")  # fmt: skip
FAULTS = ("frozen", "inverted", "noise", "miser", "foreign")
PROMISE = 1.05  # of the reference policy's cost


class GoesBad:
    """A good policy until a row, and bad from then on."""

    def __init__(
        self, good: Policy, fault: str, row: int, foreign: tuple[Policy, Briefing]
    ) -> None:
        self._good, self._fault, self._from, self._foreign = good, fault, row, foreign

    def reset(self, batch: int, briefing: Briefing) -> None:
        self._rows = 0
        self._good.reset(batch, briefing)
        policy, told = self._foreign
        policy.reset(batch, told)
        self._last = np.ones((batch, briefing.train.blocks), dtype=bool)

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        self._rows += 1
        if self._rows <= self._from:
            self._last = self._good.propose(observation, rng)
            return self._last
        if self._fault == "inverted":
            return ~self._good.propose(observation, rng)
        if self._fault == "noise":
            return rng.random(self._last.shape) < 0.5
        if self._fault == "foreign":
            return self._foreign[0].propose(observation, rng)
        return self._last if self._fault == "frozen" else np.zeros_like(self._last)


def built(name: str, story: Scenario, told: Told) -> Policy:
    entry = registry.entry(name)
    settings = registry.settings(entry, briefing(story, told))
    return registry.build(entry, settings)


def served(
    policy: Policy, story: Scenario, split: Split, told: Told, rules: Rules | None
) -> tuple[EpisodeLog, Guard, dict[str, Any]]:
    """The log of a split in all pairings at once, and what the watchdog did meanwhile."""
    world = worlds.world(story, split)
    starts = rollout.whole_split(world, story.offsets)
    lanes, log, rng = Lanes(story, split, len(starts)), LogWriter(), np.random.default_rng(0)
    for lane, start in enumerate(starts):
        lanes.restart(lane, start)
    guard = Guard(policy, lanes, briefing(story, told), Guarding(rules))
    away = handed_back = 0
    for _ in range(starts[0].rows):
        before, mode = lanes.state, guard.watchdog.mode if guard.watchdog else None
        row = guard.serve(rng)
        log.add(lanes.world, before.row, before.limit_row, row.decided.source, row.outcome)
        if guard.watchdog and mode is not None and row.decided.watchdog:
            away += int((row.decided.watchdog.mode != Mode.POLICY).sum())
            handed_back += int(
                (
                    (row.decided.watchdog.mode == Mode.REFERENCE) & guard.watchdog.policy_decides
                ).sum()
            )
    rows = starts[0].rows * len(starts)
    facts: dict[str, Any] = {}
    if guard.watchdog:
        trips = guard.watchdog.trips
        facts = {
            "lanes_tripped": int((trips > 0).sum()),
            "trips": int(trips.sum()),
            "handed_back": handed_back,
            "reverted": int((guard.watchdog.mode == Mode.REVERTED).sum()),
            "rows_away": round(away / rows, 4),
        }
    return log.finish(), guard, facts


def costs(story: Scenario, split: Split, log: EpisodeLog, *, strict: bool) -> dict[str, float]:
    """Of all rows, and of the half in which faults are: by calibration columns, and by test columns,
    which on other splits than test are not looked at.
    """
    half = len(log) // 2
    logs = {"calib": log}
    if split == "test":
        world = worlds.scoring_world(story)
        logs["test"] = rollout.replay(world, log, refuses_misfit=strict)
    whole = {columns: one.mean_cost for columns, one in logs.items()}
    later = {
        f"{columns}_after": weighted_mean(one.cost[half:], one.output_tokens[half:])
        for columns, one in logs.items()
    }
    return whole | later


def compared(make: Callable[[], Policy], story: Scenario, split: Split, told: Told, rules: Rules,
             reference: dict[str, float]) -> dict[str, Any]:  # fmt: skip
    """A policy alone and watched, as shares of what the reference policy costs."""
    found: dict[str, Any] = {}
    for name, watched in (("alone", None), ("watched", rules)):
        log, guard, facts = served(make(), story, split, told, watched)
        paid = costs(story, split, log, strict=guard.strict)
        shares = {columns: round(cost / reference[columns], 4) for columns, cost in paid.items()}
        found[name] = shares | facts
    return found


def bad(story: Scenario, fault: str, split: Split, told: Told) -> Policy:
    other = catalogue.scenario(SCENARIOS[story.name] or story.name)
    half = len(worlds.world(story, split).rows) // 2
    foreign = (built(GOOD, other, told), briefing(other, told))
    return GoesBad(built(GOOD, story, told), fault, half, foreign)


def scenario_results(story: Scenario, split: Split, rules: Rules) -> dict[str, Any]:
    """All faults and all prices on one scenario."""
    told = told_before(split)
    log, _, _ = served(FrontierLookup(), story, split, told, None)
    reference = costs(story, split, log, strict=False)
    faults = [fault for fault in FAULTS if fault != "foreign" or SCENARIOS[story.name]]
    return {
        "rows": len(log),
        "pairings": story.offsets,
        "reference": {columns: round(cost, 5) for columns, cost in reference.items()},
        "faults": {
            fault: compared(partial(bad, story, fault, split, told), story, split, told, rules, reference)
            for fault in faults
        },
        "prices": {
            name: compared(partial(built, name, story, told), story, split, told, rules, reference)
            for name in PRICED
        },
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """Shares of the reference's cost by calibration columns, alone and watched.

    Of faults in the rows from the fault on; of prices in all rows.
    """
    lines = []
    for name, one in found.items():
        for kind, columns in (("faults", "calib_after"), ("prices", "calib")):
            for policy, pair in one[kind].items():
                watched = pair["watched"]
                missed = kind == "faults" and watched[columns] > PROMISE
                lines.append(
                    f"{name:<22}{policy:<20}{pair['alone'][columns]:7.3f}{watched[columns]:7.3f}"
                    f"  trips {watched['trips']:3d} in {watched['lanes_tripped']:2d} lanes, back "
                    f"{watched['handed_back']:2d}, away {watched['rows_away']:.2f}"
                    + ("  above 1.05" if missed else "")
                )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", choices=series.SPLITS, default="test")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS)
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE")
    arguments = parser.parse_args()
    rules, found = Rules(), {}
    for name in arguments.scenario or SCENARIOS:
        found[name] = scenario_results(catalogue.scenario(name), arguments.split, rules)
        print(table({name: found[name]}), flush=True)
    told = {
        "split": arguments.split,
        "rules": asdict(rules),
        "good_policy": GOOD,
        "code_commit": provenance.commit(),
        "scenarios": found,
    }
    with writing.written_aside(arguments.out) as file:
        file.write((json.dumps(told, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
