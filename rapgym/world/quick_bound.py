"""The bound by compiled code: `bound._Lane.plan` again, bit for bit, for runs of many rows.

The words are those of the reference, which says why. States are counts of dropped blocks, row after row of
the grid; minima do not depend on the order in which they are taken.
"""

from typing import NamedTuple

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.files.compiled import compiled, inner

WINDOW_S, ATTENTION, FFN = range(3)  # in `Asked.sizes`: seconds of a row, and the grid's shape
CEILING, PAUSE_S = range(2)  # in `Asked.rates`


class Asked(NamedTuple):
    """What one lane's plan depends on, read-only; S states, T rows of W seconds."""

    used: IntArray  # bytes of each state, margin included, [T, S]
    limit: IntArray  # [T, W]
    output: IntArray  # [T]
    loss: FloatArray  # [S]
    reload_s: FloatArray  # until those are back that the first state lacks of the second, [S, S]
    back_s: FloatArray  # the same by the second state, [S, S]
    sizes: IntArray
    rates: FloatArray


class Row(NamedTuple):
    """Room for one row: as `bound._Row`, and what a stall before it costs."""

    to_come: FloatArray  # [W + 1, S]
    fits: BoolArray  # [W, S]
    landing: FloatArray  # [W, S]
    refusing: FloatArray  # [W]
    calm_s: FloatArray  # seconds before the first emergency, [S]
    per_second: FloatArray  # what a second of stall costs, [S]
    drop: FloatArray  # scratch, [S]


@inner
def _least_with_more_dropped(values: FloatArray, ffn: int) -> None:
    """In place: the minimum over all counts that drop at least as much of both kinds."""
    states = len(values)
    for state in range(states - 1, -1, -1):
        if (state + 1) % ffn:
            values[state] = min(values[state], values[state + 1])
        if state + ffn < states:
            values[state] = min(values[state], values[state + ffn])


@inner
def _fill(a: Asked, t: int, later: FloatArray, row: Row) -> None:
    window_s, ffn, states = a.sizes[WINDOW_S], a.sizes[FFN], len(a.loss)
    ceiling, pause_s = a.rates[CEILING], a.rates[PAUSE_S]
    weight = a.output[t] / window_s
    lost, least = weight * ceiling, later.min()
    for state in range(states):
        row.to_come[window_s, state] = later[state]
        row.calm_s[state] = window_s
        row.per_second[state] = weight * (ceiling - a.loss[state])
    for second in range(window_s - 1, -1, -1):
        row.refusing[second] = lost * (window_s - second) + least
        limit = a.limit[t, second]
        all_fit = True
        for state in range(states):
            fits = a.used[t, state] <= limit
            row.fits[second, state] = fits
            all_fit &= fits
            row.landing[second, state] = np.inf
            if fits:
                served = weight * a.loss[state]
                landed = pause_s * lost + (1.0 - pause_s) * served
                row.landing[second, state] = row.to_come[second + 1, state] + landed
            else:
                row.calm_s[state] = second
        if not all_fit and second:
            for state in range(states):
                row.drop[state] = row.landing[second, state]
            _least_with_more_dropped(row.drop, ffn)
        for state in range(states):
            go_on = np.inf
            if row.fits[second, state]:
                go_on = weight * a.loss[state] + row.to_come[second + 1, state]
            elif second:
                go_on = row.drop[state]
            row.to_come[second, state] = min(go_on, row.refusing[second])


@inner
def _before(a: Asked, row: Row, found: FloatArray) -> None:
    """Write the least cost of a row and all later ones, by counts before it, [S]."""
    states, start = len(found), row.to_come[0]
    for state in range(states):
        found[state] = start[state]  # nothing returns
    best = start.argmin()
    for turn in range(states + 1):
        # The best first: most others cannot be better for anyone then.
        there = best if turn == 0 else turn - 1
        if turn and (there == best or start[there] >= found.max()):
            continue
        calm_s, per_second, then = row.calm_s[there], row.per_second[there], start[there]
        back_s = a.back_s[there]
        for state in range(states):
            found[state] = min(found[state], then + min(back_s[state], calm_s) * per_second)


@inner
def _end(a: Asked, row: Row, start: int, later: FloatArray) -> int:
    """The counts at the end of a row that starts with `start`, along a best plan."""
    now, ffn = start, a.sizes[FFN]
    for second in range(a.sizes[WINDOW_S]):
        if row.to_come[second, now] == row.refusing[second]:
            return later.argmin()  # type: ignore[return-value]
        if not row.fits[second, now]:
            least, chosen = np.inf, 0
            for state in range(len(later)):
                more = state // ffn >= now // ffn and state % ffn >= now % ffn
                if more and row.landing[second, state] < least:
                    least, chosen = row.landing[second, state], state
            now = chosen
    return now


@compiled
def plan(a: Asked, later: FloatArray, row: Row, cost: FloatArray) -> None:
    """Write what each row costs along a best plan, output tokens times nats, [T].

    Args:
        later: scratch, zero, [T + 1, S]; row: scratch.
    """
    rows = len(a.output)
    for t in range(rows - 1, -1, -1):
        _fill(a, t, later[t + 1], row)
        _before(a, row, later[t])
    before = later[0].argmin()
    for t in range(rows):
        _fill(a, t, later[t + 1], row)
        start, least = 0, np.inf
        for state in range(len(a.loss)):
            waits = min(a.reload_s[before, state], row.calm_s[state])
            total = row.to_come[0, state] + waits * row.per_second[state]
            if total < least:
                start, least = state, total
        after = _end(a, row, start, later[t + 1])
        cost[t] = later[t, before] - later[t + 1, after]
        before = after


def planned(asked: Asked) -> FloatArray:
    """What each row costs along a best plan, output tokens times nats, float64 [T]."""
    rows, states = asked.used.shape
    window_s = int(asked.sizes[WINDOW_S])
    wide = np.empty((2, window_s + 1, states))
    row = Row(
        wide[0], np.empty((window_s, states), dtype=bool), wide[1], np.empty(window_s),
        *np.empty((3, states)),
    )  # fmt: skip
    cost = np.empty(rows)
    plan(asked, np.zeros((rows + 1, states)), row, cost)
    return cost
