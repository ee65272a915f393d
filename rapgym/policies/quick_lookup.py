"""The frontier lookup by compiled code: whole numbers, so the same set to the last byte."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import IntArray
from rapgym.files.compiled import compiled

LAYERS, ATTENTION, FFN, MODEL_KV, FIXED, MARGIN = range(6)  # places in `Sets.sizes`
PROMPT, RESERVED, LIMIT = range(3)  # in `Sets.places`
TOKEN, CARD, ACTIVATION = range(3)  # in `Sets.units`


class Sets(NamedTuple):
    """K sets, best first, and where demand and limit stand in an observation; read-only."""

    attention: IntArray  # blocks kept, [K]
    ffn: IntArray
    sizes: IntArray
    places: IntArray
    units: NDArray[np.float64]


@compiled
def best_fitting(sets: Sets, seen: NDArray[np.float32], free: IntArray, chosen: IntArray) -> None:
    """Write the best set that fits in each of B lanes, the smallest where none does.

    Args:
        seen: observations, [B, O]; free: bytes that stay free, [B] or [1]; chosen: written, [B].
    """
    sizes, units, places = sets.sizes, sets.units, sets.places
    for lane in range(len(seen)):
        prompt = np.int64(np.rint(np.float64(seen[lane, places[PROMPT]]) * units[TOKEN]))
        reserved = np.int64(np.rint(np.float64(seen[lane, places[RESERVED]]) * units[TOKEN]))
        limit = np.int64(np.floor(np.float64(seen[lane, places[LIMIT]]) * units[CARD]))
        limit -= free[lane if len(free) > 1 else 0]
        kv_bytes = -((-sizes[MODEL_KV] * (prompt + reserved)) // sizes[LAYERS])
        attention_cost = sizes[ATTENTION] + kv_bytes
        base = sizes[FIXED] + np.int64(np.ceil(units[ACTIVATION] * prompt)) + sizes[MARGIN]
        best = smallest = -1
        lowest = base
        for index in range(len(sets.attention)):
            used = base + sets.attention[index] * attention_cost + sets.ffn[index] * sizes[FFN]
            if used <= limit:
                best = index
                break
            if smallest < 0 or used < lowest:
                smallest, lowest = index, used
        chosen[lane] = best if best >= 0 else smallest
