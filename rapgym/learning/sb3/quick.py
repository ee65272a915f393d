"""Small networks by compiled code, one observation at a time: two hidden layers of rectified units.

Sums go in another order than NumPy's, so values differ in their last digits. Where the two highest are near
each other nothing is chosen here, and who asks falls back to NumPy, so that decisions are the same.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import BoolArray, IntArray
from rapgym.files.compiled import compiled, inner

# Values that differ by less, as a share of the highest and at least of 1, are not told apart here.
NEAR = 2e-5
Array32 = NDArray[np.float32]


class Net(NamedTuple):
    """A network of O inputs and H, G hidden units; read-only."""

    first: Array32  # [O, H]
    first_bias: Array32
    second: Array32  # [H, G]
    second_bias: Array32
    last: Array32  # [G, values]
    last_bias: Array32


class Steps(NamedTuple):
    """What changes between the small steps of a row, see `small_steps.SmallSteps`; N blocks; read-only."""

    net: Net
    of_importance: Array32  # [N, H]
    headroom: Array32  # [H]
    drop: Array32  # [N, H]
    barred: Array32  # [N + 1]
    block: Array32  # [N]
    pair: Array32  # [N, N]
    floor: BoolArray  # [N]
    demand: IntArray  # entries of prompt and reserved tokens
    sizes: IntArray  # KV bytes of a token in all layers, and layers
    units: NDArray[np.float64]  # tokens, card, ceiling


class Scratch(NamedTuple):
    """Room that is written to and forgotten."""

    hidden: Array32  # [H]
    row: Array32  # [H]
    deeper: Array32  # [G]
    values: Array32
    rises: Array32  # [N]
    barred: Array32  # [N + 1]


def scratch_of(net: Net, blocks: int) -> Scratch:
    """Room for one decision at a time."""
    hidden = np.empty((2, len(net.first_bias)), np.float32)
    sizes = len(net.second_bias), len(net.last_bias), blocks, blocks + 1
    return Scratch(hidden[0], hidden[1], *(np.empty(size, np.float32) for size in sizes))


@inner
def _copy(source: Array32, to: Array32) -> None:
    """`to[:] = source`, for which numba would compile the text of an error for seconds."""
    for place in range(len(to)):
        to[place] = source[place]


@inner
def _first(net: Net, seen: Array32, hidden: Array32) -> None:
    _copy(net.first_bias, hidden)
    for entry in range(len(seen)):
        value = seen[entry]
        if value != 0.0:
            for unit in range(len(hidden)):
                hidden[unit] += value * net.first[entry, unit]


@inner
def _rest(net: Net, hidden: Array32, deeper: Array32, values: Array32) -> None:
    """What follows from the first layer's units before they are rectified."""
    _copy(net.second_bias, deeper)
    for entry in range(len(hidden)):
        value = hidden[entry]
        if value > 0.0:
            for unit in range(len(deeper)):
                deeper[unit] += value * net.second[entry, unit]
    _copy(net.last_bias, values)
    for entry in range(len(deeper)):
        value = deeper[entry]
        if value > 0.0:
            for unit in range(len(values)):
                values[unit] += value * net.last[entry, unit]


@compiled
def _highest(values: Array32, start: int, stop: int) -> int:
    """The place of the highest of some values, from `start`; -1 where another is near."""
    best, highest, second = start, values[start], np.float32(-np.inf)
    for place in range(start + 1, stop):
        value = values[place]
        if value > highest:
            best, highest, second = place, value, highest
        elif value > second:
            second = value
    if highest - second < NEAR * max(np.float32(1.0), abs(highest)):
        return -1
    return best - start


@compiled
def counts(net: Net, grid: BoolArray, seen: Array32, kept: BoolArray, s: Scratch) -> bool:
    """Write the set of the likeliest pair of counts of each of B lanes; False where the reference has to tell.

    Args:
        grid: a set for each pair, [A + 1, F + 1, N]; seen: observations, [B, O]; kept: written, [B, N].
    """
    split = len(grid)
    for lane in range(len(seen)):
        _first(net, seen[lane], s.hidden)
        _rest(net, s.hidden, s.deeper, s.values)
        attention = _highest(s.values, 0, split)
        ffn = _highest(s.values, split, len(s.values))
        if attention < 0 or ffn < 0:
            return False
        for block in range(kept.shape[1]):
            kept[lane, block] = grid[attention, ffn, block]
    return True


@compiled
def drop(steps: Steps, seen: Array32, kept: BoolArray, told: BoolArray, s: Scratch) -> bool:
    """Drop blocks of each of B lanes until the network stops; whether it could tell in all of them.

    Args:
        seen: observations without small steps, [B, O].
        kept: written, [B, N]; told: written, False where the reference has to tell, [B].
    """
    net, stop, whole = steps.net, kept.shape[1], True
    for lane in range(len(seen)):
        _first(net, seen[lane], s.row)
        tokens = np.int64(np.rint(np.float64(seen[lane, steps.demand[0]]) * steps.units[0]))
        tokens += np.int64(np.rint(np.float64(seen[lane, steps.demand[1]]) * steps.units[0]))
        held = -((-steps.sizes[0] * tokens) // steps.sizes[1])
        cached = np.float32(held / steps.units[1])
        ceiling = np.float32(steps.units[2])
        kept[lane] = True
        _copy(steps.block, s.rises)
        _copy(steps.barred, s.barred)
        told[lane] = False
        for _ in range(stop + 1):
            _copy(s.row, s.hidden)
            for block in range(stop):
                known = np.float32(1.0)
                if not steps.floor[block]:
                    if not kept[lane, block]:
                        continue
                    share = s.rises[block] / ceiling
                    known = min(max(share, np.float32(0.0)), np.float32(1.0))
                if known != 0.0:
                    for unit in range(len(s.hidden)):
                        s.hidden[unit] += known * steps.of_importance[block, unit]
            _rest(net, s.hidden, s.deeper, s.values)
            for place in range(stop + 1):
                s.values[place] += s.barred[place]
            block = _highest(s.values, 0, stop + 1)
            if block == stop:
                told[lane] = True
            if block < 0 or block == stop:
                break
            s.barred[block], kept[lane, block] = -np.inf, False
            for unit in range(len(s.row)):
                s.row[unit] += steps.drop[block, unit]
            for other in range(stop):
                s.rises[other] += steps.pair[block, other]
            if block % 2 == 0:
                for unit in range(len(s.row)):
                    s.row[unit] += cached * steps.headroom[unit]
        whole &= told[lane]
    return whole
