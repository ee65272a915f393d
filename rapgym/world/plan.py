"""The best plan found that the environment really executes: an oracle, beside the bound.

It knows all rows and the columns that score. Dynamic programming chooses among measured sets; what
it chooses is then served by the simulator itself, so its cost is one that was reached.
"""

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.world import simulator, stall
from rapgym.world.records import State, World
from rapgym.world.reward import token_loss


def best_plan(world: World, candidates: BoolArray, start: State, rows: int) -> BoolArray:
    """Proposals of the best plan found over `candidates`.

    Args:
        world: with the columns that score.
        candidates: kept sets to choose from, bool [K, N].
        start: of each of B lanes, before the first row.

    Returns:
        bool [rows, B, N]. Exact but for one thing: where an emergency interrupts a reload, its
        rest is not counted while planning.
    """
    lanes, count = start.lanes, len(candidates)
    tiled = np.tile(candidates, (lanes, 1))
    kept = np.empty((rows, lanes, count, world.blocks), dtype=bool)  # executed at a row's start
    stall_cost = np.empty((rows, lanes, count))  # of one second of stalling
    calm_s = np.empty((rows, lanes, count))
    own, ends = [], []
    for t in range(rows):
        state = world.state(
            np.repeat((start.row + t) % len(world.rows), count),
            np.repeat((start.limit_row + t) % len(world.rows), count),
            np.repeat(start.token_scale, count),
            tiled,
        )
        _, outcome = simulator.step(world, state, tiled)
        asked = world.demand(state)
        used = world.footprint.used_bytes(outcome.kept, asked.tokens, asked.prompt_tokens)
        over = (used + world.footprint.margin_bytes)[:, None] > world.limits(state)
        first = np.where(over.any(axis=1), over.argmax(axis=1), world.window_s)
        weight = outcome.output_tokens / world.mean_output_tokens / world.window_s
        loss = token_loss(outcome.nll, world.ceiling)
        kept[t] = outcome.kept.reshape(lanes, count, -1)
        stall_cost[t] = (weight * (world.ceiling - loss)).reshape(lanes, count)
        calm_s[t] = np.where(outcome.refused, 0, first).reshape(lanes, count)
        own.append(outcome.terms.total.reshape(lanes, count))
        ends.append(outcome.kept_end.reshape(lanes, count, -1))

    def onward(t: int, loaded: BoolArray, ahead: FloatArray) -> FloatArray:
        """Cost of each choice at row t from each loaded set: [B, M, N] -> [B, M, K]."""
        returning = stall.returning_between(world.footprint, loaded, kept[t])
        stall_s = stall.stall_s(world, returning)
        stalled = np.minimum(stall_s, calm_s[t][:, None]) * stall_cost[t][:, None]
        total: FloatArray = stalled + ahead[:, None]
        return total

    ahead = [np.zeros((lanes, count))] * rows  # of row t's choice and all rows after it
    later = np.zeros((lanes, count))
    for t in range(rows - 1, -1, -1):
        ahead[t] = own[t] + later
        if t:
            later = onward(t, ends[t - 1], ahead[t]).min(axis=2)
    proposals = np.empty((rows, lanes, world.blocks), dtype=bool)
    state = start
    for t in range(rows):
        choice = onward(t, state.loaded[:, None], ahead[t])[:, 0].argmin(axis=1)
        proposals[t] = candidates[choice]
        state, _ = simulator.step(world, state, proposals[t])
    return proposals
