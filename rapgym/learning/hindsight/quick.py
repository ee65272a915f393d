"""The decision of `baselines.hindsight` by compiled code, one observation at a time.

Sums go in another order than NumPy's, so costs differ in their last digits. Where two sets cost nearly the
same, nothing is chosen here: `baselines.hindsight` decides, so that decisions are the same.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import FloatArray, IntArray
from rapgym.files.compiled import compiled, inner, settled
from rapgym.world.twin import given, shown

# Nats: sets whose costs differ by less are not told apart here. The two ways differ by a tenth of it at most.
NEAR = 2e-5
# Places in `Net.places`: of the first second that is read, the last that is known, the first of recent rows;
# of demand, of the limits that are known, and of what is loaded.
FIRST, NOW, RECENT, HISTORY, WINDOW_S, PROMPT, RESERVED, LIMIT, LIMITS, LOADED = range(10)
LAYERS, ATTENTION, MODEL_KV, FIXED_AND_MARGIN = range(4)  # in `Net.sizes`
TOKEN, CARD, ACTIVATION = range(3)  # in `Net.units`
Array32 = NDArray[np.float32]


class Net(NamedTuple):
    """A network of V inputs, M members of two layers of D, in a world with K sets; read-only."""

    places: IntArray
    rest: IntArray  # entries that are taken as they are
    first: Array32  # [V, M * D]
    first_bias: Array32  # [M * D]
    second: Array32  # [M, D, D]
    second_bias: Array32  # [M * D]
    third: Array32  # [M * D, both curves]
    third_bias: Array32
    near: FloatArray  # knots
    level: FloatArray
    row_share: Array32  # of a row, that each block of each set takes to come back, [N, K]
    to_lose: FloatArray  # [K]
    loss: FloatArray
    attention: FloatArray  # blocks kept, [K]
    ffn_share: FloatArray  # of the card, [K]
    sizes: IntArray
    units: FloatArray


class Scratch(NamedTuple):
    """Room that is written to and forgotten."""

    raw: Array32  # [V]
    hidden: Array32  # [M * D]
    deeper: Array32  # [M * D]
    values: Array32  # of both curves at their knots
    share: Array32  # [K]
    cost: FloatArray  # [K]
    used: FloatArray  # [K]
    left: FloatArray  # [K]
    lower: IntArray  # [K]


def scratch_of(net: Net) -> Scratch:
    """Room for one decision at a time."""
    inputs, width = net.first.shape
    count, hidden = len(net.loss), np.empty((2, width), np.float32)
    return Scratch(
        np.empty(inputs, np.float32), hidden[0], hidden[1],
        np.empty(len(net.third_bias), np.float32), np.empty(count, np.float32),
        np.empty(count), np.empty(count), np.empty(count), np.empty(count, np.int64),
    )  # fmt: skip


@inner
def _copy(source: Array32, to: Array32) -> None:
    """`to[:] = source`, for which numba would compile the text of an error for seconds."""
    for place in range(len(to)):
        to[place] = source[place]


@inner
def _read(net: Net, seen: Array32, raw: Array32) -> None:
    """As `features.Inputs.raw`."""
    places, place = net.places, 0
    level = seen[places[NOW]]
    rows, window_s = places[RECENT] - places[FIRST], places[WINDOW_S]
    seconds = rows + places[HISTORY] * window_s
    for second in range(seconds):
        raw[second] = seen[places[FIRST] + second] - level
    for row in range(places[HISTORY]):
        start = rows + row * window_s
        lowest = highest = raw[start]
        for second in range(start + 1, start + window_s):
            lowest, highest = min(lowest, raw[second]), max(highest, raw[second])
        raw[seconds + row], raw[seconds + places[HISTORY] + row] = lowest, highest
    place = seconds + 2 * places[HISTORY]
    for index in range(len(net.rest)):
        raw[place + index] = seen[net.rest[index]]


@inner
def _bend(values: Array32) -> None:
    """The hyperbolic tangent of each, in place; off by 3e-7 at most.

    Lambert's continued fraction for a quarter of it, doubled twice: many go at a time, which no call does.
    """
    one, two, most = np.float32(1.0), np.float32(2.0), np.float32(9.0)
    quarter = np.float32(0.25)
    for place in range(len(values)):
        x = quarter * min(max(values[place], -most), most)
        y = x * x
        top = ((y + np.float32(378.0)) * y + np.float32(17325.0)) * y + np.float32(135135.0)
        low = (np.float32(28.0) * y + np.float32(3150.0)) * y + np.float32(62370.0)
        x = x * top / (low * y + np.float32(135135.0))
        x = two * x / (one + x * x)
        values[place] = two * x / (one + x * x)


@inner
def _curves(net: Net, s: Scratch) -> None:
    """Write what the network says at the knots."""
    hidden, deeper, values = s.hidden, s.deeper, s.values
    _copy(net.first_bias, hidden)
    for entry in range(len(s.raw)):
        value = s.raw[entry]
        if value != 0.0:
            for unit in range(len(hidden)):
                hidden[unit] += value * net.first[entry, unit]
    _bend(hidden)
    _copy(net.second_bias, deeper)
    width = net.second.shape[1]
    for member in range(len(net.second)):
        start = member * width
        for entry in range(width):
            value = hidden[start + entry]
            for unit in range(width):
                deeper[start + unit] += value * net.second[member, entry, unit]
    _bend(deeper)
    _copy(net.third_bias, values)
    for entry in range(len(deeper)):
        value = deeper[entry]
        for knot in range(len(values)):
            values[knot] += value * net.third[entry, knot]


@inner
def _add_curve(
    knots: FloatArray, values: Array32, first: int, x: FloatArray, lower: IntArray, cost: FloatArray
) -> None:
    """Add a line between knots, as `np.interp` draws it, at K places.

    Args:
        first: where the curve's values begin in `values`.
        x: [K]; lower: scratch, the knot below each, [K]; cost: added to, [K].
    """
    last = len(knots) - 1
    lower[:] = 0
    for knot in range(1, last):  # all places at a time: quicker than a search for each
        for index in range(len(x)):
            lower[index] += x[index] >= knots[knot]
    for index in range(len(x)):
        low = lower[index]
        start, stop = np.float64(values[first + low]), np.float64(values[first + low + 1])
        slope = (stop - start) / (knots[low + 1] - knots[low])
        within = min(max(x[index], knots[0]), knots[last])
        cost[index] += slope * (within - knots[low]) + start


@compiled
def costs(net: Net, seen: Array32, s: Scratch) -> None:
    """Write `cost` and `used` of all sets to the scratch, as `Agent.costs` gives them: seen float32 [O]."""
    places, sizes, units = net.places, net.sizes, net.units
    _read(net, seen, s.raw)
    _curves(net, s)
    prompt = np.int64(np.rint(np.float64(seen[places[PROMPT]]) * units[TOKEN]))
    tokens = prompt + np.int64(np.rint(np.float64(seen[places[RESERVED]]) * units[TOKEN]))
    attention_cost = sizes[ATTENTION] - ((-sizes[MODEL_KV] * tokens) // sizes[LAYERS])
    per_attention = attention_cost / units[CARD]
    base = (sizes[FIXED_AND_MARGIN] + np.ceil(units[ACTIVATION] * prompt)) / units[CARD]
    limit = np.float64(seen[places[LIMIT]])
    for second in range(1, places[LIMITS]):
        limit = min(limit, np.float64(seen[places[LIMIT] + second]))
    s.share[:] = 0.0
    for block in range(len(net.row_share)):
        if seen[places[LOADED] + block] == 0.0:
            for index in range(len(s.share)):
                s.share[index] += net.row_share[block, index]
    for index in range(len(s.cost)):
        s.used[index] = net.attention[index] * per_attention + net.ffn_share[index] + base
        s.left[index] = limit - s.used[index]
        s.cost[index] = min(np.float64(s.share[index]), 1.0) * net.to_lose[index] + net.loss[index]
    _add_curve(net.near, s.values, 0, s.left, s.lower, s.cost)
    _add_curve(net.level, s.values, len(net.near), s.used, s.lower, s.cost)
    for index in range(len(s.cost)):
        if s.left[index] < net.near[0]:
            s.cost[index] = np.inf


@compiled
def choose(net: Net, seen: Array32, s: Scratch, chosen: IntArray) -> bool:
    """Write the set with the least cost in each of B lanes; -1, and False, where two are near, or none fits.

    Args:
        seen: observations, [B, O]; chosen: written, [B].
    """
    whole = True
    for lane in range(len(seen)):
        costs(net, seen[lane], s)
        best, least, second = -1, np.inf, np.inf
        for index in range(len(s.cost)):
            cost = s.cost[index]
            if cost < least:
                best, least, second = index, cost, least
            elif cost < second:
                second = cost
        if best >= 0 and second - least < NEAR:
            best = -1
        chosen[lane] = best
        whole &= best >= 0
    return whole


class Quick:
    """Decides with one network in one world."""

    def __init__(self, net: Net) -> None:
        self._net, self._scratch, self._choose = net, scratch_of(net), settled(choose)

    def chosen(self, observation: FloatArray) -> tuple[IntArray, bool]:
        """float32 [B, O] -> the set with the least cost, [B], -1 where the reference has to tell; and whether none is."""
        found = np.empty(len(observation), dtype=np.int64)
        return found, self._choose(self._net, shown(observation), self._scratch, found)

    def costs(self, seen: FloatArray) -> FloatArray:
        """float32 [O] -> what each set costs, infinite where it does not fit, [K]; for this moment."""
        costs(self._net, given(seen, np.float32), self._scratch)
        return self._scratch.cost
