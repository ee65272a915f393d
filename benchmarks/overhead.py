"""What guard and shield add to a decision: the same questions with and without them, in turns.

    python benchmarks/overhead.py [--out baselines/results/overhead.json]

One lane, rows of a train split as they are served. Without: the policy's `propose` alone. With: the
guard asks it, reads and rules, and the shield decides what is executed. What the row costs in bytes
is known to both; writing a log is not in it. A policy that keeps everything answers in no time, so
that differences are of the guard alone; rows that fit and rows that are repaired are told apart.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.baselines.keep_all import KeepAll
from rapgym.files import provenance
from rapgym.guard.guard import Guard, Guarding, strict_lanes
from rapgym.guard.watchdog import Rules
from rapgym.policies.policy import Policy, briefing
from rapgym.policies.reference import FrontierLookup
from rapgym.rollout import rollout
from rapgym.scenarios import catalogue
from rapgym.scenarios.lanes import Lanes
from rapgym.world import shield
from rapgym.world.simulator import Row

SCENARIO, ROUNDS = "chat-beside-code", 10
GUARDINGS = {
    "guard and shield": Guarding(),
    "with a deadline": Guarding(deadline_ms=1000.0),
    "with a watchdog": Guarding(Rules(), deadline_ms=1000.0),
}


def differences_us(policy: Policy, guarding: Guarding) -> tuple[FloatArray, BoolArray]:
    """Microseconds more than the policy's own, of each row, [R]; and whether it was repaired, [R]."""
    story = catalogue.scenario(SCENARIO)
    told, lanes = briefing(story, "fit-3"), Lanes(story, "validation-3", 1)
    found, repaired = [], []
    for _ in range(ROUNDS):
        start = rollout.whole_split(lanes.world, 1)[0]
        lanes.restart(0, start)
        guard, rng = Guard(policy, lanes, told, guarding), np.random.default_rng(0)
        order = lanes.world.quality.order
        for turn in range(start.rows):
            seen = lanes.observe()
            row = Row(lanes.world, lanes.state, np.ones((1, lanes.world.blocks), dtype=bool))
            budget, spent = row.budgets[:, 0], [0, 0]
            for guarded in (turn % 2, 1 - turn % 2):  # which comes first changes in turn
                begun_ns = time.perf_counter_ns()
                if guarded:
                    decided = guard.decide(seen, rng)
                    strict = strict_lanes(guard.strict, decided.source)
                    decision = shield.decide(
                        decided.proposal, row.costs, budget, order, decided.source, strict
                    )
                else:
                    policy.propose(seen, rng)
                spent[guarded] = time.perf_counter_ns() - begun_ns
            found.append((spent[1] - spent[0]) / 1000)
            repaired.append(bool((decision.kept != decided.proposal).any()))
            guard.serve(rng)
    return np.array(found), np.array(repaired)


def quantiles(values: FloatArray) -> dict[str, Any]:
    if not len(values):
        return {"rows": 0}
    p50, p99 = np.quantile(values, [0.5, 0.99])
    return {"rows": len(values), "p50_us": round(float(p50), 1), "p99_us": round(float(p99), 1)}


def measured() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, guarding in GUARDINGS.items():
        found[name] = {}
        for policy in (FrontierLookup(), KeepAll()):
            more, repaired = differences_us(policy, guarding)
            found[name][type(policy).__name__] = {
                "all rows": quantiles(more),
                "rows that fit": quantiles(more[~repaired]),
                "rows that are repaired": quantiles(more[repaired]),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    measured()  # warm up
    found = measured()
    for name, policies in found.items():
        for policy, kinds in policies.items():
            print(f"{name:<18}{policy:<16}", kinds, flush=True)
    if arguments.out:
        told = {
            "scenario": SCENARIO,
            "machine": f"{platform.machine()}, {platform.system()}, Python "
            f"{platform.python_version()}, NumPy {np.__version__}",
            "commit": provenance.commit(),
            "more_than_the_policy": found,
        }
        arguments.out.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
