"""Microseconds of a whole decision, from observation to shield, of several policies.

    python benchmarks/decisions.py [--out baselines/results/decisions.json]
    python benchmarks/decisions.py --isolated    the price of a process of its own, on one scenario

A decision is the observation, the policy, the guard, the bytes of blocks and the shield. Each policy stands there
three times: by itself, with the watchdog's look-ahead, and with an audit log to whose line the decision is
added. Guards are warm: compiled code is at hand, as in a server. `numpy` is the lookup by NumPy throughout, the
reference. One lane on validation rows as they are served; serving is not counted. Learned policies are those
that were told of fit, seed 0. Where Stable-Baselines3 is installed its own `predict` stands beside them, of a
network as wide as that of `ppo_counts`: the answer of the network alone, no observation, guard or shield.

It is measured in two ways, by turns in each round, so that what else the machine does meets all alike. In a
loop a policy decides row after row: what it needs is warm. In turns every policy decides a row before any
decides the next, in an order that turns: each finds its data and its code cold.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
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
LOOP, TURNS = "in_a_loop", "microseconds"  # the two ways, as the results name them
WARMING = 8  # rows of a loop that are not counted
WATCHED, LOGGED = " (watchdog)", " (audit log)"
REFERENCE = "numpy"  # the lookup, nothing compiled
PREDICT = "SB3 predict"
NAMES = (
    *(name + how for name in PLAIN for how in ("", WATCHED, LOGGED)),
    REFERENCE,
    *([PREDICT] if importlib.util.find_spec("stable_baselines3") else []),
)
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


class Deciding:
    """One policy on the rows of a split, from their beginning."""

    def __init__(self, name: str, told: Briefing, log: AuditLog) -> None:
        self.name, self._rng = name, np.random.default_rng(0)
        self._lanes = Lanes(told.scenario, "validation-3", 1)
        start = rollout.whole_split(self._lanes.world, 1)[0]
        self._lanes.restart(0, start)
        self.rows, self._log = start.rows, log if name.endswith(LOGGED) else None
        self._guard, self._context = opened(name, told, self._lanes), context_of(self._lanes, name)

    def row(self) -> float:
        """Decide a row, and serve it: microseconds of the decision."""
        guard, lanes = self._guard, self._lanes
        with code_of(self.name):
            begun_ns = time.perf_counter_ns()
            decided = guard.decide(guard.observe(), self._rng)
            strict = strict_lanes(guard.strict, decided.source)
            made = lanes.shield(decided.proposal, decided.source, strict)
            if self._log is not None:
                self._add(self._log, decided, strict, made)
            spent_us = (time.perf_counter_ns() - begun_ns) / 1000
            guard.serve(self._rng)
        return spent_us

    def _add(self, log: AuditLog, decided: Decided, strict: BoolArray, made: Decision) -> None:
        """What the audit log is given of a decision."""
        lanes, state = self._lanes, self._lanes.state
        asked, limit = lanes.asked, lanes.world.rows.limit_bytes.take(state.limit_row, 0)[:, 0]
        budget = self._context.footprint.budget_bytes(limit, asked.prompt_tokens)
        told = Decisions(asked, limit, budget, decided.proposal, decided.source, strict, made,
                         observation=decided.observation, loaded=state.loaded)  # fmt: skip
        log.append(self._context, told)


class Predicting(Deciding):
    """Stable-Baselines3's `predict` on the rows that the lookup serves."""

    def __init__(self, told: Briefing, log: AuditLog) -> None:
        from stable_baselines3 import PPO
        from torch import nn

        from rapgym.baselines.ppo_counts import Settings

        super().__init__("frontier", told, log)
        self.name, width = PREDICT, Settings().width
        net = {"net_arch": [width, width], "activation_fn": nn.ReLU}
        env = gymnasium.make("RAP-Counts-v0", scenario=told.scenario)
        self._predict = PPO("MlpPolicy", env, device="cpu", policy_kwargs=net).predict

    def row(self) -> float:
        """Microseconds of the answer; the row is served by the lookup."""
        (seen,) = self._lanes.observe()
        begun_ns = time.perf_counter_ns()
        self._predict(seen, deterministic=True)
        spent_us = (time.perf_counter_ns() - begun_ns) / 1000
        super().row()
        return spent_us


Spent = dict[str, list[float]]  # microseconds of the decisions of each policy


def in_turns(policies: Sequence[Deciding], spent: Spent) -> None:
    """Have every policy decide a row before any decides the next."""
    for turn in range(policies[0].rows):
        for i in range(len(policies)):
            policy = policies[(i + turn) % len(policies)]
            spent[policy.name].append(policy.row())


def in_a_loop(policies: Sequence[Deciding], spent: Spent) -> None:
    """Have one policy after the other decide all of its rows."""
    for policy in policies:
        rows = [policy.row() for _ in range(policy.rows)]
        spent[policy.name] += rows[WARMING:]


def measured(
    name: str, names: Sequence[str], rounds: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Quantiles of each policy's decisions on one scenario in both ways, microseconds."""
    told = briefing(catalogue.scenario(name), "fit-3")
    spent = {way: {policy: list[float]() for policy in names} for way in (LOOP, TURNS)}
    with tempfile.TemporaryDirectory() as folder, AuditLog(Path(folder) / "log.jsonl") as log:
        for _ in range(rounds):
            for way, decide in ((LOOP, in_a_loop), (TURNS, in_turns)):
                policies = [
                    Predicting(told, log) if policy == PREDICT else Deciding(policy, told, log)
                    for policy in names
                ]
                decide(policies, spent[way])
    return {
        way: {
            policy: {f"p{q}": round(float(np.percentile(values, q)), 1) for q in (50, 90, 99)}
            for policy, values in of_way.items()
        }
        for way, of_way in spent.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=SCENARIOS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--isolated", action="store_true", help="print the price of a process")
    asked = parser.parse_args()
    if asked.isolated:
        for policy, each in measured(SCENARIOS[0], BESIDE, 1)[TURNS].items():
            print(policy, each)
        return
    out = asked.out
    both = {name: measured(name, NAMES, asked.rounds) for name in asked.scenarios}
    found = {way: {name: ways[way] for name, ways in both.items()} for way in (TURNS, LOOP)}
    for way, scenarios in found.items():
        for name, policies in scenarios.items():
            print(name, way, {policy: quantiles["p50"] for policy, quantiles in policies.items()})
    if out:
        content: dict[str, Any] = {"command": "python benchmarks/decisions.py", **found,
                   "python": platform.python_version(), "numpy": np.__version__,
                   "peers": {name: importlib.metadata.version(name) for name in ("stable_baselines3", "torch")
                             if importlib.util.find_spec(name)},
                   "machine": f"{platform.machine()} {platform.system()}",
                   "commit": provenance.commit()}  # fmt: skip
        with writing.written_aside(out) as file:
            file.write((json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
