"""Expected costs over empirical futures by compiled code: what `baselines.forecast` says, quickly.

Which futures are nearest is told in whole numbers, so they are the same ones; expectations add up in another
order, which the last digit of a double shows and no choice does. `baselines.forecast` is the reference.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.files.compiled import compiled, inner, resting_on
from rapgym.world import kernel, tally_kernel
from rapgym.world.kernel import DONE, Entries, Facts, Falls, Lanes
from rapgym.world.tally_kernel import Paid, serve_row

FEATURES = 6  # of a past
LOWEST, HIGHEST, STEPS, FARTHEST, NEIGHBOURS = range(5)  # places in `Stretches.bounds`
LAYERS, ATTENTION, FFN, MODEL_KV, FIXED, MARGIN, WINDOW_S, KNOWN_S = range(8)  # in `Sets.sizes`
ACTIVATION, CEILING, LINK, PAUSE = range(4)  # in `Sets.rates`
PROMPT, RESERVED, LIMIT, RECENT, LOADED = range(5)  # in `Seen.places`
TOKEN, CARD = range(2)  # in `Seen.units`


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


class Seen(NamedTuple):
    """Where an observation says what, and in which units; read-only."""

    places: IntArray
    units: FloatArray


class Scratch(NamedTuple):
    """Room that is written to and forgotten."""

    past: IntArray  # [past_s]
    loaded: BoolArray  # [N]
    chosen: IntArray  # [K]
    found: FloatArray  # [4, K]
    cost: FloatArray  # [K]
    apart: FloatArray  # [P]
    nearest: IntArray  # keys of n different pasts, which the next call begins with, [n]
    some: IntArray  # more than n keys
    gone: IntArray  # [K]
    first_bytes: IntArray  # [K]


def scratch_of(stretches: Stretches, sets: Sets, past_s: int) -> Scratch:
    """Room for one decision at a time."""
    count, (most, blocks) = len(stretches.level), sets.kept.shape
    near = min(int(stretches.bounds[NEIGHBOURS]), count)
    places = np.empty((3, most), dtype=np.int64)
    some = np.empty(4 * near, dtype=np.int64)
    return Scratch(
        np.empty(past_s, dtype=np.int64), np.empty(blocks, dtype=bool), places[2],
        np.empty((4, most)), np.empty(most), np.empty(count), np.arange(near), some, places[0],
        places[1],
    )  # fmt: skip


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
def _sort(keys: IntArray, count: int) -> None:
    """Put the first `count` in ascending order, as Shell did: numba's `sort` takes seconds to compile."""
    gap = 1
    while gap < count // 9:
        gap = 3 * gap + 1
    while gap:
        for place in range(gap, count):
            key, to = keys[place], place
            while to >= gap and keys[to - gap] > key:
                keys[to] = keys[to - gap]
                to -= gap
            keys[to] = key
        gap //= 3


@inner
def near(s: Stretches, past: IntArray, room: Scratch) -> None:
    """Write the keys of the nearest pasts, ascending: distance times their number, plus the place.

    Those of the call before, whose times are mostly near to this one, say how far the farthest can be.
    """
    now, apart, some, nearest = np.empty(FEATURES, np.int64), room.apart, room.some, room.nearest
    _features(past, now)
    count, size, farthest = len(s.level), len(nearest), np.float64(s.bounds[FARTHEST])
    # Distances are whole numbers below 2^47, which doubles hold, and multiply several at a time.
    apart[:] = 0.0
    for feature in range(FEATURES):
        own = np.float64(now[feature] * s.bounds[STEPS] // s.unit[feature])
        for place in range(count):
            step = min(max(s.past[feature, place] - own, -farthest), farthest)
            apart[place] += step * step
    most, found = 0.0, 0
    for key in nearest:
        most = max(most, apart[key % count])
    for place in range(count):
        if apart[place] <= most:
            if found == len(some):
                _sort(some, found)
                found, most = size, np.float64(some[size - 1] // count)
            some[found] = np.int64(apart[place]) * count + place
            found += 1
    _sort(some, found)
    for place in range(size):  # whole, numba would compile the text of an error for seconds
        nearest[place] = some[place]


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
    near(s, past, scratch)
    return _expected(s, sets, past, tokens, prompt, shift, chosen, found, scratch)


@inner
def _expected(
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
    """As `outlook`, once the nearest pasts are known."""
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
    for index in range(len(chosen)):
        returning = _returning(sets, loaded, chosen[index])
        cost[index] = _cost(sets, found, index, returning, caution, later)


@inner
def _returning(sets: Sets, loaded: BoolArray, wanted: int) -> int:
    """Bytes of the blocks of a set that are not in memory, bool [N]."""
    returning = 0
    for block in range(len(loaded)):
        if sets.kept[wanted, block] and not loaded[block]:
            returning += sets.sizes[FFN] if block % 2 else sets.sizes[ATTENTION]
    return returning


@inner
def _cost(
    sets: Sets, found: FloatArray, index: int, returning: int, caution: float, later: float
) -> float:
    """J of one set that is tried."""
    ceiling, loss, back = sets.rates[CEILING], found[0, index], found[1, index]
    worse, more_back = found[2, index], found[3, index]
    wait = (ceiling - loss) * min(returning / sets.rates[LINK] / sets.sizes[WINDOW_S], 1.0)
    return loss + wait + later * back + caution * (worse + later * more_back)


@inner
def _read(sets: Sets, where: Seen, seen: NDArray[np.float32], room: Scratch) -> tuple[int, int]:
    """Write the limits that are known and what is loaded, as `encoding.read` has them: tokens, and prompt tokens."""
    places, card, token = where.places, where.units[CARD], where.units[TOKEN]
    known_s, past, loaded = sets.sizes[KNOWN_S], room.past, room.loaded
    before = len(past) - known_s
    for second in range(len(past)):
        if second < before:  # announced seconds take the place of the oldest
            place = places[RECENT] + known_s - 1 + second
        else:
            place = places[LIMIT] + second - before
        past[second] = np.int64(np.floor(np.float64(seen[place]) * card))
    for block in range(len(loaded)):
        loaded[block] = seen[places[LOADED] + block] > 0.5
    prompt = np.int64(np.rint(np.float64(seen[places[PROMPT]]) * token))
    reserved = np.int64(np.rint(np.float64(seen[places[RESERVED]]) * token))
    return prompt + reserved, prompt  # type: ignore[return-value]


@compiled
def choose(
    s: Stretches,
    sets: Sets,
    where: Seen,
    seen: NDArray[np.float32],
    settings: FloatArray,
    tie: float,
    room: Scratch,
    first: IntArray,
) -> None:
    """Write which set costs least in each of B lanes, the first of those that tie.

    Args:
        seen: observations, [B, O]; settings: shift, caution and later of each lane, [B, 3].
        tie: nats by which costs differ that are equal; first: written, [B].
    """
    chosen, found, cost = room.chosen, room.found, room.cost
    for lane in range(len(seen)):
        shift, caution, later = settings[lane, 0], settings[lane, 1], settings[lane, 2]
        tokens, prompt = _read(sets, where, seen[lane], room)
        count = outlook(s, sets, room.past, tokens, prompt, shift, chosen, found, room)
        least, place = np.inf, 0
        for index in range(count):
            returning = _returning(sets, room.loaded, chosen[index])
            cost[index] = _cost(sets, found, index, returning, caution, later)
            least = min(least, cost[index])
        while cost[place] > least + tie:
            place += 1
        first[lane] = chosen[place]


class Tries(NamedTuple):
    """Settings of B lanes that meet the same rows, and room for what they share."""

    shift: FloatArray  # that differ, [U]
    own: IntArray  # which of them a lane has, [B]
    weights: FloatArray  # caution and later, [B, 2]
    between: IntArray  # bytes that return from one set to another, [K, K]
    tried: IntArray  # scratch: how many sets are worth trying, [U]
    chosen: IntArray  # scratch, [U, K]
    found: FloatArray  # scratch, [U, 4, K]
    cost: FloatArray  # scratch, [K]
    proposed: IntArray  # scratch, [B]


@resting_on(kernel, tally_kernel, allocates=True)
def serve(
    f: Facts, one: Lanes, falls: Falls, entries: Entries, scratch: kernel.Scratch,
    known: tally_kernel.Sets, paid: Paid, s: Stretches, sets: Sets, room: Scratch, tries: Tries,
    pasts: IntArray, tokens: IntArray, prompt: IntArray, rows: IntArray, limit_rows: IntArray,
    tie: float, done: IntArray,
) -> int:  # fmt: skip
    """Decide rows in turn in every lane, and serve them: as `tally_kernel.serve`.

    Args:
        pasts: as `outlook` takes them, [R, past_s]; tokens, prompt: [R].
        tie: as `choose` takes it.
    """
    while done[0] < len(rows):
        at = done[0]
        near(s, pasts[at], room)
        for each in range(len(tries.shift)):
            tries.tried[each] = _expected(
                s, sets, pasts[at], tokens[at], prompt[at], tries.shift[each], tries.chosen[each],
                tries.found[each], room,
            )  # fmt: skip
        for lane in range(len(tries.own)):
            each, held = tries.own[lane], paid.held[lane]
            caution, later = tries.weights[lane, 0], tries.weights[lane, 1]
            least = np.inf
            for index in range(tries.tried[each]):
                wanted = tries.chosen[each, index]
                if held == tally_kernel.NONE:
                    returning = _returning(sets, paid.loaded[lane], wanted)
                else:
                    returning = tries.between[held, wanted]
                cost = _cost(sets, tries.found[each], index, returning, caution, later)
                tries.cost[index] = cost
                least = min(least, cost)
            place = 0
            while tries.cost[place] > least + tie:
                place += 1
            tries.proposed[lane] = tries.chosen[each, place]
        found = serve_row(
            f, one, falls, entries, scratch, known, paid, rows[at], limit_rows[at], tries.proposed
        )
        if found != DONE:
            return found
        done[0] += 1
    return DONE
