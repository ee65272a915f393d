"""What settings cost on train, and the best of them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray, first_of_least
from rapgym.errors import InvalidPolicy
from rapgym.policies.policy import Briefing, Policy
from rapgym.policies.tuning import TUNING_BUDGET
from rapgym.rollout.rollout import served_rows, whole_split
from rapgym.scenarios.lanes import Lanes
from rapgym.world.pace import step_for
from rapgym.world.records import World


def train_cost(make: Callable[[], Policy], briefing: Briefing) -> float:
    """Cost on the briefing's whole split, pairings pooled: what free parameters are tuned by."""
    return float(train_costs(make, briefing, 1)[0])


def train_costs(make: Callable[[], Policy], briefing: Briefing, copies: int) -> FloatArray:
    """The same for a policy whose lanes try `copies` settings side by side, float64 [copies].

    As in `run`, each pairing is served by a policy object and a random stream of its own; `make`
    is called for one pairing after the other, in the order of `whole_split`.
    """
    story, lanes = briefing.scenario, Lanes(briefing.scenario, briefing.split, copies)
    total, output = np.zeros(copies), np.zeros(copies)
    for k, start in enumerate(whole_split(lanes.world, story.offsets)):
        for _, served in served_rows(make(), lanes, start, briefing, [0, k]):
            total += served.outcome.terms.total * lanes.world.mean_output_tokens
            output += served.outcome.output_tokens
    return total / np.maximum(output, 1)


def best_settings(
    make: Callable[..., Policy], settings: Mapping[str, FloatArray | IntArray], briefing: Briefing
) -> dict[str, Any]:
    """The settings with the least cost on the briefing's split; the first of those that tie.

    Args:
        make: gives a policy object of arguments that are arrays, one entry a lane.
        settings: values of each argument, [K]; entry i of all of them is one setting.

    Raises:
        InvalidPolicy: there are more settings than any method may try.
    """
    count = tried(settings)
    best = first_of_least(train_costs(lambda: make(**settings), briefing, count))
    return {name: values[best].item() for name, values in settings.items()}


def tried(settings: Mapping[str, FloatArray | IntArray]) -> int:
    """How many settings these are, entry i of all of them being one; without free parameters one.

    Raises:
        InvalidPolicy: there are more than any method may try.
    """
    (count,) = {len(values) for values in settings.values()} or {1}
    if count > TUNING_BUDGET:
        raise InvalidPolicy(f"{count} settings to try; a method may try {TUNING_BUDGET}")
    return count


def fixed_sets_cost(
    world: World, sets: BoolArray, *, refuses_misfit: bool, offsets: int
) -> FloatArray:
    """Cost of keeping one set for good, for each of K sets at once, all pairings pooled, [K]."""
    count, rows = len(sets), len(world.rows)
    turned = np.repeat(np.arange(offsets) * rows // offsets, count)
    lanes = len(turned)
    state = world.state(np.zeros(lanes, dtype=np.int64), turned)
    proposal, strict = np.tile(sets, (offsets, 1)), np.full(lanes, refuses_misfit)
    total, output = np.zeros(lanes), np.zeros(lanes)
    step = step_for(world, lanes * rows)
    for _ in range(rows):
        state, outcome = step(world, state, proposal, None, strict)
        total += outcome.terms.total * world.mean_output_tokens
        output += outcome.output_tokens
    cost: FloatArray = total.reshape(offsets, count).sum(axis=0) / output.reshape(
        offsets, count
    ).sum(axis=0)
    return cost
