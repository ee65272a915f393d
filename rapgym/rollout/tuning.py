"""What settings cost on train, and the best of them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray, first_of_least
from rapgym.errors import InvalidPolicy
from rapgym.policies.policy import Briefing, Policy
from rapgym.policies.tuning import TUNING_BUDGET
from rapgym.rollout import at_once
from rapgym.rollout.rollout import paired_rows, served_rows, whole_split
from rapgym.scenarios.lanes import Lanes
from rapgym.world import pace, simulator
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
    world, starts = lanes.world, whole_split(lanes.world, story.offsets)
    total, output = np.zeros(copies), np.zeros(copies)
    quick = pace.is_compiled(world, copies * sum(start.rows for start in starts))
    for k, start in enumerate(starts):
        policy = make()
        if quick and at_once.can_tally(policy):
            output += at_once.tally(policy, lanes, start, briefing, total)
            continue
        for _, served in served_rows(policy, lanes, start, briefing, [0, k]):
            total += served.outcome.terms.total * world.mean_output_tokens
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
    if pace.is_compiled(world, offsets * count * rows):
        return _sets_cost(world, sets, refuses_misfit=refuses_misfit, offsets=offsets)
    turned = np.repeat(np.arange(offsets) * rows // offsets, count)
    lanes = len(turned)
    state = world.state(np.zeros(lanes, dtype=np.int64), turned)
    proposal, strict = np.tile(sets, (offsets, 1)), np.full(lanes, refuses_misfit)
    total, output = np.zeros(lanes), np.zeros(lanes)
    for _ in range(rows):
        state, outcome = simulator.step(world, state, proposal, None, strict)
        total += outcome.terms.total * world.mean_output_tokens
        output += outcome.output_tokens
    cost: FloatArray = total.reshape(offsets, count).sum(axis=0) / output.reshape(
        offsets, count
    ).sum(axis=0)
    return cost


def _sets_cost(world: World, sets: BoolArray, *, refuses_misfit: bool, offsets: int) -> FloatArray:
    """`fixed_sets_cost` by compiled code."""
    from rapgym.world.tally import Tally

    row, limit_row = paired_rows(world, offsets)
    chosen = np.broadcast_to(np.arange(len(sets)), (len(row), len(sets)))
    total = np.zeros((offsets, len(sets)))
    for pairing, paid in enumerate(total):
        tally = Tally(world, sets, paid, refuses_misfit=refuses_misfit)
        tally.serve(row[:, pairing], limit_row[:, pairing], chosen)
    cost: FloatArray = total.sum(axis=0) / float(world.rows.output_tokens[row].sum())
    return cost
