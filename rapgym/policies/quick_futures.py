"""Expected costs over empirical futures by compiled code: what `baselines.forecast` says, quickly.

Which futures are nearest is told in whole numbers, so they are the same ones; expectations add up in another
order, which the last digit of a double shows and no choice does. `baselines.forecast` is the reference.
"""

from typing import NamedTuple

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.files.compiled import compiled, inner

FEATURES = 6  # of a past
LOWEST, HIGHEST, STEPS, FARTHEST, NEIGHBOURS = range(5)  # places in `Stretches.bounds`
LAYERS, ATTENTION, FFN, MODEL_KV, FIXED, MARGIN, WINDOW_S, KNOWN_S = range(8)  # in `Sets.sizes`
ACTIVATION, CEILING, LINK, PAUSE = range(4)  # in `Sets.rates`


class Stretches(NamedTuple):
    """`forecast.Futures` with its constants, read-only."""

    past: FloatArray  # whole numbers, [6, P]
    unit: IntArray  # [6]
    level: IntArray  # [P]
    ahead: IntArray  # [P, S]
    bounds: IntArray


class Sets(NamedTuple):
    """K sets, and what is left of each as its blocks go: `forecast.Remains`, read-only."""

    kept: BoolArray  # [K, N]
    attention: IntArray  # [K, J]
    ffn: IntArray
    loss: FloatArray
    back: FloatArray
    sizes: IntArray
    rates: FloatArray


class Scratch(NamedTuple):
    """Room that is written to and forgotten."""

    apart: FloatArray  # [P]
    nearest: IntArray  # [n]
    gone: IntArray  # [K]
    first_bytes: IntArray  # [K]


def scratch_of(stretches: Stretches, sets: Sets) -> Scratch:
    """Room for one outlook at a time."""
    count = len(stretches.level)
    near = min(int(stretches.bounds[NEIGHBOURS]), count)
    places = np.empty((2, len(sets.kept)), dtype=np.int64)
    return Scratch(np.empty(count), np.empty(near, np.int64), places[0], places[1])


@inner
def _features(past: IntArray, now: IntArray) -> None:
    """As `forecast.features`, of one past."""
    last = len(past) - 1
    total, lowest, highest = past[last] - past[last], past[last], past[last]
    for second in range(last - 7, last + 1):
        total += past[second]
        lowest, highest = min(lowest, past[second]), max(highest, past[second])
    level = 8 * past[last]
    now[0] = level
    now[1], now[2] = level - 8 * past[last - 1], level - 8 * past[last - 3]
    now[3], now[4], now[5] = level - total * 8 // 8, level - 8 * lowest, level - 8 * highest


@inner
def _sift(heap: IntArray, size: int) -> None:
    """Let the first of a heap sink to where no child is larger."""
    place, value = 0, heap[0]
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and heap[child + 1] > heap[child]:
            child += 1
        if heap[child] <= value:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = value


@inner
def near(s: Stretches, past: IntArray, apart: FloatArray, nearest: IntArray) -> None:
    """Write the keys of the nearest pasts, ascending: distance times their number, plus the place."""
    now = np.empty(FEATURES, np.int64)
    _features(past, now)
    count, size, farthest = len(s.level), len(nearest), np.float64(s.bounds[FARTHEST])
    # Distances are whole numbers below 2^47, which doubles hold, and multiply several at a time.
    apart[:] = 0.0
    for feature in range(FEATURES):
        own = np.float64(now[feature] * s.bounds[STEPS] // s.unit[feature])
        for place in range(count):
            step = min(max(s.past[feature, place] - own, -farthest), farthest)
            apart[place] += step * step
    # The least so far in a heap whose first is the largest of them.
    for place in range(size):
        nearest[size - 1 - place] = np.int64(apart[place]) * count + place
    nearest.sort()
    for low in range(size // 2):
        nearest[low], nearest[size - 1 - low] = nearest[size - 1 - low], nearest[low]
    most = np.float64(nearest[0] // count)
    for place in range(size, count):
        if apart[place] < most:  # of equals the earlier one is nearer
            nearest[0] = np.int64(apart[place]) * count + place
            _sift(nearest, size)
            most = np.float64(nearest[0] // count)
    nearest.sort()


@inner
def _worth_trying(
    sets: Sets, base: int, attention_cost: int, limit: int, chosen: IntArray, first_bytes: IntArray
) -> int:
    """As `forecast.worth_trying`: how many, written to `chosen`, and what each takes."""
    count, smallest, ffn_cost = 0, 0, sets.sizes[FFN]
    least = lowest = base
    for index in range(len(sets.kept)):
        used = base + sets.attention[index, 0] * attention_cost + sets.ffn[index, 0] * ffn_cost
        if index == 0 or used < lowest:
            smallest, lowest = index, used
        if used <= limit and (count == 0 or used < least):
            chosen[count], first_bytes[count], least = index, used, used
            count += 1
    if count == 0:
        chosen[0], first_bytes[0], count = smallest, lowest, 1
    return count


@compiled
def outlook(
    s: Stretches,
    sets: Sets,
    past: IntArray,
    tokens: int,
    prompt: int,
    shift: float,
    chosen: IntArray,
    found: FloatArray,
    scratch: Scratch,
) -> int:
    """The sets worth trying, and their loss, back, E[worse] and E[more_back], as `Forecast` has them.

    Args:
        past: limits until the last second that is known, [past_s].
        chosen: written, [K]; found: written, [4, K].

    Returns:
        How many sets those are.
    """
    sizes, rates = sets.sizes, sets.rates
    window_s, known_s, ffn_cost = sizes[WINDOW_S], sizes[KNOWN_S], sizes[FFN]
    ceiling, pause_s = rates[CEILING], rates[PAUSE]
    attention_cost = sizes[ATTENTION] - ((-sizes[MODEL_KV] * tokens) // sizes[LAYERS])
    base = sizes[FIXED] + np.int64(np.ceil(rates[ACTIVATION] * prompt)) + sizes[MARGIN]
    seconds = len(past)
    first_bytes, gone = scratch.first_bytes, scratch.gone
    count = _worth_trying(sets, base, attention_cost, past[seconds - known_s], chosen, first_bytes)
    for index in range(count):
        found[0, index], found[1, index] = sets.loss[chosen[index], 0], sets.back[chosen[index], 0]
        found[2, index] = found[3, index] = 0.0
    near(s, past, scratch.apart, scratch.nearest)
    stretches, states = len(s.level), sets.loss.shape[1]
    farthest, total = scratch.nearest[len(scratch.nearest) - 1] // stretches, 0
    for key in scratch.nearest:
        total += 101 * farthest - 100 * (key // stretches) if farthest else 1
    for key in scratch.nearest:
        stretch = key % stretches
        weight = 101 * farthest - 100 * (key // stretches) if farthest else 1
        chance = weight / total
        moved = np.int64(np.rint(shift * (past[seconds - 1] - s.level[stretch])))
        low = past[seconds - known_s]
        gone[:count] = 0
        for second in range(1, window_s):
            if second < known_s:
                limit = past[seconds - known_s + second]
            else:
                limit = s.ahead[stretch, second - known_s] + moved
                limit = min(max(limit, s.bounds[LOWEST]), s.bounds[HIGHEST])
            if limit >= low:
                continue
            low, left_s = limit, window_s - second
            for index in range(count):
                if first_bytes[index] <= low:
                    break  # those behind it take less
                own, before = chosen[index], gone[index]
                after = before
                while after < states and (
                    base + sets.attention[own, after] * attention_cost
                    + sets.ffn[own, after] * ffn_cost > low
                ):  # fmt: skip
                    after += 1
                if after == before:
                    continue
                gone[index] = after
                left = sets.loss[own, after] if after < states else ceiling
                worse = (left - sets.loss[own, before]) * left_s + pause_s * (ceiling - left)
                found[2, index] += worse * chance
                back = sets.back[own, min(after, states - 1)] - sets.back[own, before]
                found[3, index] += back * chance
    for index in range(count):
        found[2, index] /= window_s
    return count


@compiled
def judged(
    sets: Sets,
    loaded: BoolArray,
    chosen: IntArray,
    found: FloatArray,
    caution: float,
    later: float,
    cost: FloatArray,
) -> None:
    """Write J of each set that is tried.

    Args:
        loaded: blocks in memory, bool [N].
        chosen, found: as `outlook` gives them, [K] and [4, K]; cost: written, [K].
    """
    ceiling, link, sizes = sets.rates[CEILING], sets.rates[LINK], sets.sizes
    for index in range(len(chosen)):
        returning = 0
        for block in range(len(loaded)):
            if sets.kept[chosen[index], block] and not loaded[block]:
                returning += sizes[FFN] if block % 2 else sizes[ATTENTION]
        loss, back = found[0, index], found[1, index]
        worse, more_back = found[2, index], found[3, index]
        wait = (ceiling - loss) * min(returning / link / sizes[WINDOW_S], 1.0)
        cost[index] = loss + wait + later * back + caution * (worse + later * more_back)


@compiled
def best(
    sets: Sets,
    loaded: BoolArray,
    chosen: IntArray,
    found: FloatArray,
    weights: FloatArray,
    tie: float,
    cost: FloatArray,
    first: IntArray,
) -> None:
    """Write which of the sets that are tried costs least in each of n lanes, the first of those that tie.

    Args:
        loaded: [n, N]; chosen, found: as `outlook` gives them.
        weights: caution and later of each lane, [n, 2].
        tie: nats by which costs differ that are equal; cost: scratch, [K]; first: written, [n].
    """
    for lane in range(len(first)):
        judged(sets, loaded[lane], chosen, found, weights[lane, 0], weights[lane, 1], cost)
        least, place = cost.min() + tie, 0
        while cost[place] > least:
            place += 1
        first[lane] = place
