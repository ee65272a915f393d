"""Rows of B lanes served in compiled code that remembers what they paid, and nothing of a row.

Most rows change nothing in a lane: what is proposed is in memory and fits in every second. These are
told here; all others are left to `kernel.serve`, lane by lane.
"""

from typing import NamedTuple

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.files.compiled import resting_on
from rapgym.world import kernel
from rapgym.world.kernel import (
    DONE,
    FFN,
    MARGIN,
    MEAN_OUTPUT,
    MISSING,
    QUALITY,
    REFUSED_COST,
    UNKNOWN,
    Entries,
    Facts,
    Falls,
    Scratch,
    block_cost,
    overhead_bytes,
    token_counts,
)

NONE = -1


class Sets(NamedTuple):
    """M sets that can be proposed, read-only."""

    kept: BoolArray  # the floor in it, [M, N]
    attention: IntArray  # blocks kept, [M]
    ffn: IntArray
    loss: FloatArray  # nats, at most C, [M]


class Paid(NamedTuple):
    """What B lanes hold and have paid."""

    total: FloatArray  # cost times output tokens, [B]
    loaded: BoolArray  # blocks in memory, [B, N]
    held: IntArray  # which of the sets that is, or `NONE`, [B]
    row_paid: FloatArray  # scratch: of a row that is not finished, [B]
    after: IntArray  # scratch: `held` after it, [B]
    moved: BoolArray  # scratch: whether `left` has what is loaded then, [B]
    left: BoolArray  # scratch, [B, N]
    row: IntArray  # rows served, [1]
    chosen: IntArray  # which set the first lane proposed for each row, where there is room, [T]
    before: BoolArray  # what it had in memory then, [T, N]


@resting_on(kernel, within=True)
def serve_row(
    f: Facts, one: kernel.Lanes, falls: Falls, entries: Entries, scratch: Scratch, sets: Sets,
    paid: Paid, row: int, limit_row: int, chosen: IntArray,
) -> int:  # fmt: skip
    """Serve a row in every lane: `DONE`, or what there is not, and then nothing has changed.

    Args:
        one: room for a single lane, strict or not; its tokens are not scaled.
        chosen: which set each lane proposes, or `NONE` for what it has in memory, [B].
    """
    seconds, blocks = f.limit_bytes.shape[1], len(f.floor)
    prompt, reserved, _ = token_counts(f, row, 1.0)
    attention_cost = block_cost(f, prompt + reserved)
    lowest = f.limit_bytes[limit_row, 0]
    for second in range(1, seconds):
        lowest = min(lowest, f.limit_bytes[limit_row, second])
    lowest -= overhead_bytes(f, prompt) + f.sizes[MARGIN]
    share = f.output[row] / f.rates[MEAN_OUTPUT] / seconds
    for lane in range(len(chosen)):
        own = chosen[lane]
        if paid.held[lane] == own and own != NONE:
            taken = sets.attention[own] * attention_cost + sets.ffn[own] * f.sizes[FFN]
            if taken <= lowest:
                paid.row_paid[lane] = share * (seconds * sets.loss[own])
                paid.after[lane], paid.moved[lane] = own, False
                continue
        one.row[0], one.limit_row[0] = row, limit_row
        for block in range(blocks):
            one.loaded[0, block] = paid.loaded[lane, block]
            one.proposal[0, block] = (
                paid.loaded[lane, block] if own == NONE else sets.kept[own, block]
            )
        found = kernel.serve(f, one, falls, entries, scratch)
        if found != DONE:
            return found
        if one.whole[MISSING, 0]:
            return UNKNOWN
        # In the order of `Terms.total`.
        cost = one.measures[QUALITY, 0]
        for term in range(QUALITY + 1, REFUSED_COST + 1):
            cost += one.measures[term, 0]
        paid.row_paid[lane] = cost
        is_own = own != NONE
        for block in range(blocks):
            paid.left[lane, block] = one.kept_end[0, block]
            is_own = is_own and one.kept_end[0, block] == sets.kept[own, block]
        paid.after[lane], paid.moved[lane] = own if is_own else NONE, True
    mean, at = f.rates[MEAN_OUTPUT], paid.row[0]
    paid.row[0] += 1
    if at < len(paid.chosen):
        paid.chosen[at] = chosen[0]
        for block in range(blocks):
            paid.before[at, block] = paid.loaded[0, block]
    for lane in range(len(chosen)):
        paid.total[lane] += paid.row_paid[lane] * mean
        paid.held[lane] = paid.after[lane]
        if paid.moved[lane]:
            for block in range(blocks):
                paid.loaded[lane, block] = paid.left[lane, block]
    return DONE


@resting_on(kernel)
def serve(
    f: Facts, one: kernel.Lanes, falls: Falls, entries: Entries, scratch: Scratch, sets: Sets,
    paid: Paid, rows: IntArray, limit_rows: IntArray, chosen: IntArray, done: IntArray,
) -> int:  # fmt: skip
    """Serve rows in turn, from `done` on, which says how many are finished: as `serve_row`.

    Args:
        rows, limit_rows: [R]; chosen: [R, B]; done: [1].
    """
    while done[0] < len(rows):
        at = done[0]
        found = serve_row(
            f, one, falls, entries, scratch, sets, paid, rows[at], limit_rows[at], chosen[at]
        )
        if found != DONE:
            return found
        done[0] += 1
    return DONE
