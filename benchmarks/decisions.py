"""Microseconds of a whole decision, policy, guard and shield together, of several policies in turns.

    python benchmarks/decisions.py [--out baselines/results/decisions.json]
    python benchmarks/decisions.py --isolated    the price of a process of its own, on one scenario

One lane on validation rows as they are served. At each row every policy decides once, in an order
that turns, so that what else the machine does meets all alike. Learned policies are those that were
told of fit, seed 0.
"""

import argparse
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rapgym.files import provenance, writing
from rapgym.guard import foreign
from rapgym.guard.foreign import Terms
from rapgym.guard.guard import Guard, strict_lanes
from rapgym.policies import registry
from rapgym.policies.policy import Briefing, briefing
from rapgym.rollout import rollout
from rapgym.scenarios import catalogue
from rapgym.scenarios.lanes import Lanes
from rapgym.world import shield
from rapgym.world.simulator import Row

NAMES = ("keep-all", "frontier", "forecast", "hindsight", "dqn", "maskable_ppo", "ppo_counts")
SCENARIOS, ROUNDS = ("chat-beside-code", "chat", "code-8bit"), 6
APART = " (isolated)"  # behind the name of a policy: in a process of its own
BESIDE = tuple(name + apart for name in ("keep-all", "frontier") for apart in ("", APART))


def opened(name: str, told: Briefing, lanes: Lanes) -> Guard:
    """A guarded policy of the list, told of fit."""
    entry = registry.entry(name.removesuffix(APART))
    options = registry.settings(entry, told)
    if name.endswith(APART):
        return Guard(foreign.process(entry.target, options, Terms()), lanes, told)
    return Guard(registry.build(entry, options), lanes, told)


def measured(name: str, names: Sequence[str], rounds: int) -> dict[str, dict[str, float]]:
    """Quantiles of each policy's decisions on one scenario, microseconds."""
    story = catalogue.scenario(name)
    told, spent = briefing(story, "fit-3"), {policy: list[float]() for policy in names}
    for _ in range(rounds):
        held = {policy: Lanes(story, "validation-3", 1) for policy in names}
        start = rollout.whole_split(next(iter(held.values())).world, 1)[0]
        for lanes in held.values():
            lanes.restart(0, start)
        guards = {policy: opened(policy, told, lanes) for policy, lanes in held.items()}
        rng = np.random.default_rng(0)
        for turn in range(start.rows):
            for i in range(len(names)):
                policy = names[(i + turn) % len(names)]
                lanes, guard = held[policy], guards[policy]
                seen = lanes.observe()
                row = Row(lanes.world, lanes.state, np.ones((1, lanes.world.blocks), dtype=bool))
                order, budget = lanes.world.quality.order, row.budgets[:, 0]
                begun_ns = time.perf_counter_ns()
                decided = guard.decide(seen, rng)
                strict = strict_lanes(guard.strict, decided.source)
                shield.decide(decided.proposal, row.costs, budget, order, decided.source, strict)
                spent[policy].append((time.perf_counter_ns() - begun_ns) / 1000)
                lanes.serve(decided.proposal, source=decided.source)
    return {
        policy: {f"p{q}": round(float(np.percentile(values, q)), 1) for q in (50, 90, 99)}
        for policy, values in spent.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--isolated", action="store_true", help="print the price of a process")
    asked = parser.parse_args()
    if asked.isolated:
        for policy, each in measured(SCENARIOS[0], BESIDE, 1).items():
            print(policy, each)
        return
    out = asked.out
    found: dict[str, Any] = {name: measured(name, NAMES, ROUNDS) for name in SCENARIOS}
    for name, policies in found.items():
        print(name, {policy: each["p50"] for policy, each in policies.items()})
    if out:
        content = {"command": "python benchmarks/decisions.py", "microseconds": found,
                   "python": platform.python_version(), "numpy": np.__version__,
                   "machine": f"{platform.machine()} {platform.system()}",
                   "commit": provenance.commit()}  # fmt: skip
        with writing.written_aside(out) as file:
            file.write((json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
