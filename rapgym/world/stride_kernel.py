"""A step of B lanes in one compiled pass: served, charged, advanced and observed, lane by lane.

For environments, whose policies are never strict, of models of at most `kernel.WORD` blocks: a kept set is
one word then, block 0 its lowest bit. What it writes equals what `simulator.step` and
`encoding.observe_row` say. Quality comes from `Answers`, so that no set waits for its prediction.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.files.compiled import resting_on
from rapgym.world import kernel
from rapgym.world.kernel import (
    ATTENTION,
    CEILING,
    FFN,
    LAYERS,
    MARGIN,
    PAUSE,
    POLICY,
    REFUSED,
    REPAIRED,
    RESTORE,
    Facts,
    Sight,
    block_cost,
    clipped,
    ones,
    overhead_bytes,
    token_counts,
    turned,
)

Words = NDArray[np.uint64]
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

FLOOR, FULL, DROPPABLE = range(3)  # places in `Answers.words`
ATTENTION_BITS, FFN_BITS = np.uint64(0x5555555555555555), np.uint64(0xAAAAAAAAAAAAAAAA)
NOTHING = np.uint64(0)  # no set: the floor is in every one, and it is never empty
GROUPS = 4  # of bits, beside those that are tabled
# Columns of `Lanes.whole`: where a lane stands in its rows and its episode, and what its row asks for.
ROW, LIMIT_ROW, AGE, LENGTH, STEPS, PROMPT, RESERVED, LONGEST, COST, OVERHEAD = range(10)
WHOLE = 10
LOADED, SO_FAR = range(2)  # columns of `Lanes.keys`
# Columns of `Said.whole` and `Said.measures`, as `info` names them.
(REASON, LIMIT, USED, BATCH, PROMPTED, RESERVED_FOR, LONGEST_ASKED) = range(7)
(NLL, REFUSED_S, EMERGENCY_S, STALL_S, QUALITY, STALL, EMERGENCY, REFUSED_COST) = range(8)
PROPOSAL, KEPT, KEPT_END = range(3)  # of `Said.sets`


class Answers(NamedTuple):
    """What columns say of any kept set: their rows, and a fit whose sums were opened into tables.

    See `quality.opened`, which says what the tables hold.
    """

    words: Words  # floor, all blocks, what may be dropped
    row_key: Words  # an open hash table of rows, a power of two places; 0 where one is free
    row_nll: FloatArray
    memo_key: Words  # predictions of late, each at the one place that its key has; 0 where free
    memo_nll: FloatArray
    squeezed: NDArray[np.uint32]  # droppable bits of each byte of a key, brought together, [8, 256]
    widths: IntArray  # bits that are tabled, and bits of a group
    mask: Words  # of each block and each pair of blocks
    value: FloatArray  # what it adds where all of it is gone, nats
    tabled: FloatArray  # by what the tabled bits say: two sums for each pattern, [2 ** bits, 2 * patterns]
    # By what a group's bits say: how near each pattern is, and the covariance of what both drop.
    groups: FloatArray  # [2, GROUPS, 2 ** bits, patterns]
    at_counts: FloatArray  # as `QualityColumns` has it
    added: FloatArray  # nats in every answer, [1]


class Lanes(NamedTuple):
    """Where B lanes stand between steps. Numbers of a lane lie beside each other, so that few lines of
    memory are met in a step."""

    whole: IntArray  # [B, WHOLE]
    scale: FloatArray  # [B]
    keys: Words  # what is loaded, and what small steps have left so far, [B, 2]
    recent: Floats  # demand of the rows before this one and of this one, as it is seen, [B, 3 * back + 3]
    stays: Floats  # what is seen until a row is served, where rows take several steps, [B, ...] or [0, 0]
    stale: BoolArray  # lanes whose row has to be seen anew, [B]
    playing: BoolArray  # lanes in whose episode something is left to do, [B]


class Small(NamedTuple):
    """What lanes whose rows take several small steps are served by; N blocks, none where rows take one."""

    block: (
        FloatArray  # what each block costs when it goes alone, over C; of the floor 1 or more, [N]
    )
    pair: FloatArray  # what it costs more where another one is gone, over C; of the floor 0, [N, N]
    rises: FloatArray  # what each block of each lane would cost now, over C, [B, N]
    so_far: Bytes  # what each row still keeps, [B, N]


class Tables(NamedTuple):
    """Numbers by what they are looked up with."""

    bits: Bytes  # the bits of a byte, lowest first, [256, 8]
    floats: Floats  # the same
    lowest: IntArray  # limit of each row after its first second, bytes, [T]
    share: FloatArray  # weight of each row over its seconds, [T]


class Said(NamedTuple):
    """What a step says of B lanes, all written."""

    seen: Floats  # [B, O]
    whole: IntArray  # [B, 7]
    measures: FloatArray  # [B, 8]
    sets: Bytes  # [B, 3, N]
    mask: Bytes  # legal actions, [B, 1, N + 1] where rows take several small steps, or [0, 0, 0]
    served: BoolArray  # lanes whose row is finished, [B]
    measured: BoolArray  # [B]
    over: BoolArray  # lanes whose episode is, [B]
    reward: FloatArray  # [B]


@resting_on(kernel, inlined=True)
def mixed(key: np.uint64) -> np.uint64:
    """Bits of a key stirred, for a place in a table."""
    key = (key ^ (key >> np.uint64(32))) * np.uint64(0xBF58476D1CE4E5B9)
    return (key ^ (key >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)


@resting_on(kernel)
def enter(keys: Words, nll: FloatArray, row_key: Words, row_nll: FloatArray) -> None:
    """Enter rows in an empty table that has room for twice as many."""
    last = np.uint64(len(row_key) - 1)
    for index in range(len(keys)):
        place = (mixed(keys[index]) >> np.uint64(32)) & last
        while row_key[place] != NOTHING:
            place = (place + np.uint64(1)) & last
        row_key[place], row_nll[place] = keys[index], nll[index]


@resting_on(kernel, loose=True)
def predicted(
    gone: np.uint64,
    squeezed: NDArray[np.uint32],
    widths: IntArray,
    mask: Words,
    value: FloatArray,
    tabled: FloatArray,
    groups: FloatArray,
) -> float:
    """What a fit says of a set whose other blocks are `gone`, nats a token, as `Predictor.nll`.

    Args:
        squeezed, widths, mask, value, tabled, groups: as `Answers` has them.
    """
    at = np.uint64(0)
    for byte in range(8):
        at |= np.uint64(squeezed[byte, (gone >> np.uint64(8 * byte)) & np.uint64(255)])
    total = 0.0
    for index in range(len(mask)):
        total += value[index] if (gone & mask[index]) == mask[index] else 0.0
    first, width = np.uint64(widths[0]), np.uint64(widths[1])
    row = tabled[at & ((np.uint64(1) << first) - np.uint64(1))]
    most, rest = (np.uint64(1) << width) - np.uint64(1), at >> first
    zero, rest = rest & most, rest >> width
    one, rest = rest & most, rest >> width
    two, three = rest & most, rest >> width
    near0, near1 = groups[0, 0, zero], groups[0, 1, one]
    near2, near3 = groups[0, 2, two], groups[0, 3, three]
    sums0, sums1 = groups[1, 0, zero], groups[1, 1, one]
    sums2, sums3 = groups[1, 2, two], groups[1, 3, three]
    patterns, bent = len(near0), 0.0
    times, plus = row[:patterns], row[patterns:]
    for index in range(patterns):
        near = (near0[index] * near1[index]) * (near2[index] * near3[index])
        common = (sums0[index] + sums1[index]) + (sums2[index] + sums3[index])
        bent += near * (common * times[index] + plus[index])
    return total + bent


@resting_on(kernel, inlined=True)
def answer(a: Answers, key: np.uint64) -> tuple[float, bool]:
    """Nats a token of a set above the floor, and whether they were measured; as `QualityColumns.nll`."""
    stirred = mixed(key)
    place, last = (stirred >> np.uint64(32)) & np.uint64(len(a.row_key) - 1), len(a.row_key) - 1
    found_key = a.row_key[place]
    while found_key != NOTHING:
        if found_key == key:
            return a.row_nll[place], True
        place = (place + np.uint64(1)) & np.uint64(last)
        found_key = a.row_key[place]
    place = (stirred >> np.uint64(20)) & np.uint64(len(a.memo_key) - 1)
    if a.memo_key[place] == key:
        return a.memo_nll[place], False
    gone = ~key & a.words[DROPPABLE]
    least = a.at_counts[ones(gone & ATTENTION_BITS), ones(gone & FFN_BITS)]
    nll = predicted(gone, a.squeezed, a.widths, a.mask, a.value, a.tabled, a.groups)
    found = max(np.rint(nll * 1e6) / 1e6 + a.added[0], least)  # as `QualityColumns.answered`
    a.memo_key[place], a.memo_nll[place] = key, found
    return found, False


@resting_on(kernel, inlined=True)
def cut(
    key: np.uint64, attention_cost: int, ffn_cost: int, excess: int, order: IntArray, went: IntArray
) -> tuple[np.uint64, int]:
    """Let blocks of a set go until `excess` bytes are free, as `shield.cut`.

    Returns:
        What is left of it, and excess bytes that are: below zero where more is free than had to be.
    """
    gone, one = 0, np.uint64(1)
    for block in order:
        if excess <= 0:
            break
        bit = one << np.uint64(block)
        if key & bit:
            key ^= bit
            excess -= ffn_cost if block & 1 else attention_cost
            went[gone] = block
            gone += 1
    for place in range(gone - 1, -1, -1):
        cost = ffn_cost if went[place] & 1 else attention_cost
        if cost <= -excess:
            key |= one << np.uint64(went[place])
            excess += cost
    return key, excess


@resting_on(kernel, inlined=True)
def spread(key: np.uint64, bits: Bytes, out: Bytes, which: int, lane: int, blocks: int) -> None:
    """Write a set as bytes, a block each: out[lane, which], [N]."""
    if blocks < 8:
        for block in range(blocks):
            out[lane, which, block] = (key >> np.uint64(block)) & np.uint64(1)
        return
    for byte in range((blocks + 7) >> 3):
        first = np.uint64(min(8 * byte, blocks - 8))  # the last eight overlap those before
        at = (key >> first) & np.uint64(255)
        v0, v1, v2, v3 = bits[at, 0], bits[at, 1], bits[at, 2], bits[at, 3]
        v4, v5, v6, v7 = bits[at, 4], bits[at, 5], bits[at, 6], bits[at, 7]
        out[lane, which, first], out[lane, which, first + np.uint64(1)] = v0, v1
        out[lane, which, first + np.uint64(2)], out[lane, which, first + np.uint64(3)] = v2, v3
        out[lane, which, first + np.uint64(4)], out[lane, which, first + np.uint64(5)] = v4, v5
        out[lane, which, first + np.uint64(6)], out[lane, which, first + np.uint64(7)] = v6, v7


@resting_on(kernel, inlined=True)
def spread_floats(
    key: np.uint64, floats: Floats, seen: Floats, lane: int, place: np.uint64, blocks: int
) -> None:
    """Write a set as numbers, a block each: seen[lane, place:], [N]."""
    if blocks < 8:
        for block in range(blocks):
            bit = (key >> np.uint64(block)) & np.uint64(1)
            seen[lane, place + np.uint64(block)] = np.float32(bit)
        return
    for byte in range((blocks + 7) >> 3):
        first = np.uint64(min(8 * byte, blocks - 8))
        at, base = (key >> first) & np.uint64(255), place + first
        v0, v1, v2, v3 = floats[at, 0], floats[at, 1], floats[at, 2], floats[at, 3]
        v4, v5, v6, v7 = floats[at, 4], floats[at, 5], floats[at, 6], floats[at, 7]
        seen[lane, base], seen[lane, base + np.uint64(1)] = v0, v1
        seen[lane, base + np.uint64(2)], seen[lane, base + np.uint64(3)] = v2, v3
        seen[lane, base + np.uint64(4)], seen[lane, base + np.uint64(5)] = v4, v5
        seen[lane, base + np.uint64(6)], seen[lane, base + np.uint64(7)] = v6, v7


@resting_on(kernel, inlined=True)
def _serve(
    f: Facts,
    t: Tables,
    a: Answers,
    here: Lanes,
    o: Said,
    lane: int,
    proposal: np.uint64,
    went: IntArray,
) -> None:
    """Serve one lane's row, say what happened and stand it before the next."""
    whole, measures = o.whole, o.measures
    rows, seconds = f.limit_bytes.shape
    blocks, ffn_cost, weights = len(f.floor), f.sizes[FFN], f.sizes[ATTENTION]
    row, limit_row = np.uint64(here.whole[lane, ROW]), np.uint64(here.whole[lane, LIMIT_ROW])
    attention_cost, overhead = here.whole[lane, COST], here.whole[lane, OVERHEAD]
    ceiling = f.rates[CEILING]
    taken, limit = overhead + f.sizes[MARGIN], f.limit_bytes[limit_row, 0]
    loaded, floor = here.keys[lane, LOADED], a.words[FLOOR]
    kept = proposal | floor
    held = ones(kept & ATTENTION_BITS) * attention_cost + ones(kept & FFN_BITS) * ffn_cost
    reason, refused, room = POLICY, False, limit - taken
    if held > room:
        wanted = kept
        kept, excess = cut(kept, attention_cost, ffn_cost, held - room, f.order, went)
        held = excess + room
        if kept != wanted:
            reason = REPAIRED
        if excess > 0:
            kept, reason, refused = floor, REFUSED, True
    nll, measured = answer(a, kept)
    loss = min(nll, ceiling)
    new = kept & ~loaded
    returning = ones(new & ATTENTION_BITS) * weights + ones(new & FFN_BITS) * ffn_cost
    left_s = returning / f.rates[RESTORE]
    used, kept_end = overhead + held, kept
    loss_s = stall_s = emergency_s = refused_s = 0.0
    refused_from = seconds
    if refused:
        used, refused_from, refused_s, measured = 0, 0, float(seconds), True
    elif held <= t.lowest[limit_row] - taken:
        stall_s = min(left_s, float(seconds))
        loss_s = (seconds - stall_s) * loss
    else:
        for second in range(seconds):
            able_s, budget = 1.0, f.limit_bytes[limit_row, second] - taken
            if refused_from == seconds and held > budget:
                fallen, left = cut(kept_end, attention_cost, ffn_cost, held - budget, f.order, went)
                if left > 0:
                    refused_from, kept_end = second, floor
                else:
                    kept_end, held = fallen, budget + left
                    fallen_nll, fallen_measured = answer(a, kept_end)
                    loss, measured = min(fallen_nll, ceiling), measured and fallen_measured
                    emergency_s += f.rates[PAUSE]
                    able_s = 1.0 - f.rates[PAUSE]
            if refused_from <= second:
                refused_s += 1.0
                continue
            stalled = min(left_s, able_s)
            left_s -= stalled
            stall_s += stalled
            loss_s += (able_s - stalled) * loss
    if refused_from < seconds:  # as `Row.unload_refused`; no KV cache is left
        lowest = f.limit_bytes[limit_row, refused_from]
        for second in range(refused_from + 1, seconds):
            lowest = min(lowest, f.limit_bytes[limit_row, second])
        kept_end = (loaded if refused_from == 0 else kept_end) & floor
        stays = ones(kept_end & ATTENTION_BITS) * weights + ones(kept_end & FFN_BITS) * ffn_cost
        kept_end, _ = cut(kept_end, weights, ffn_cost, stays - (lowest - taken), f.last_first, went)
    share = t.share[row]
    quality, stall = share * loss_s, share * ceiling * stall_s
    emergency, refusal = share * ceiling * emergency_s, share * ceiling * refused_s
    o.measured[lane] = measured
    o.reward[lane] = -(quality + stall + emergency + refusal)
    whole[lane, REASON], whole[lane, LIMIT], whole[lane, USED] = reason, limit, used
    whole[lane, BATCH], whole[lane, PROMPTED] = f.batch[row], here.whole[lane, PROMPT]
    whole[lane, RESERVED_FOR], whole[lane, LONGEST_ASKED] = (
        here.whole[lane, RESERVED],
        here.whole[lane, LONGEST],
    )
    measures[lane, NLL], measures[lane, REFUSED_S] = nll, refused_s
    measures[lane, EMERGENCY_S], measures[lane, STALL_S] = emergency_s, stall_s
    measures[lane, QUALITY], measures[lane, STALL] = quality, stall
    measures[lane, EMERGENCY], measures[lane, REFUSED_COST] = emergency, refusal
    spread(proposal, t.bits, o.sets, PROPOSAL, lane, blocks)
    spread(kept, t.bits, o.sets, KEPT, lane, blocks)
    spread(kept_end, t.bits, o.sets, KEPT_END, lane, blocks)
    here.keys[lane, LOADED] = kept_end
    here.whole[lane, ROW] = row + np.uint64(1) if np.int64(row) + 1 < rows else np.uint64(0)
    here.whole[lane, LIMIT_ROW] = (
        limit_row + np.uint64(1) if np.int64(limit_row) + 1 < rows else np.uint64(0)
    )
    here.whole[lane, AGE] += 1
    recent = here.recent
    for index in range(recent.shape[1] - 3):
        recent[lane, np.uint64(index)] = recent[lane, np.uint64(index + 3)]


@resting_on(kernel, inlined=True)
def _observe(f: Facts, s: Sight, t: Tables, here: Lanes, seen: Floats, lane: int) -> None:
    """Write what a lane sees until its row is served, as `kernel.observe`, and remember what it asks."""
    whole, recent, one = here.whole, here.recent, np.uint64(1)
    rows, seconds, back, ahead = len(f.batch), s.sizes[0], s.sizes[1], s.sizes[2]
    card, unit, largest = s.units[0], s.units[1], s.units[2]
    blocks, layers, ffn_cost = len(f.floor), f.sizes[LAYERS], f.sizes[FFN]
    now, first, loaded = whole[lane, ROW], whole[lane, LIMIT_ROW], here.keys[lane, LOADED]
    prompt, reserved, longest = token_counts(f, now, here.scale[lane])
    attention_cost, overhead = block_cost(f, prompt + reserved), overhead_bytes(f, prompt)
    whole[lane, PROMPT], whole[lane, RESERVED], whole[lane, LONGEST] = prompt, reserved, longest
    whole[lane, COST], whole[lane, OVERHEAD] = attention_cost, overhead
    dense = overhead + layers * attention_cost + layers * ffn_cost
    kv_bytes = layers * (attention_cost - f.sizes[ATTENTION])
    batch_seen, prompt_seen = s.batch[np.uint64(now)], clipped(prompt / unit, largest)
    reserved_seen = clipped(reserved / unit, largest)
    seen[lane, 0], seen[lane, 1], seen[lane, 2] = batch_seen, prompt_seen, reserved_seen
    seen[lane, 3] = clipped(longest / unit, largest)
    seen[lane, 4] = clipped(kv_bytes / dense, largest)
    place = np.uint64(5)
    start, left = first * seconds, ahead
    while left > 0:
        count = min(left, len(s.limit) - start)
        for index in range(count):
            seen[lane, place + np.uint64(index)] = s.limit[np.uint64(start + index)]
        place += np.uint64(count)
        start, left = 0, left - count
    known = min(whole[lane, AGE], back)  # rows before the episode repeat this one
    limit_seen = s.limit[np.uint64(first * seconds)]
    for _ in range((back - known) * seconds):
        seen[lane, place] = limit_seen
        place += one
    if known <= first:
        start = (first - known) * seconds
        for index in range(known * seconds):
            seen[lane, place + np.uint64(index)] = s.limit[np.uint64(start + index)]
        place += np.uint64(known * seconds)
    else:
        for earlier in range(known, 0, -1):
            start = turned(first - earlier, rows) * seconds
            for index in range(seconds):
                seen[lane, place] = s.limit[np.uint64(start + index)]
                place += one
    for index in range(back - known):
        recent[lane, 3 * index] = batch_seen
        recent[lane, 3 * index + 1] = prompt_seen
        recent[lane, 3 * index + 2] = reserved_seen
    last = 3 * back
    recent[lane, last], recent[lane, last + 1] = batch_seen, prompt_seen
    recent[lane, last + 2] = reserved_seen
    for index in range(last):
        seen[lane, place + np.uint64(index)] = recent[lane, np.uint64(index)]
    place += np.uint64(last)
    spread_floats(loaded, t.floats, seen, lane, place, blocks)
    place += np.uint64(blocks)
    attention, ffn = ones(loaded & ATTENTION_BITS), ones(loaded & FFN_BITS)
    limit = f.limit_bytes[first, 0]
    used = overhead + attention * attention_cost + ffn * ffn_cost
    seen[lane, place] = clipped((limit - dense - f.sizes[MARGIN]) / card, largest)
    seen[lane, place + one] = clipped((limit - used - f.sizes[MARGIN]) / card, largest)


@resting_on(kernel, inlined=True)
def _drop(m: Small, here: Lanes, lane: int, action: np.uint64, droppable: np.uint64) -> bool:
    """Drop a block of one lane's row; False where the action stands for STOP."""
    blocks, so_far = m.so_far.shape[1], here.keys[lane, SO_FAR]
    bit = np.uint64(1) << action if action < np.uint64(blocks) else NOTHING
    if so_far & droppable & bit == NOTHING:
        return False
    here.keys[lane, SO_FAR] = so_far ^ bit
    m.so_far[lane, action] = 0
    for block in range(blocks):
        m.rises[lane, np.uint64(block)] += m.pair[action, np.uint64(block)]
    return True


@resting_on(kernel, inlined=True)
def _observe_steps(
    f: Facts, s: Sight, t: Tables, a: Answers, m: Small, here: Lanes, o: Said, lane: int
) -> None:
    """Write what changes with a lane's small steps, and its mask; a row that was served is followed by a whole one.

    As `encoding.with_steps` and `scenarios.lanes.importance`.
    """
    seen, blocks, largest, card = o.seen, len(f.floor), s.units[2], s.units[0]
    start = np.uint64(here.stays.shape[1])
    headroom, known = start + np.uint64(blocks), start + np.uint64(blocks + 1)
    so_far = here.keys[lane, SO_FAR]
    if o.served[lane] or so_far == NOTHING:
        so_far = here.keys[lane, SO_FAR] = a.words[FULL]
        for block in range(blocks):
            m.so_far[lane, np.uint64(block)] = 1
            m.rises[lane, np.uint64(block)] = m.block[np.uint64(block)]
    spread_floats(so_far, t.floats, seen, lane, start, blocks)
    attention, ffn = ones(so_far & ATTENTION_BITS), ones(so_far & FFN_BITS)
    used = here.whole[lane, OVERHEAD] + attention * here.whole[lane, COST] + ffn * f.sizes[FFN]
    limit = f.limit_bytes[np.uint64(here.whole[lane, LIMIT_ROW]), 0]
    seen[lane, headroom] = clipped((limit - used - f.sizes[MARGIN]) / card, largest)
    for block in range(blocks):
        place = np.uint64(block)
        share = np.float32(min(max(m.rises[lane, place], 0.0), 1.0))
        seen[lane, known + place] = share * seen[lane, start + place]
    spread(so_far & a.words[DROPPABLE], t.bits, o.mask, 0, lane, blocks)
    o.mask[lane, 0, np.uint64(blocks)] = 1


@resting_on(kernel)
def advance(
    f: Facts,
    s: Sight,
    t: Tables,
    a: Answers,
    m: Small,
    here: Lanes,
    most_steps: int,
    went: IntArray,
    o: Said,
    actions: Words,
    acting: BoolArray,
) -> None:
    """Take a step in every lane and see what is so then.

    Args:
        most_steps: after which an episode is cut.
        went: scratch, [N].
        actions: of each lane its proposal, or where rows take several steps a block, N to stop: [B].
        acting: lanes that take a step of their episode; the others have only begun it, [B].
    """
    whole, small, stays = here.whole, len(m.block) > 0, here.stays.shape[1]
    of_row = here.stays if small else o.seen
    for lane in range(len(acting)):
        over, served, proposal = False, acting[lane], actions[lane]
        if small and served:
            proposal = here.keys[lane, SO_FAR]
            served = not _drop(m, here, lane, actions[lane], a.words[DROPPABLE])
        o.served[lane] = served
        if served:
            _serve(f, t, a, here, o, lane, proposal, went)
            over = whole[lane, AGE] >= whole[lane, LENGTH]
        else:
            o.whole[lane], o.measures[lane], o.sets[lane] = 0, 0.0, 0
            o.whole[lane, REASON], o.measured[lane], o.reward[lane] = -1, False, 0.0
        if acting[lane]:
            whole[lane, STEPS] += 1
            over |= whole[lane, STEPS] >= most_steps
            here.playing[lane] = not over
        o.over[lane] = over
        if not small or served or here.stale[lane]:
            _observe(f, s, t, here, of_row, lane)
            here.stale[lane] = False
        if small:
            for index in range(stays):
                o.seen[lane, np.uint64(index)] = of_row[lane, np.uint64(index)]
            _observe_steps(f, s, t, a, m, here, o, lane)


@resting_on(kernel)
def begin(
    here: Lanes, lanes: IntArray, row: IntArray, limit_row: IntArray, scale: FloatArray,
    length: IntArray, full: np.uint64,
) -> None:  # fmt: skip
    """Begin an episode in each of some lanes, [n], every block in memory."""
    for index in range(len(lanes)):
        lane = lanes[index]
        here.whole[lane, ROW], here.whole[lane, LIMIT_ROW] = row[index], limit_row[index]
        here.whole[lane, AGE], here.whole[lane, LENGTH] = 0, length[index]
        here.whole[lane, STEPS] = 0
        here.scale[lane], here.keys[lane, LOADED], here.stale[lane] = scale[index], full, True
        here.keys[lane, SO_FAR], here.playing[lane] = NOTHING, True


@resting_on(kernel)
def of_counts(actions: IntArray, grid: Words, proposal: Words) -> bool:
    """The proposals of counts, int64 [B, 2]; False where one is outside the grid, [A + 1, F + 1]."""
    for lane in range(len(actions)):
        attention, ffn = np.uint64(actions[lane, 0]), np.uint64(actions[lane, 1])
        if attention >= np.uint64(grid.shape[0]) or ffn >= np.uint64(grid.shape[1]):
            return False
        proposal[lane] = grid[attention, ffn]
    return True


@resting_on(kernel)
def of_bits(actions: NDArray[np.int8], proposal: Words) -> bool:
    """The proposals of kept sets, int8 [B, N]; False where a number is neither 0 nor 1."""
    for lane in range(len(actions)):
        bits, wrong = np.uint64(0), np.uint8(0)
        for block in range(actions.shape[1]):
            bit = np.uint8(actions[lane, np.uint64(block)])
            wrong |= bit
            bits |= np.uint64(bit) << np.uint64(block)
        if wrong > 1:
            return False
        proposal[lane] = bits
    return True
