"""A cost that no plan can beat, by dynamic programming over counts of dropped blocks.

Bytes depend only on how many attention and FFN blocks are kept, and M(counts) is the least nll
that any kept set with these counts is credited with. The world below is easier than the real one
wherever the two differ: reloads cost what count differences cost at least, an emergency may drop to
any smaller counts, any batch may be refused from any second, after which the next row may start
from any counts, and the first row's start is free.
"""

from dataclasses import dataclass

import numpy as np

from rapgym.arrays import FloatArray, IntArray
from rapgym.world import pace, stall
from rapgym.world.records import State, World
from rapgym.world.reward import token_loss


def least_cost_rows(
    world: World, at_counts: FloatArray, state: State, rows: int
) -> tuple[FloatArray, IntArray]:
    """The cost of each row of one plan than which no policy can cost less on these rows.

    Args:
        world: whose rows and limits apply; its quality columns are not read.
        at_counts: M, float64 [A + 1, F + 1], of the columns that score.
        state: the first row of each of B lanes; what is loaded there does not matter.
        rows: how many rows are served.

    Returns:
        Mean cost of each row, float64 [rows, B], and its output tokens, int64 [rows, B].
    """
    lanes = [_Lane(world, at_counts, state, lane, rows) for lane in range(state.lanes)]
    loaded = pace.is_loaded() or pace.is_loaded("quick_bound")
    compiled = loaded or rows * state.lanes >= pace.REFERENCE_ROWS
    return (
        np.stack([lane.plan(compiled=compiled) for lane in lanes], axis=1),
        np.stack([lane.output for lane in lanes], axis=1),
    )


@dataclass(frozen=True, slots=True)
class _Row:
    """Least cost from each second of one row on, all later rows included, by counts: [S] each."""

    to_come: FloatArray  # at the start of each second, [W + 1, S]
    fits: FloatArray  # bool [W, S]
    # What an emergency in this second costs with each counts to land on, [W, S].
    landing: FloatArray
    refusing: FloatArray  # cost of refusing from each second, [W]


class _Lane:
    """The plan of one lane, over S = (A + 1) (F + 1) states: counts of dropped blocks."""

    def __init__(
        self, world: World, at_counts: FloatArray, state: State, lane: int, rows: int
    ) -> None:
        self.world, self.shape = world, at_counts.shape
        self.a, self.f = (grid.ravel() for grid in np.indices(at_counts.shape))
        self.loss = token_loss(at_counts.ravel(), world.ceiling)
        footprint = world.footprint
        returned = np.maximum(self.a[:, None] - self.a, 0) * footprint.attention_bytes
        returned = returned + np.maximum(self.f[:, None] - self.f, 0) * footprint.ffn_bytes
        self.reload_s = stall.stall_s(world, returned)  # from state i to state j
        steps = np.arange(rows)
        where = world.state(
            (state.row[lane] + steps) % len(world.rows),
            (state.limit_row[lane] + steps) % len(world.rows),
            np.full(rows, state.token_scale[lane]),
        )
        asked = world.demand(where)
        self.limit = world.limits(where)
        self.output = world.rows.output_tokens[where.row]
        kept = footprint.layers - self.a, footprint.layers - self.f
        each = asked.tokens[:, None], asked.prompt_tokens[:, None]
        self.used = footprint.counted_bytes(*kept, *each) + footprint.margin_bytes

    def plan(self, *, compiled: bool) -> FloatArray:
        """Mean cost of each row along a best plan, float64 [rows].

        Args:
            compiled: plan by compiled code, which gives the same to the last bit.
        """
        cost = self._compiled() if compiled else self._plan()
        output = np.where(self.output > 0, self.output, 1)
        return np.where(self.output > 0, cost / output, 0.0)

    def _compiled(self) -> FloatArray:
        from rapgym.world import quick_bound
        from rapgym.world.twin import fixed

        sizes, rates = (
            [self.world.window_s, *self.shape],
            [self.world.ceiling, stall.pause_s(self.world)],
        )
        parts = (self.used, self.limit, self.output, self.loss, self.reload_s, self.reload_s.T)
        numbers = np.array(sizes, dtype=np.int64), np.array(rates, dtype=np.float64)
        return quick_bound.planned(quick_bound.Asked(*map(fixed, (*parts, *numbers))))

    def _plan(self) -> FloatArray:
        rows, states = self.used.shape
        later = np.zeros((rows + 1, states))  # cost of rows t, t + 1, ..., by counts before row t
        for t in range(rows - 1, -1, -1):
            row = self._row(t, later[t + 1])
            later[t] = (row.to_come[0] + self._stall(t, self.reload_s)).min(axis=1)
        cost = np.empty(rows)
        before = int(later[0].argmin())
        for t in range(rows):
            row = self._row(t, later[t + 1])
            start = int((row.to_come[0] + self._stall(t, self.reload_s[before])).argmin())
            after = self._end(row, start, later[t + 1])
            cost[t] = later[t, before] - later[t + 1, after]
            before = after
        return cost

    def _stall(self, t: int, reload_s: FloatArray) -> FloatArray:
        """Cost of returning blocks before row t, by counts they return to: [..., S] -> [..., S].

        They return in the seconds before the first emergency at the least.
        """
        over = self.used[t][:, None] > self.limit[t]
        calm_s = np.where(over.any(axis=1), over.argmax(axis=1), self.world.window_s)
        per_second = self.output[t] / self.world.window_s * (self.world.ceiling - self.loss)
        cost: FloatArray = np.minimum(reload_s, calm_s) * per_second
        return cost

    def _row(self, t: int, later: FloatArray) -> _Row:
        window_s, states = self.world.window_s, len(self.loss)
        weight = self.output[t] / window_s
        served, lost = weight * self.loss, weight * self.world.ceiling
        # Of an emergency's second the reaction is lost; what is landed on serves the rest of it. That a
        # stall may go on in that rest is left out: it would only add to the cost.
        pause_s = stall.pause_s(self.world)
        landed = pause_s * lost + (1.0 - pause_s) * served
        fits = self.used[t] <= self.limit[t][:, None]
        to_come, landing = np.empty((window_s + 1, states)), np.empty((window_s, states))
        refusing = lost * (window_s - np.arange(window_s)) + later.min()
        to_come[window_s] = later
        for second in range(window_s - 1, -1, -1):
            after = to_come[second + 1]
            # An emergency: drop to any smaller counts that fit.
            landing[second] = np.where(fits[second], after + landed, np.inf)
            drop = _least_with_more_dropped(landing[second].reshape(self.shape)).ravel()
            if second == 0:  # a row starts with what fits, so that blocks cannot return this way
                drop = np.full(states, np.inf)
            go_on = np.where(fits[second], served + after, drop)
            to_come[second] = np.minimum(go_on, refusing[second])
        return _Row(to_come, fits, landing, refusing)

    def _end(self, row: _Row, start: int, later: FloatArray) -> int:
        """The counts at the end of a row that starts with `start`, along a best plan."""
        now = start
        for second in range(self.world.window_s):
            if row.to_come[second, now] == row.refusing[second]:
                return int(later.argmin())
            if not row.fits[second, now]:
                more = (self.a >= self.a[now]) & (self.f >= self.f[now])
                now = int(np.where(more, row.landing[second], np.inf).argmin())
        return now


def _least_with_more_dropped(values: FloatArray) -> FloatArray:
    """Minimum over all counts that drop at least as much of both kinds, [A + 1, F + 1]."""
    along = np.minimum.accumulate(values[::-1], axis=0)[::-1]
    least: FloatArray = np.minimum.accumulate(along[:, ::-1], axis=1)[:, ::-1]
    return least
