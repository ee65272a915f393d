"""The step compiled: what `simulator.Row` does to B lanes at once, lane by lane, bit for bit the same.

The words are those of the reference, which says why. Two passes: `decide` moves blocks and counts
bytes, for which no quality is needed; sets that nobody has asked about are predicted; `charge` turns
seconds into costs.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.quality.lookup import FULL, Entries, place_of

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


@njit(cache=True)
def _counts(kept: BoolArray) -> tuple[int, int]:
    attention = ffn = 0
    for layer in range(len(kept) // 2):
        attention += kept[2 * layer]
        ffn += kept[2 * layer + 1]
    return attention, ffn


@njit(cache=True)
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


@njit(cache=True)
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


@njit(cache=True)
def _token_counts(f: Facts, row: int, scale: float) -> tuple[int, int, int]:
    """Prompt, reserved and longest tokens of a row, scaled."""
    return (
        np.int64(np.rint(f.prompt[row] * scale)),
        np.int64(np.rint(f.reserved[row] * scale)),
        np.int64(np.rint(f.longest[row] * scale)),
    )


@njit(cache=True)
def _attention_cost(f: Facts, tokens: int) -> int:
    """Weights and KV cache of one kept attention block, rounded up to the byte."""
    kv_bytes = -((-f.sizes[MODEL_KV] * tokens) // f.sizes[LAYERS])
    return f.sizes[ATTENTION] + kv_bytes


@njit(cache=True)
def _overhead(f: Facts, prompt: int) -> int:
    return f.sizes[FIXED] + np.int64(np.ceil(f.rates[ACTIVATION] * prompt))


@njit(cache=True)
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


@njit(cache=True)
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


@njit(cache=True)
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
