"""The best plan found that the environment really executes: an oracle, beside the bound.

It knows all rows and the columns that score. Dynamic programming chooses among measured sets; what
it chooses is then served by the simulator itself, so its cost is one that was reached.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.model import blocks
from rapgym.world import pace, stall
from rapgym.world.records import Outcome, State, World
from rapgym.world.reward import token_loss


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Some seconds of a row in which no choice of any lane loses a block: [B, K] each."""

    able_s: FloatArray  # how much of them can serve
    cost: FloatArray  # of a second of them that waits instead of serving


def _stretches(world: World, outcome: Outcome, shape: tuple[int, int]) -> list[_Stretch]:
    """A row that was served without a stall, from one fall of the limit to the next."""
    weight = outcome.output_tokens / world.mean_output_tokens / world.window_s
    loss = token_loss(outcome.nll, world.ceiling)
    refused = outcome.refused.copy()
    falls = {fall.second: fall for fall in outcome.falls}
    edges = sorted({0, world.window_s, *falls, *(second + 1 for second in falls)})
    found = []
    for start, stop in pairwise(edges):
        able_s = np.full(len(loss), float(stop - start))
        if start in falls:
            fall = falls[start]
            loss = loss.copy()
            loss[fall.lanes] = token_loss(world.quality.nll(fall.kept)[0], world.ceiling)
            refused[fall.lanes] |= fall.refused
            able_s[fall.lanes] -= stall.pause_s(world)
        able_s[refused] = 0.0
        cost = weight * (world.ceiling - loss)
        found.append(_Stretch(able_s.reshape(shape), cost.reshape(shape)))
    return found


def _onward(
    world: World, loaded: BoolArray, kept: BoolArray, waits: Sequence[_Stretch], ahead: FloatArray
) -> FloatArray:
    """Cost of each choice of a row from each loaded set, and of all that follows.

    Args:
        loaded: [B, M, N]; kept: executed at the row's start, [B, K, N].
        ahead: without the stall of the row, [B, K].

    Returns:
        float64 [B, M, K].
    """
    returning = stall.returning_between(world.footprint, loaded, kept)
    left_s = stall.stall_s(world, returning)
    total: FloatArray = np.broadcast_to(ahead[:, None], left_s.shape).copy()
    for stretch in waits:
        waited = stall.in_second(left_s, stretch.able_s[:, None])
        total += waited * stretch.cost[:, None]
        left_s = left_s - waited
    return total


def best_plan(world: World, candidates: BoolArray, start: State, rows: int) -> BoolArray:
    """Proposals of the best plan found over `candidates`.

    Args:
        world: with the columns that score.
        candidates: kept sets to choose from, bool [K, N].
        start: of each of B lanes, before the first row.

    Returns:
        bool [rows, B, N]. Exact but for one thing: where a row is refused from its start, the floor
        is taken to have been in memory.
    """
    lanes, count = start.lanes, len(candidates)
    tiled = np.tile(candidates, (lanes, 1))
    # Executed at a row's start, and in memory at its end: packed, for of days there are gigabytes of them.
    kept, ends = [], []
    waits: list[list[_Stretch]] = []
    own = []
    step, twin = pace.step_for(world, rows * len(tiled)), pace.twin_for(world, rows * len(tiled))
    for t in range(rows):
        state = world.state(
            np.repeat((start.row + t) % len(world.rows), count),
            np.repeat((start.limit_row + t) % len(world.rows), count),
            np.repeat(start.token_scale, count),
            tiled,
        )
        _, outcome = step(world, state, tiled)
        kept.append(blocks.packed(outcome.kept.reshape(lanes, count, -1)))
        waits.append(_stretches(world, outcome, (lanes, count)))
        own.append(outcome.terms.total.reshape(lanes, count))
        ends.append(blocks.packed(outcome.kept_end.reshape(lanes, count, -1)))

    def onward(t: int, loaded: BoolArray, ahead: FloatArray) -> tuple[FloatArray, IntArray]:
        """The least cost at row t from each loaded set, and the choice that has it.

        Args:
            loaded: [B, M, N]; ahead: cost of each choice and of all that follows, [B, K].

        Returns:
            float64 [B, M] and int64 [B, M].
        """
        executed = blocks.unpacked(kept[t], world.blocks)
        if twin is not None:
            able_s = np.stack([stretch.able_s for stretch in waits[t]])
            cost = np.stack([stretch.cost for stretch in waits[t]])
            return twin.onward(loaded, executed, able_s, cost, ahead)
        total = _onward(world, loaded, executed, waits[t], ahead)
        return total.min(axis=2), total.argmin(axis=2)

    ahead = [np.zeros((lanes, count))] * rows  # of row t's choice and all rows after it
    later: FloatArray = np.zeros((lanes, count))
    for t in range(rows - 1, -1, -1):
        ahead[t] = own[t] + later
        if t:
            later, _ = onward(t, blocks.unpacked(ends[t - 1], world.blocks), ahead[t])
    proposals = np.empty((rows, lanes, world.blocks), dtype=bool)
    state = start
    for t in range(rows):
        _, choice = onward(t, state.loaded[:, None], ahead[t])
        proposals[t] = candidates[choice[:, 0]]
        state, _ = step(world, state, proposals[t])
    return proposals
