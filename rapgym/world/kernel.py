"""The step compiled: what `simulator.Row` does to B lanes at once, lane by lane, bit for bit the same.

The words are those of the reference, which says why. Two passes: `decide` moves blocks and counts
bytes, for which no quality is needed; sets that nobody has asked about are predicted; `charge` turns
seconds into costs. `observe` fills observations, as `encoding.observe_row` does. All stands in one
file, since what numba keeps goes stale with that alone.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.files.compiled import compiled, inner

WORD = 64  # blocks in one word of a key
FULL = -1  # no room: `Lookup.make_room`, and ask again
POLICY, REPAIRED, REFUSED = 0, 1, 6  # as `shield.Reason` has them: a test compares
# How a pass ends: well, without room for an entry or a fall, in a row that does not exist, or with sets
# that wait for their predictions.
DONE, NO_ENTRY, NO_FALL, ASTRAY, UNKNOWN = range(5)
LAYERS, ATTENTION, FFN, MODEL_KV, FIXED, MARGIN = range(6)  # places in `Facts.sizes`
ACTIVATION, CEILING, RESTORE, MEAN_OUTPUT, PAUSE = range(5)  # in `Facts.rates`
# Columns of `Lanes.whole`.
(REASON, LIMIT, USED, PROMPT, RESERVED, LONGEST, BATCH, OUTPUT, REFUSED_FROM, MISSING,
 RETURNING) = range(11)  # fmt: skip
WHOLE = 11
# Columns of `Lanes.measures`: the seconds of a row, then its terms.
(NLL, LOSS_S, STALL_S, EMERGENCY_S, REFUSED_S, QUALITY, STALL, EMERGENCY, REFUSED_COST,
 REWARD) = range(10)  # fmt: skip
MEASURES = 10


class Entries(NamedTuple):
    """An open hash table of kept sets, a power of two places large, at most half of them taken."""

    keys: NDArray[np.uint64]  # [places, words]
    taken: BoolArray  # [places]
    nll: FloatArray  # NaN where not predicted yet, [places]
    measured: BoolArray  # [places]
    used: IntArray  # places taken, [1]


@inner
def pack(sets: BoolArray, index: int, key: NDArray[np.uint64]) -> None:
    """Write the key of one of K kept sets, bool [K, N]: a bit for each block, block 0 the lowest."""
    for word in range(len(key)):
        bits, first = np.uint64(0), word * WORD
        for place in range(min(WORD, sets.shape[1] - first)):
            # An unsigned index counts from no end: quicker, since there is nothing to ask.
            bits |= np.uint64(sets[index, np.uint64(first + place)]) << np.uint64(place)
        key[word] = bits


@inner
def place_of(entries: Entries, key: NDArray[np.uint64]) -> int:
    """Where the table has the kept set of a key; entered if it is new, `FULL` without room."""
    mixed = np.uint64(0x9E3779B97F4A7C15)
    for bits in key:
        mixed = (mixed ^ bits) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(29)
    last = len(entries.taken) - 1
    place = np.int64((mixed * np.uint64(0x94D049BB133111EB)) >> np.uint64(32)) & last
    while entries.taken[place]:
        same = True
        for word in range(len(key)):
            same &= entries.keys[place, word] == key[word]
        if same:
            return place  # type: ignore[return-value]
        place = (place + 1) & last
    if 2 * (entries.used[0] + 1) > len(entries.taken):
        return FULL
    for word in range(len(key)):
        entries.keys[place, word] = key[word]
    entries.taken[place], entries.nll[place], entries.measured[place] = True, np.nan, False
    entries.used[0] += 1
    return place  # type: ignore[return-value]


@compiled
def places_of(entries: Entries, kept: BoolArray, key: NDArray[np.uint64], found: IntArray) -> bool:
    """`place_of` for many, bool [K, N] -> int64 [K]; False where there is no room for all."""
    for index in range(len(kept)):
        pack(kept, index, key)
        found[index] = place_of(entries, key)
        if found[index] == FULL:
            return False
    return True


@compiled
def move(old: Entries, new: Entries, key: NDArray[np.uint64]) -> None:
    """Enter in a table that has room what another one knows and has no row: its predictions."""
    for place in range(len(old.taken)):
        if old.taken[place] and not old.measured[place] and not np.isnan(old.nll[place]):
            for word in range(len(key)):
                key[word] = old.keys[place, word]
            new.nll[place_of(new, key)] = old.nll[place]


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
    made: IntArray  # how many there are, [1]


class Scratch(NamedTuple):
    """Room that the passes write to and forget."""

    went: IntArray  # blocks that have just gone, [N]
    key: NDArray[np.uint64]  # [words]
    other: NDArray[np.uint64]  # [words]


@inner
def ones(bits: np.uint64) -> int:
    bits -= (bits >> np.uint64(1)) & np.uint64(0x5555555555555555)
    bits = (bits & np.uint64(0x3333333333333333)) + (
        (bits >> np.uint64(2)) & np.uint64(0x3333333333333333)
    )
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((bits * np.uint64(0x0101010101010101)) >> np.uint64(56))  # type: ignore[return-value]


@inner
def counts_of(key: NDArray[np.uint64]) -> tuple[int, int]:
    """How many attention and how many FFN blocks a set has: the even bits of its key, and the odd."""
    attention = ffn = 0
    for bits in key:
        attention += ones(bits & np.uint64(0x5555555555555555))
        ffn += ones(bits & np.uint64(0xAAAAAAAAAAAAAAAA))
    return attention, ffn


@inner
def _fit(
    sets: BoolArray, index: int, attention_cost: int, ffn_cost: int, excess: int,
    order: IntArray, went: IntArray,
) -> int:  # fmt: skip
    """Let blocks of one of K sets, bool [K, N], go until `excess` bytes are free, as `shield.cut`.

    Returns:
        Excess bytes left: below zero where more is free than had to be.
    """
    gone = 0
    for block in order:
        if excess <= 0:
            break
        if sets[index, block]:
            sets[index, block] = False
            excess -= ffn_cost if block % 2 else attention_cost
            went[gone] = block
            gone += 1
    for place in range(gone - 1, -1, -1):
        cost = ffn_cost if went[place] % 2 else attention_cost
        if cost <= -excess:
            sets[index, went[place]] = True
            excess += cost
    return excess


@inner
def _unload_refused(
    f: Facts, lanes: Lanes, lane: int, refused_from: int, taken: int, scratch: Scratch
) -> None:
    """What stays in memory after a refusal, as `Row.unload_refused`."""
    stays, attention_cost, ffn_cost = lanes.kept_end, f.sizes[ATTENTION], f.sizes[FFN]
    limit_row, seconds = lanes.limit_row[lane], f.limit_bytes.shape[1]
    lowest = f.limit_bytes[limit_row, refused_from]
    for second in range(refused_from + 1, seconds):
        lowest = min(lowest, f.limit_bytes[limit_row, second])
    lowest -= taken
    own_bytes = 0
    for block in range(len(f.floor)):
        if refused_from == 0:
            stays[lane, block] = lanes.loaded[lane, block]
        if stays[lane, block] and (lanes.proposal[lane, block] or f.floor[block]):
            own_bytes += ffn_cost if block % 2 else attention_cost
    own_stays = lanes.strict[lane] and own_bytes <= lowest
    excess = -lowest
    for block in range(len(f.floor)):
        if not (f.floor[block] or (own_stays and lanes.proposal[lane, block])):
            stays[lane, block] = False
        if stays[lane, block]:
            excess += ffn_cost if block % 2 else attention_cost
    _fit(stays, lane, attention_cost, ffn_cost, excess, f.last_first, scratch.went)


@inner
def nearest(value: float) -> float:
    """The nearest whole number, of two the even one: `np.rint`, without a call for what is usual."""
    if abs(value) < 2.0**51:
        return (value + 6755399441055744.0) - 6755399441055744.0
    return np.rint(value)


@inner
def token_counts(f: Facts, row: int, scale: float) -> tuple[int, int, int]:
    """Prompt, reserved and longest tokens of a row, scaled."""
    return (  # type: ignore[return-value]
        np.int64(nearest(f.prompt[row] * scale)),
        np.int64(nearest(f.reserved[row] * scale)),
        np.int64(nearest(f.longest[row] * scale)),
    )


@inner
def block_cost(f: Facts, tokens: int) -> int:
    """Weights and KV cache of one kept attention block, rounded up to the byte."""
    kv_bytes = -((-f.sizes[MODEL_KV] * tokens) // f.sizes[LAYERS])
    return f.sizes[ATTENTION] + kv_bytes


@inner
def overhead_bytes(f: Facts, prompt: int) -> int:
    return f.sizes[FIXED] + np.int64(np.ceil(f.rates[ACTIVATION] * prompt))


@inner
def _shielded(
    f: Facts, sets: BoolArray, lane: int, attention_cost: int, room: int, source: int,
    strict: bool, scratch: Scratch,
) -> tuple[int, bool, int]:  # fmt: skip
    """What the shield makes of a lane's proposal, in place and the floor in it, as `shield.decide`.

    Args:
        sets: of all lanes, [B, N].
        room: bytes for blocks.

    Returns:
        Its reason, whether the row is refused, and the bytes of blocks that are kept. The key of what is
        kept stands in `scratch.key`.
    """
    key, ffn_cost = scratch.key, f.sizes[FFN]
    pack(sets, lane, key)
    attention, ffn = counts_of(key)
    held = attention * attention_cost + ffn * ffn_cost
    if held <= room:
        return source, False, held
    excess = held - room
    excess = _fit(sets, lane, attention_cost, ffn_cost, excess, f.order, scratch.went)
    pack(sets, lane, key)
    cut_attention, cut_ffn = counts_of(key)
    repaired = cut_attention != attention or cut_ffn != ffn
    held = excess + room
    if excess > 0 or (repaired and strict):
        for block in range(len(f.floor)):
            sets[lane, block] = f.floor[block]
        pack(sets, lane, key)
        return REFUSED, True, held
    return REPAIRED if repaired and source == POLICY else source, False, held


@compiled
def shield(
    f: Facts,
    row: IntArray,
    limit_row: IntArray,
    token_scale: FloatArray,
    proposal: BoolArray,
    source: IntArray,
    strict: BoolArray,
    kept: BoolArray,
    refused: BoolArray,
    reason: IntArray,
    scratch: Scratch,
) -> int:
    """Count bytes and let the shield decide in every lane, and serve nothing: `DONE` or `ASTRAY`.

    Args:
        row, limit_row, token_scale, proposal, source, strict: as `Lanes` has them.
        kept, refused, reason: written, as `shield.Decision` has them.
    """
    rows = len(f.batch)
    for lane in range(len(row)):
        now, first = row[lane], limit_row[lane]
        if now < 0 or now >= rows or first < 0 or first >= rows:
            return ASTRAY
        prompt, reserved, _ = token_counts(f, now, token_scale[lane])
        attention_cost = block_cost(f, prompt + reserved)
        room = f.limit_bytes[first, 0] - (overhead_bytes(f, prompt) + f.sizes[MARGIN])
        for block in range(len(f.floor)):
            kept[lane, block] = proposal[lane, block] | f.floor[block]
        reason[lane], refused[lane], _ = _shielded(
            f, kept, lane, attention_cost, room, source[lane], strict[lane], scratch
        )
    return DONE


@compiled
def account(
    f: Facts,
    row: IntArray,
    limit_row: IntArray,
    token_scale: FloatArray,
    loss_s: FloatArray,
    stall_s: FloatArray,
    emergency_s: FloatArray,
    refused_s: FloatArray,
    asked: IntArray,
    budget: IntArray,
    cost: FloatArray,
) -> int:
    """What a log says of rows that were served, in B lanes: `DONE` or `ASTRAY`.

    Args:
        loss_s, stall_s, emergency_s, refused_s: as `reward.Seconds` has them, [B].
        asked: written, the fields of each row's `Demand`, [4, B].
        budget: written, bytes for blocks in its first second, [B].
        cost: written, its four terms, nats an output token, [B, 4].
    """
    rows, seconds = f.limit_bytes.shape
    for lane in range(len(row)):
        now, first = row[lane], limit_row[lane]
        if now < 0 or now >= rows or first < 0 or first >= rows:
            return ASTRAY
        prompt, reserved, longest = token_counts(f, now, token_scale[lane])
        asked[0, lane], asked[1, lane] = f.batch[now], prompt
        asked[2, lane], asked[3, lane] = reserved, longest
        budget[lane] = f.limit_bytes[first, 0] - (overhead_bytes(f, prompt) + f.sizes[MARGIN])
        cost[lane, 0] = loss_s[lane] / seconds
        cost[lane, 1] = f.rates[CEILING] * stall_s[lane] / seconds
        cost[lane, 2] = f.rates[CEILING] * emergency_s[lane] / seconds
        cost[lane, 3] = f.rates[CEILING] * refused_s[lane] / seconds
    return DONE


@compiled
def foresee(
    f: Facts,
    row: IntArray,
    limit_row: IntArray,
    token_scale: FloatArray,
    loaded: BoolArray,
    proposal: BoolArray,
    strict: BoolArray,
    loaded_instead: BoolArray,
    instead: BoolArray,
    kept: BoolArray,
    share: FloatArray,
    entries: Entries,
    scratch: Scratch,
) -> int:
    """What two decisions a lane cost a token should memory stay as it is: `DONE`, or what there is not.

    Args:
        row, limit_row, token_scale: of B rows, as `Lanes` has them.
        loaded, proposal, strict: of one, [B, ...]; loaded_instead, instead: of the other, never strict.
        kept: scratch, [1, N]; share: written, in units of C, of the one and then of the other, [2 * B].
    """
    rows, seconds = f.limit_bytes.shape
    key, other, missing, lanes = scratch.key, scratch.other, False, len(row)
    for index in range(2 * lanes):
        lane = index % lanes
        before, wanted = (loaded, proposal) if index < lanes else (loaded_instead, instead)
        now, first = row[lane], limit_row[lane]
        if now < 0 or now >= rows or first < 0 or first >= rows:
            return ASTRAY
        prompt, reserved, _ = token_counts(f, now, token_scale[lane])
        room = f.limit_bytes[first, 0] - (overhead_bytes(f, prompt) + f.sizes[MARGIN])
        for block in range(len(f.floor)):
            kept[0, block] = wanted[lane, block] | f.floor[block]
        attention_cost = block_cost(f, prompt + reserved)
        own = strict[lane] and index < lanes
        _, refused, _ = _shielded(f, kept, 0, attention_cost, room, POLICY, own, scratch)
        share[index] = 1.0
        if refused:
            continue
        place = place_of(entries, key)
        if place == FULL:
            return NO_ENTRY
        nll = entries.nll[place]
        missing |= np.isnan(nll)
        pack(before, lane, other)
        for word in range(len(key)):
            other[word] = key[word] & ~other[word]
        attention, ffn = counts_of(other)
        returning = attention * f.sizes[ATTENTION] + ffn * f.sizes[FFN]
        stalled = min(returning / f.rates[RESTORE] / seconds, 1.0)
        lost = min(nll, f.rates[CEILING]) / f.rates[CEILING]
        share[index] = lost + stalled * (1.0 - lost)
    return UNKNOWN if missing else DONE


@inner
def decide(f: Facts, lanes: Lanes, falls: Falls, entries: Entries, scratch: Scratch) -> int:
    """Let the shield decide and the row's limits pass, in every lane: `DONE`, or what there is not."""
    falls.made[0], missing = 0, 0
    rows, seconds = f.limit_bytes.shape
    whole, key, other = lanes.whole, scratch.key, scratch.other
    weights, ffn_cost, blocks = f.sizes[ATTENTION], f.sizes[FFN], len(f.floor)
    for lane in range(len(lanes.row)):
        row, limit_row = lanes.row[lane], lanes.limit_row[lane]
        if row < 0 or row >= rows or limit_row < 0 or limit_row >= rows:
            return ASTRAY
        prompt, reserved, longest = token_counts(f, row, lanes.token_scale[lane])
        attention_cost, overhead = block_cost(f, prompt + reserved), overhead_bytes(f, prompt)
        taken, limit = overhead + f.sizes[MARGIN], f.limit_bytes[limit_row, 0]
        for block in range(blocks):
            lanes.kept[lane, block] = lanes.proposal[lane, block] | f.floor[block]
        reason, refused, held = _shielded(
            f, lanes.kept, lane, attention_cost, limit - taken, lanes.source[lane],
            lanes.strict[lane], scratch,
        )  # fmt: skip
        for block in range(blocks):
            lanes.kept_end[lane, block] = lanes.kept[lane, block]
        place = place_of(entries, key)
        if place == FULL:
            return NO_ENTRY
        lanes.place[lane] = place
        missing += np.isnan(entries.nll[place])
        pack(lanes.loaded, lane, other)
        for word in range(len(key)):
            other[word] = key[word] & ~other[word]
        back_attention, back_ffn = counts_of(other)
        used, refused_from = overhead + held, seconds
        if refused:
            used, refused_from = 0, 0
        second = 1
        while not refused and second < seconds:
            budget = f.limit_bytes[limit_row, second] - taken
            if held > budget:
                fall = falls.made[0]
                if fall == len(falls.second):
                    return NO_FALL
                falls.made[0] += 1
                falls.second[fall], falls.lane[fall] = second, lane
                for block in range(blocks):
                    falls.before[fall, block] = lanes.kept_end[lane, block]
                    falls.kept[fall, block] = lanes.kept_end[lane, block]
                left = _fit(
                    falls.kept, fall, attention_cost, ffn_cost, held - budget, f.order,
                    scratch.went,
                )  # fmt: skip
                refused_now = left > 0 or lanes.strict[lane]
                falls.refused[fall], falls.place[fall] = refused_now, place
                if refused_now:
                    for block in range(blocks):
                        falls.kept[fall, block] = f.floor[block]
                    refused_from = second
                    break
                for block in range(blocks):
                    lanes.kept_end[lane, block] = falls.kept[fall, block]
                held = budget + left
                pack(falls.kept, fall, key)
                falls.place[fall] = place_of(entries, key)
                if falls.place[fall] == FULL:
                    return NO_ENTRY
                missing += np.isnan(entries.nll[falls.place[fall]])
            second += 1
        if refused_from < seconds:
            _unload_refused(f, lanes, lane, refused_from, taken, scratch)
        lanes.refused[lane] = refused
        whole[REASON, lane], whole[LIMIT, lane], whole[USED, lane] = reason, limit, used
        whole[PROMPT, lane], whole[RESERVED, lane] = prompt, reserved
        whole[LONGEST, lane], whole[BATCH, lane] = longest, f.batch[row]
        whole[OUTPUT, lane], whole[REFUSED_FROM, lane] = f.output[row], refused_from
        whole[RETURNING, lane] = back_attention * weights + back_ffn * ffn_cost
        lanes.next_row[lane] = row + 1 if row + 1 < rows else 0
        lanes.next_limit_row[lane] = limit_row + 1 if limit_row + 1 < rows else 0
    if len(lanes.row):
        whole[MISSING, 0] = missing
    return DONE


@compiled
def charge(f: Facts, lanes: Lanes, falls: Falls, entries: Entries) -> None:
    """Turn the seconds of the row that `decide` has seen into costs, in every lane."""
    seconds, ceiling, measures = f.limit_bytes.shape[1], f.rates[CEILING], lanes.measures
    fall, last = 0, falls.made[0]
    for lane in range(len(lanes.row)):
        nll, measured = entries.nll[lanes.place[lane]], entries.measured[lanes.place[lane]]
        loss, refused_from = min(nll, ceiling), lanes.whole[REFUSED_FROM, lane]
        left_s = lanes.whole[RETURNING, lane] / f.rates[RESTORE]
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


@compiled
def serve(f: Facts, lanes: Lanes, falls: Falls, entries: Entries, scratch: Scratch) -> int:
    """`decide` and, unless a set waits for its prediction, `charge` in one call."""
    found = decide(f, lanes, falls, entries, scratch)
    if found == DONE and len(lanes.row) and not lanes.whole[MISSING, 0]:
        charge(f, lanes, falls, entries)
    return found


@inner
def _keys(sets: BoolArray, words: int) -> NDArray[np.uint64]:
    """The keys of kept sets: bool [K, N] -> uint64 [K, words]."""
    keys = np.empty((len(sets), words), np.uint64)
    for index in range(len(sets)):
        pack(sets, index, keys[index])
    return keys


@compiled
def onward(
    f: Facts,
    loaded: BoolArray,
    kept: BoolArray,
    able_s: FloatArray,
    cost: FloatArray,
    ahead: FloatArray,
    least: FloatArray,
    choice: IntArray,
) -> None:
    """From each of M loaded sets the choice that costs least, as `plan.best_plan` weighs them, in B lanes.

    Args:
        loaded: [B, M, N]; kept: executed at the row's start, of K choices, [B, K, N].
        able_s, cost: of the row's S stretches, [S, B, K]; ahead: cost of a choice without its stall, [B, K].
        least, choice: written, [B, M].
    """
    words = (len(f.floor) + WORD - 1) // WORD
    other, best = np.empty(words, np.uint64), 0
    for lane in range(len(kept)):
        before, wanted = _keys(loaded[lane], words), _keys(kept[lane], words)
        for index in range(len(before)):
            lowest, likely = np.inf, best
            for turn in range(len(wanted) + 1):
                # The last one's choice first: most others cost more even without a stall then.
                place = likely if turn == 0 else turn - 1
                total = ahead[lane, place]
                if turn and (total > lowest or (total == lowest and place >= best)):
                    continue
                for word in range(words):
                    other[word] = wanted[place, word] & ~before[index, word]
                attention, ffn = counts_of(other)
                returning = attention * f.sizes[ATTENTION] + ffn * f.sizes[FFN]
                left_s = returning / f.rates[RESTORE]
                for stretch in range(len(able_s)):
                    waited = min(left_s, able_s[stretch, lane, place])
                    total += waited * cost[stretch, lane, place]
                    left_s -= waited
                if total < lowest or (total == lowest and place < best):
                    lowest, best = total, place
            least[lane, index], choice[lane, index] = lowest, best


class Sight(NamedTuple):
    """What does not change while rows are observed, read-only; see `encoding.layout`."""

    batch: NDArray[np.float32]  # of each row, as it is seen, [T]
    limit: NDArray[np.float32]  # of each second, as it is seen, row after row, [T * W]
    sizes: IntArray  # seconds of a row, rows that are looked back, limits seen ahead
    units: FloatArray  # bytes of the card, tokens of a unit, the largest that a feature can be


@inner
def clipped(value: float, largest: float) -> np.float32:
    return np.float32(min(max(value, -largest), largest))


@inner
def turned(row: int, rows: int) -> int:
    """A row before the first one is one at the end."""
    while row < 0:
        row += rows
    return row


@inner
def _copy(
    seen: NDArray[np.float32], lane: int, place: int, source: NDArray[np.float32], first: int,
    count: int,
) -> int:  # fmt: skip
    """Copy neighbours to where a lane sees them: the place after them."""
    for index in range(count):
        seen[lane, np.uint64(place + index)] = source[np.uint64(first + index)]
    return place + count


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
    key: NDArray[np.uint64],
) -> int:
    """Write what each of B lanes sees, and what its row asks for.

    Args:
        age: rows that each lane has served in this episode, [B].
        asked: batch, prompt, reserved and longest tokens, [4, B].
        seen: the parts that stay until the row is served, [B, ...].
        key: scratch, [words].

    Returns:
        `DONE`, or `ASTRAY` where a row does not exist.
    """
    rows, (seconds, back, ahead) = len(f.batch), (s.sizes[0], s.sizes[1], s.sizes[2])
    card, unit, largest = s.units[0], s.units[1], s.units[2]
    blocks, layers, ffn_cost = len(f.floor), f.sizes[LAYERS], f.sizes[FFN]
    for lane in range(len(row)):
        now, first, scale = row[lane], limit_row[lane], token_scale[lane]
        if now < 0 or now >= rows or first < 0 or first >= rows:
            return ASTRAY
        prompt, reserved, longest = token_counts(f, now, scale)
        asked[0, lane], asked[1, lane] = f.batch[now], prompt
        asked[2, lane], asked[3, lane] = reserved, longest
        attention_cost, overhead = block_cost(f, prompt + reserved), overhead_bytes(f, prompt)
        dense = overhead + layers * attention_cost + layers * ffn_cost
        kv_bytes = layers * (attention_cost - f.sizes[ATTENTION])
        seen[lane, 0] = s.batch[now]
        seen[lane, 1], seen[lane, 2] = (
            clipped(prompt / unit, largest),
            clipped(reserved / unit, largest),
        )
        seen[lane, 3], seen[lane, 4] = (
            clipped(longest / unit, largest),
            clipped(kv_bytes / dense, largest),
        )
        place = 5
        start, left = first * seconds, ahead
        while left > 0:
            count = min(left, len(s.limit) - start)
            place = _copy(seen, lane, place, s.limit, start, count)
            start, left = 0, left - count
        known = min(age[lane], back)  # rows before the episode repeat this one
        for index in range((back - known) * seconds):
            seen[lane, np.uint64(place + index)] = s.limit[first * seconds]
        place += (back - known) * seconds
        if known <= first:
            start = (first - known) * seconds
            place = _copy(seen, lane, place, s.limit, start, known * seconds)
        else:
            for earlier in range(known, 0, -1):
                start = turned(first - earlier, rows) * seconds
                place = _copy(seen, lane, place, s.limit, start, seconds)
        for earlier in range(back, 0, -1):
            past = np.uint64(turned(now - earlier, rows) if earlier <= known else now)
            seen[lane, np.uint64(place)] = s.batch[past]
            prompt_then, reserved_then = (
                nearest(f.prompt[past] * scale),
                nearest(f.reserved[past] * scale),
            )
            seen[lane, np.uint64(place + 1)] = clipped(prompt_then / unit, largest)
            seen[lane, np.uint64(place + 2)] = clipped(reserved_then / unit, largest)
            place += 3
        for block in range(blocks):
            seen[lane, np.uint64(place + block)] = np.float32(loaded[lane, block])
        place += blocks
        pack(loaded, lane, key)
        attention, ffn = counts_of(key)
        limit = f.limit_bytes[first, 0]
        used = overhead + attention * attention_cost + ffn * ffn_cost
        seen[lane, place] = clipped((limit - dense - f.sizes[MARGIN]) / card, largest)
        seen[lane, place + 1] = clipped((limit - used - f.sizes[MARGIN]) / card, largest)
    return DONE
