"""Late restoring by compiled code, for many settings that meet the same rows: `baselines.frontier_hysteresis`."""

import numpy as np

from rapgym.arrays import FloatArray, IntArray
from rapgym.files.compiled import resting_on
from rapgym.world import kernel, tally_kernel
from rapgym.world.kernel import (
    DONE,
    FFN,
    FULL,
    MARGIN,
    NO_ENTRY,
    UNKNOWN,
    Entries,
    Facts,
    Falls,
    Lanes,
    Scratch,
    block_cost,
    counts_of,
    overhead_bytes,
    pack,
    place_of,
    token_counts,
)
from rapgym.world.tally_kernel import NONE, Paid, Sets, serve_row


@resting_on(kernel, tally_kernel)
def serve(
    f: Facts, one: Lanes, falls: Falls, entries: Entries, scratch: Scratch, sets: Sets, paid: Paid,
    nll: FloatArray, patience: IntArray, fitted: IntArray, fits_now: IntArray, proposed: IntArray,
    safe: IntArray, chosen: IntArray, free: IntArray, rows: IntArray, limit_rows: IntArray,
    done: IntArray,
) -> int:  # fmt: skip
    """Decide rows in turn in every lane, and serve them: as `tally_kernel.serve`.

    Args:
        nll: of each set, [M]; patience: `rows` of each lane, [B].
        fitted: rows on end in which a better set has fitted, kept up to date, [B].
        fits_now, proposed: scratch, [B].
        safe, chosen: what fits beside margin and headroom, and beside the margin, [R, B].
        free: the limit as it is seen, less the margin, [R, B].
    """
    key = scratch.key
    while done[0] < len(rows):
        at = done[0]
        prompt, reserved, _ = token_counts(f, rows[at], 1.0)
        attention_cost = block_cost(f, prompt + reserved)
        base = overhead_bytes(f, prompt) + f.sizes[MARGIN]
        for lane in range(len(fitted)):
            own = paid.held[lane]
            if own == NONE:
                for block in range(len(f.floor)):
                    one.proposal[0, block] = paid.loaded[lane, block] | f.floor[block]
                pack(one.proposal, 0, key)
                attention, ffn = counts_of(key)
            else:
                attention, ffn = sets.attention[own], sets.ffn[own]
            stays = base + attention * attention_cost + ffn * f.sizes[FFN] <= free[at, lane]
            better = False
            if stays and own == NONE:
                place = place_of(entries, key)
                if place == FULL:
                    return NO_ENTRY
                if np.isnan(entries.nll[place]):
                    return UNKNOWN
                better = nll[safe[at, lane]] < entries.nll[place]
            elif stays:
                better = nll[safe[at, lane]] < nll[own]
            fits_now[lane] = fitted[lane] + 1 if better else 0
            proposed[lane] = own if stays else chosen[at, lane]
            if better and fits_now[lane] >= patience[lane]:
                fits_now[lane], proposed[lane] = 0, safe[at, lane]
        found = serve_row(
            f, one, falls, entries, scratch, sets, paid, rows[at], limit_rows[at], proposed
        )
        if found != DONE:
            return found
        for lane in range(len(fitted)):
            fitted[lane] = fits_now[lane]
        done[0] += 1
    return DONE
