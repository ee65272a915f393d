"""Microseconds of a whole decision, from observation to shield, of several policies in turns.

    python benchmarks/decisions.py [--out baselines/results/decisions.json]
    python benchmarks/decisions.py --isolated    the price of a process of its own, on one scenario

A decision is the observation, the policy, the guard, the bytes of blocks and the shield. Each policy stands there
three times: alone, with the watchdog's look-ahead, and with an audit log to whose line the decision is
added. Guards are warm: compiled code is at hand, as in a server. `numpy` is the lookup by NumPy throughout, the
reference. One lane on validation rows as they are served. At each row every policy decides once, in an order
that turns, so that what else the machine does meets all alike. Learned policies are those that were
told of fit, seed 0.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rapgym.arrays import BoolArray
from rapgym.audit.decisions import Decisions
from rapgym.audit.log import AuditLog
from rapgym.audit.step import context_of
from rapgym.files import provenance, writing
from rapgym.guard import foreign
from rapgym.guard.foreign import Terms
from rapgym.guard.guard import Decided, Guard, Guarding, strict_lanes
from rapgym.guard.watchdog import Rules
from rapgym.policies import registry
from rapgym.policies.policy import Briefing, briefing
from rapgym.rollout import rollout
from rapgym.scenarios import catalogue
from rapgym.scenarios.lanes import Lanes
from rapgym.world import pace
from rapgym.world.shield import Decision

PLAIN = ("keep-all", "frontier", "forecast", "hindsight", "dqn", "maskable_ppo", "ppo_counts")
SCENARIOS, ROUNDS = ("chat", "chat-bursty-8bit", "code-8bit"), 6
WATCHED, LOGGED = " (watchdog)", " (audit log)"
REFERENCE = "numpy"  # the lookup, nothing compiled
NAMES = (*(name + how for name in PLAIN for how in ("", WATCHED, LOGGED)), REFERENCE)
APART = " (isolated)"  # behind the name of a policy: in a process of its own
BESIDE = tuple(name + apart for name in ("keep-all", "frontier") for apart in ("", APART))


def opened(name: str, told: Briefing, lanes: Lanes) -> Guard:
    """A guarded policy of the list, told of fit."""
    plain = name.removesuffix(APART).removesuffix(WATCHED).removesuffix(LOGGED)
    entry = registry.entry("frontier" if plain == REFERENCE else plain)
    options = registry.settings(entry, told)
    if name.endswith(APART):
        return Guard(foreign.process(entry.target, options, Terms()), lanes, told)
    rules = Rules() if name.endswith(WATCHED) else None
    warm = plain != REFERENCE
    return Guard(registry.build(entry, options), lanes, told, Guarding(rules, warm=warm))


@contextmanager
def code_of(name: str) -> Iterator[None]:
    """Compiled code but for the reference, which knows of none."""
    loaded = pace.is_loaded
    pace.is_loaded = loaded if name != REFERENCE else lambda module="twin": False
    try:
        yield
    finally:
        pace.is_loaded = loaded


class Logged:
    """What the audit log is given of a decision."""

    def __init__(self, lanes: Lanes, log: AuditLog) -> None:
        self._lanes, self._log, self._context = lanes, log, context_of(lanes, "decisions")

    def add(self, decided: Decided, strict: BoolArray, made: Decision) -> None:
        lanes, state = self._lanes, self._lanes.state
        asked = lanes.asked
        limit = lanes.world.rows.limit_bytes[state.limit_row, 0]
        budget = self._context.budget_bytes(limit, asked.prompt_tokens)
        told = Decisions(asked, limit, budget, decided.proposal, decided.source, strict, made,
                         observation=decided.observation, loaded=state.loaded)  # fmt: skip
        self._log.append(self._context, told)


def measured(name: str, names: Sequence[str], rounds: int) -> dict[str, dict[str, float]]:
    """Quantiles of each policy's decisions on one scenario, microseconds."""
    story = catalogue.scenario(name)
    told, spent = briefing(story, "fit-3"), {policy: list[float]() for policy in names}
    with tempfile.TemporaryDirectory() as folder, AuditLog(Path(folder) / "log.jsonl") as log:
        for _ in range(rounds):
            held = {policy: Lanes(story, "validation-3", 1) for policy in names}
            start = rollout.whole_split(next(iter(held.values())).world, 1)[0]
            for lanes in held.values():
                lanes.restart(0, start)
            guards = {policy: opened(policy, told, lanes) for policy, lanes in held.items()}
            logs = {each: Logged(held[each], log) for each in names if each.endswith(LOGGED)}
            rng = np.random.default_rng(0)
            for turn in range(start.rows):
                for i in range(len(names)):
                    policy = names[(i + turn) % len(names)]
                    guard, lanes = guards[policy], held[policy]
                    with code_of(policy):
                        begun_ns = time.perf_counter_ns()
                        decided = guard.decide(guard.observe(), rng)
                        strict = strict_lanes(guard.strict, decided.source)
                        made = lanes.shield(decided.proposal, decided.source, strict)
                        if policy in logs:
                            logs[policy].add(decided, strict, made)
                        spent[policy].append((time.perf_counter_ns() - begun_ns) / 1000)
                        guard.serve(rng)
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
