"""Costs of policies, of the causal controller and of oracles on one test part, and their scores."""

import importlib
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from rapgym.arrays import FloatArray, IntArray
from rapgym.bench import score
from rapgym.bench.pieces import Pieces
from rapgym.policies import registry
from rapgym.policies.policy import Policy, briefing
from rapgym.policies.reference import frontier
from rapgym.rollout import rollout
from rapgym.rollout.log import EpisodeLog
from rapgym.scenarios import worlds
from rapgym.scenarios.story import Scenario
from rapgym.studies.causal.controller import (
    SHARES,
    Base,
    Known,
    charge,
    choices,
    known,
    least_charge,
    prices,
)
from rapgym.studies.causal.states import part, states
from rapgym.studies.causal.twin import Drawn, Twin
from rapgym.world import bound, plan
from rapgym.world.records import State, World

LOOKUP, BASE, CAUSAL, BEST, BOUND = "frontier", "base", "causal", "best-plan", "bound"
Make = Callable[[], Policy]
Learner = Callable[[Scenario, int], Make]  # of a twin's scenario and a seed


def tuned(name: str, story: Scenario, seed: int) -> Make:
    """What makes a policy of the registry, tuned on the train part of a twin's scenario."""
    entry = registry.entry(name)
    find = registry.tuning(entry)
    return partial(registry.build, entry, find(briefing(story)) if find else {})


def learner(target: str) -> Learner:
    """The function `MODULE:FUNCTION`."""
    module, _, function = target.partition(":")
    found: Learner = getattr(importlib.import_module(module), function)
    return found


def served(make: Make, story: Scenario, told: Scenario) -> FloatArray:
    """Test-column cost of each test row, [T, 1], of a policy that is told of `told`'s train part."""
    return _judged(story, rollout.run(make, story, "test", briefing(told)))


def _judged(story: Scenario, log: EpisodeLog) -> FloatArray:
    cost: FloatArray = rollout.replay(worlds.scoring_world(story), log, refuses_misfit=False).cost
    return cost


def _proposed(world: World, at: Known, chosen: IntArray) -> EpisodeLog:
    """Serve sets of the frontier, one a row, int64 [T]."""
    return rollout.proposed(world, at.front.kept[chosen][:, None], _start(world))


def _start(world: World) -> State:
    none = np.zeros(1, dtype=np.int64)
    return world.state(none, none)


def best_base(at: Known, world: World, train: Drawn) -> tuple[float, Base]:
    """The share of futures that the base controller risks with the least cost on train."""
    tried, used = [], at.used_bytes
    for share in SHARES:
        base = Base.of(at, share, np.random.default_rng(0))
        chosen = base.chosen(at, used, train.second[:, 0], train.row)
        tried.append((_proposed(world, at, chosen).mean_cost, share, base))
    _, share, best = min(tried, key=lambda each: each[0])
    return share, best


def controlled(source: Twin, drawn: Drawn, story: Scenario, futures: int) -> dict[str, Any]:
    """Costs of the base and of the causal controller on test rows, [T, 1]; and how good it is.

    `gap` is by how much the best causal controller may cost less on average: nats times output
    tokens, all rows summed, calibration columns.
    """
    of = states(source)
    at = known(source, worlds.world(story, "test"), of.limit_bytes, of.demand)
    share, base = best_base(at, worlds.world(story, "train"), part(drawn, "train"))
    test = part(drawn, "test")
    found, fresh = (prices(at, base, test, seed=seed, futures=futures) for seed in (0, 1))
    chosen = choices(at, found)
    world = worlds.world(story, "test")
    logs = {BASE: _proposed(world, at, found.base), CAUSAL: _proposed(world, at, chosen)}
    return {
        "costs": {name: _judged(story, log) for name, log in logs.items()},
        "base_share": share,
        "gap": max(charge(at, fresh, chosen) - least_charge(at, found), 0.0),
    }


def oracles(story: Scenario) -> dict[str, FloatArray]:
    """Costs of each test row, [T, 1], of the bound and of the best plan that is executed."""
    world, told = worlds.scoring_world(story), worlds.world(story, "test")
    start, rows = _start(world), len(world.rows)
    cost, _ = bound.least_cost_rows(world, world.quality.at_counts, start, rows)
    proposals = plan.best_plan(world, frontier(world.quality).kept, start, rows)
    return {BOUND: cost, BEST: _judged(story, rollout.proposed(told, proposals, start))}


def scored(
    costs: Mapping[str, FloatArray], output: IntArray, pieces: Pieces
) -> dict[str, dict[str, float]]:
    """Cost and foresight of each policy, and its share of the causal score where that is one.

    Args:
        costs: of each row, [T, K] each, those of the lookup and the bound among them.
        output: tokens of each row, [T, K].
        pieces: of these rows, that a resample draws.
    """
    rows, lanes = output.shape
    drawn = score.resamples(pieces, np.arange(lanes) * rows // lanes)
    sums = dict(zip(costs, drawn.summed([*costs.values()], output), strict=True))
    found = {}
    for name, each in sums.items():
        foresight = score.score(each, sums[LOOKUP], sums[BOUND], pieces)
        found[name] = {
            "cost": each.total / float(output.sum()),
            "foresight": foresight.value,
            "low": foresight.low,
            "high": foresight.high,
        }
        if CAUSAL in sums and name not in (LOOKUP, CAUSAL, BOUND, BEST):
            share = score.score(each, sums[LOOKUP], sums[CAUSAL], pieces)
            told = {"share": share.value, "share_low": share.low, "share_high": share.high}
            if not any(map(math.isnan, told.values())):  # the causal controller gains something
                found[name] |= told
    return found
