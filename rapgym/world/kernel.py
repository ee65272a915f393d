"""The step compiled: what `simulator.Row` does to B lanes at once, lane by lane, bit for bit the same.

The words are those of the reference, which says why. Two passes: `decide` moves blocks and counts
bytes, for which no quality is needed; sets that nobody has asked about are predicted; `charge` turns
seconds into costs. `observe` fills observations, as `encoding.observe_row` does.

Numba keeps compiled code until the file of a function changes, and looks at no other file. So compiled
functions here call only each other, and use no constants of elsewhere: those come in arguments.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from rapgym.arrays import BoolArray, FloatArray, IntArray

Function = TypeVar("Function", bound=Callable[..., Any])

WORD = 64  # blocks in one word of a key
FULL = -1  # no room: `Lookup.make_room`, and ask again
POLICY, REPAIRED, REFUSED = 0, 1, 6  # as `shield.Reason` has them: a test compares
DONE, NO_ENTRY, NO_FALL = 0, 1, 2  # how `decide` ends: well, or without room for an entry or a fall
LAYERS, ATTENTION, FFN, MODEL_KV, FIXED, MARGIN = range(6)  # places in `Facts.sizes`
ACTIVATION, CEILING, RESTORE, MEAN_OUTPUT, PAUSE = range(5)  # in `Facts.rates`
# Columns of `Lanes.whole`.
REASON, LIMIT, USED, PROMPT, RESERVED, LONGEST, BATCH, OUTPUT, REFUSED_FROM, MISSING = range(10)
WHOLE = 10
# Columns of `Lanes.measures`: the seconds of a row, then its terms.
(NLL, LOSS_S, STALL_S, EMERGENCY_S, REFUSED_S, QUALITY, STALL, EMERGENCY, REFUSED_COST,
 REWARD) = range(10)  # fmt: skip
MEASURES = 10


def compiled(function: Function) -> Function:
    """Compile a function when it is first called, and keep that for other processes.

    Beside its source or, where that is read-only, in the user's cache; where neither can be written
    to, each process compiles anew.
    """
    try:
        found: Function = njit(cache=True)(function)
    except RuntimeError:
        found = njit(function)
    return found


class Entries(NamedTuple):
    """An open hash table of kept sets, a power of two places large, at most half of them taken."""

    keys: NDArray[np.uint64]  # [places, words]
    taken: BoolArray  # [places]
    nll: FloatArray  # NaN where not predicted yet, [places]
    measured: BoolArray  # [places]
    count: IntArray  # places taken, [1]


@compiled
def place_of(entries: Entries, kept: BoolArray, key: NDArray[np.uint64]) -> int:
    """Where the table has a kept set, bool [N]; entered there if it is new, `FULL` without room.

    Args:
        key: scratch, [words].
    """
    blocks, words = len(kept), len(key)
    mixed = np.uint64(0x9E3779B97F4A7C15)
    for word in range(words):
        bits = np.uint64(0)
        for block in range(word * WORD, min(blocks, (word + 1) * WORD)):
            bits = (bits << np.uint64(1)) | np.uint64(kept[block])
        key[word] = bits
        mixed = (mixed ^ bits) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(29)
    last = len(entries.taken) - 1
    place = np.int64((mixed * np.uint64(0x94D049BB133111EB)) >> np.uint64(32)) & last
    while entries.taken[place]:
        same = True
        for word in range(words):
            same &= entries.keys[place, word] == key[word]
        if same:
            return place
        place = (place + 1) & last
    if 2 * (entries.count[0] + 1) > len(entries.taken):
        return FULL
    for word in range(words):
        entries.keys[place, word] = key[word]
    entries.taken[place], entries.nll[place], entries.measured[place] = True, np.nan, False
    entries.count[0] += 1
    return place


@compiled
def places_of(entries: Entries, kept: BoolArray, key: NDArray[np.uint64], found: IntArray) -> bool:
    """`place_of` for many, bool [K, N] -> int64 [K]; False where there is no room for all."""
    for index in range(len(kept)):
        found[index] = place_of(entries, kept[index], key)
        if found[index] == FULL:
            return False
    return True


class Facts(NamedTuple):
    """What does not change while rows are served, read-only."""

    batch: IntArray  # as `records.Rows` has them, [T]
    prompt: IntArray
    reserved: IntArray
    longest: IntArray
    output: IntArray
    limit_bytes: IntArray  # [T, W]
    order: IntArray  # blocks that may be dropped, [D]
    last_first: IntArray  # and then the floor's, the last one first, [N]
    floor: BoolArray  # [N]
    sizes: IntArray
    rates: FloatArray


class Lanes(NamedTuple):
    """What a row is served to, and what becomes of it: B lanes."""

    row: IntArray  # [B]
    limit_row: IntArray
    token_scale: FloatArray
    loaded: BoolArray  # [B, N]
    proposal: BoolArray
    source: IntArray  # [B]
    strict: BoolArray  # lanes that are refused rather than repaired, [B]
    # Written:
    next_row: IntArray  # [B]
    next_limit_row: IntArray
    kept: BoolArray  # [B, N]
    kept_end: BoolArray
    refused: BoolArray  # [B]
    measured: BoolArray
    whole: IntArray  # [WHOLE, B]
    measures: FloatArray  # [MEASURES, B]
    place: IntArray  # of `kept` among the entries, [B]


class Falls(NamedTuple):
    """Room for falls, lane by lane and in each by the second."""

    second: IntArray  # [F]
    lane: IntArray
    before: BoolArray  # [F, N]
    kept: BoolArray
    refused: BoolArray  # [F]
    place: IntArray  # of `kept` among the entries
    count: IntArray  # [1]


class Scratch(NamedTuple):
    """Room that the passes write to and forget."""

    went: IntArray  # blocks that have just gone, [N]
    key: NDArray[np.uint64]  # [words]


@compiled
def _counts(kept: BoolArray) -> tuple[int, int]:
    attention = ffn = 0
    for layer in range(len(kept) // 2):
        attention += kept[2 * layer]
        ffn += kept[2 * layer + 1]
    return attention, ffn


@compiled
def _fit(
    kept: BoolArray, attention_cost: int, ffn_cost: int, excess: int, order: IntArray,
    went: IntArray,
) -> int:  # fmt: skip
    """Let blocks of a set go until `excess` bytes are free, as `shield.cut`: excess bytes left.

    Below zero where more is free than had to be.
    """
    gone = 0
    for block in order:
        if excess <= 0:
            break
        if kept[block]:
            kept[block] = False
            excess -= ffn_cost if block % 2 else attention_cost
            went[gone] = block
            gone += 1
    for place in range(gone - 1, -1, -1):
        cost = ffn_cost if went[place] % 2 else attention_cost
        if cost <= -excess:
            kept[went[place]] = True
            excess += cost
    return excess


@compiled
def _unload_refused(
    f: Facts, lanes: Lanes, lane: int, refused_from: int, taken: int, went: IntArray
) -> None:
    """What stays in memory after a refusal, as `Row.unload_refused`."""
    limits, stays = f.limit_bytes[lanes.limit_row[lane]], lanes.kept_end[lane]
    lowest = limits[refused_from]
    for second in range(refused_from + 1, len(limits)):
        lowest = min(lowest, limits[second])
    lowest -= taken
    if refused_from == 0:
        stays[:] = lanes.loaded[lane]
    attention = ffn = 0  # of the lane's own set
    for block in range(len(stays)):
        own = stays[block] and (lanes.proposal[lane, block] or f.floor[block])
        if block % 2:
            ffn += own
        else:
            attention += own
    own_bytes = attention * f.sizes[ATTENTION] + ffn * f.sizes[FFN]
    own_stays = lanes.strict[lane] and own_bytes <= lowest
    for block in range(len(stays)):
        stays[block] &= f.floor[block] or (own_stays and lanes.proposal[lane, block])
    attention, ffn = _counts(stays)
    excess = attention * f.sizes[ATTENTION] + ffn * f.sizes[FFN] - lowest
    _fit(stays, f.sizes[ATTENTION], f.sizes[FFN], excess, f.last_first, went)


@compiled
def _token_counts(f: Facts, row: int, scale: float) -> tuple[int, int, int]:
    """Prompt, reserved and longest tokens of a row, scaled."""
    return (
        np.int64(np.rint(f.prompt[row] * scale)),
        np.int64(np.rint(f.reserved[row] * scale)),
        np.int64(np.rint(f.longest[row] * scale)),
    )


@compiled
def _attention_cost(f: Facts, tokens: int) -> int:
    """Weights and KV cache of one kept attention block, rounded up to the byte."""
    kv_bytes = -((-f.sizes[MODEL_KV] * tokens) // f.sizes[LAYERS])
    return f.sizes[ATTENTION] + kv_bytes


@compiled
def _overhead(f: Facts, prompt: int) -> int:
    return f.sizes[FIXED] + np.int64(np.ceil(f.rates[ACTIVATION] * prompt))


@compiled
def decide(f: Facts, lanes: Lanes, falls: Falls, entries: Entries, scratch: Scratch) -> int:
    """Let the shield decide and the row's limits pass, in every lane: `DONE`, or what room lacks."""
    falls.count[0], missing = 0, 0
    rows, seconds = f.limit_bytes.shape
    whole, went = lanes.whole, scratch.went
    ffn_cost = f.sizes[FFN]
    for lane in range(len(lanes.row)):
        row, limits = lanes.row[lane], f.limit_bytes[lanes.limit_row[lane]]
        prompt, reserved, longest = _token_counts(f, row, lanes.token_scale[lane])
        attention_cost, overhead = _attention_cost(f, prompt + reserved), _overhead(f, prompt)
        taken, kept = overhead + f.sizes[MARGIN], lanes.kept[lane]
        for block in range(len(kept)):
            kept[block] = lanes.proposal[lane, block] | f.floor[block]
        attention, ffn = _counts(kept)
        excess = attention * attention_cost + ffn * ffn_cost - (limits[0] - taken)
        reason, refused = lanes.source[lane], False
        if excess > 0:
            excess = _fit(kept, attention_cost, ffn_cost, excess, f.order, went)
            cut_attention, cut_ffn = _counts(kept)
            repaired = cut_attention != attention or cut_ffn != ffn
            attention, ffn = cut_attention, cut_ffn
            refused = excess > 0 or (repaired and lanes.strict[lane])
            if refused:
                kept[:] = f.floor
                reason = REFUSED
            elif repaired and reason == POLICY:
                reason = REPAIRED
        lanes.kept_end[lane] = kept
        lanes.place[lane] = place_of(entries, kept, scratch.key)
        if lanes.place[lane] == FULL:
            return NO_ENTRY
        missing += np.isnan(entries.nll[lanes.place[lane]])
        used, refused_from = overhead + attention * attention_cost + ffn * ffn_cost, seconds
        if refused:
            used, refused_from = 0, 0
        held = attention * attention_cost + ffn * ffn_cost
        second = 1
        while not refused and second < seconds:
            budget = limits[second] - taken
            if held > budget:
                fall = falls.count[0]
                if fall == len(falls.second):
                    return NO_FALL
                falls.count[0] += 1
                falls.second[fall], falls.lane[fall] = second, lane
                now, before = falls.kept[fall], falls.before[fall]
                before[:] = lanes.kept_end[lane]
                now[:] = before
                left = _fit(now, attention_cost, ffn_cost, held - budget, f.order, went)
                refused_now = left > 0 or lanes.strict[lane]
                falls.refused[fall] = refused_now
                falls.place[fall] = lanes.place[lane]
                if refused_now:
                    now[:] = f.floor
                    refused_from = second
                    break
                lanes.kept_end[lane] = now
                held = budget + left
                falls.place[fall] = place_of(entries, now, scratch.key)
                if falls.place[fall] == FULL:
                    return NO_ENTRY
                missing += np.isnan(entries.nll[falls.place[fall]])
            second += 1
        if refused_from < seconds:
            _unload_refused(f, lanes, lane, refused_from, taken, went)
        lanes.refused[lane] = refused
        whole[REASON, lane], whole[LIMIT, lane], whole[USED, lane] = reason, limits[0], used
        whole[PROMPT, lane], whole[RESERVED, lane] = prompt, reserved
        whole[LONGEST, lane], whole[BATCH, lane] = longest, f.batch[row]
        whole[OUTPUT, lane], whole[REFUSED_FROM, lane] = f.output[row], refused_from
        lanes.next_row[lane] = (row + 1) % rows
        lanes.next_limit_row[lane] = (lanes.limit_row[lane] + 1) % rows
    if len(lanes.row):
        whole[MISSING, 0] = missing
    return DONE


@compiled
def missing(lanes: Lanes, falls: Falls, entries: Entries, found: IntArray) -> int:
    """Write the places without a prediction to `found`, some twice: how many."""
    count = 0
    for place in lanes.place:
        if np.isnan(entries.nll[place]):
            found[count] = place
            count += 1
    for place in falls.place[: falls.count[0]]:
        if np.isnan(entries.nll[place]):
            found[count] = place
            count += 1
    return count


@compiled
def charge(f: Facts, lanes: Lanes, falls: Falls, entries: Entries) -> None:
    """Turn the seconds of the row that `decide` has seen into costs, in every lane."""
    seconds, ceiling, measures = f.limit_bytes.shape[1], f.rates[CEILING], lanes.measures
    fall, last = 0, falls.count[0]
    for lane in range(len(lanes.row)):
        nll, measured = entries.nll[lanes.place[lane]], entries.measured[lanes.place[lane]]
        loss, refused_from = min(nll, ceiling), lanes.whole[REFUSED_FROM, lane]
        attention = ffn = 0  # blocks that return
        for layer in range(len(f.floor) // 2):
            a, b = 2 * layer, 2 * layer + 1
            attention += lanes.kept[lane, a] & (not lanes.loaded[lane, a])
            ffn += lanes.kept[lane, b] & (not lanes.loaded[lane, b])
        left_s = (attention * f.sizes[ATTENTION] + ffn * f.sizes[FFN]) / f.rates[RESTORE]
        loss_s = stall_s = emergency_s = refused_s = 0.0
        measured = measured or lanes.refused[lane]
        if refused_from == seconds and (fall == last or falls.lane[fall] != lane):
            stall_s = min(left_s, float(seconds))
            loss_s = (seconds - stall_s) * loss
        elif lanes.refused[lane]:
            refused_s = float(seconds)
        else:
            for second in range(seconds):
                able_s = 1.0
                if fall < last and falls.lane[fall] == lane and falls.second[fall] == second:
                    if not falls.refused[fall]:
                        loss = min(entries.nll[falls.place[fall]], ceiling)
                        measured = measured and entries.measured[falls.place[fall]]
                        emergency_s += f.rates[PAUSE]
                        able_s = 1.0 - f.rates[PAUSE]
                    fall += 1
                if refused_from <= second:
                    refused_s += 1.0
                    continue
                stalled = min(left_s, able_s)
                left_s -= stalled
                stall_s += stalled
                loss_s += (able_s - stalled) * loss
        share = lanes.whole[OUTPUT, lane] / f.rates[MEAN_OUTPUT] / seconds
        quality, stall = share * loss_s, share * ceiling * stall_s
        emergency, refusal = share * ceiling * emergency_s, share * ceiling * refused_s
        lanes.measured[lane] = measured
        measures[NLL, lane], measures[LOSS_S, lane], measures[STALL_S, lane] = nll, loss_s, stall_s
        measures[EMERGENCY_S, lane], measures[REFUSED_S, lane] = emergency_s, refused_s
        measures[QUALITY, lane], measures[STALL, lane] = quality, stall
        measures[EMERGENCY, lane], measures[REFUSED_COST, lane] = emergency, refusal
        measures[REWARD, lane] = -(quality + stall + emergency + refusal)


class Sight(NamedTuple):
    """What does not change while rows are observed, read-only; see `encoding.layout`."""

    batch: NDArray[np.float32]  # of each row, as it is seen, [T]
    limit: NDArray[np.float32]  # of each second, as it is seen, row after row, [T * W]
    sizes: IntArray  # seconds of a row, rows that are looked back, limits seen ahead
    units: FloatArray  # bytes of the card, tokens of a unit, the largest that a feature can be


@compiled
def _seen(value: float, largest: float) -> np.float32:
    return np.float32(min(max(value, -largest), largest))


@compiled
def observe(
    f: Facts,
    s: Sight,
    row: IntArray,
    limit_row: IntArray,
    token_scale: FloatArray,
    loaded: BoolArray,
    age: IntArray,
    asked: IntArray,
    seen: NDArray[np.float32],
) -> None:
    """Write what each of B lanes sees, and what its row asks for.

    Args:
        age: rows that each lane has served in this episode, [B].
        asked: batch, prompt, reserved and longest tokens, [4, B].
        seen: the parts that stay until the row is served, [B, ...].
    """
    rows, (seconds, back, ahead) = len(f.batch), (s.sizes[0], s.sizes[1], s.sizes[2])
    card, unit, largest = s.units[0], s.units[1], s.units[2]
    blocks, layers, ffn_cost = len(f.floor), f.sizes[LAYERS], f.sizes[FFN]
    for lane in range(len(row)):
        now, first, scale, out = row[lane], limit_row[lane], token_scale[lane], seen[lane]
        prompt, reserved, longest = _token_counts(f, now, scale)
        asked[0, lane], asked[1, lane] = f.batch[now], prompt
        asked[2, lane], asked[3, lane] = reserved, longest
        attention_cost, overhead = _attention_cost(f, prompt + reserved), _overhead(f, prompt)
        dense = overhead + layers * attention_cost + layers * ffn_cost
        kv_bytes = layers * (attention_cost - f.sizes[ATTENTION])
        out[0] = s.batch[now]
        out[1], out[2] = _seen(prompt / unit, largest), _seen(reserved / unit, largest)
        out[3], out[4] = _seen(longest / unit, largest), _seen(kv_bytes / dense, largest)
        place = 5
        for second in range(ahead):
            out[place] = s.limit[(first * seconds + second) % len(s.limit)]
            place += 1
        for earlier in range(back, 0, -1):
            # Rows before the episode repeat the limit now.
            before = (first - earlier) % rows * seconds
            if age[lane] >= earlier:
                for second in range(seconds):
                    out[place + second] = s.limit[before + second]
            else:
                for second in range(seconds):
                    out[place + second] = s.limit[first * seconds]
            place += seconds
        for earlier in range(back, 0, -1):
            past = (now - earlier) % rows if age[lane] >= earlier else now
            out[place] = s.batch[past]
            out[place + 1] = _seen(np.rint(f.prompt[past] * scale) / unit, largest)
            out[place + 2] = _seen(np.rint(f.reserved[past] * scale) / unit, largest)
            place += 3
        for block in range(blocks):
            out[place + block] = np.float32(loaded[lane, block])
        place += blocks
        attention, ffn = _counts(loaded[lane])
        limit = f.limit_bytes[first, 0]
        used = overhead + attention * attention_cost + ffn * ffn_cost
        out[place] = _seen((limit - dense - f.sizes[MARGIN]) / card, largest)
        out[place + 1] = _seen((limit - used - f.sizes[MARGIN]) / card, largest)
