"""Observations read back by compiled code: `encoding.read` once more, to the last byte."""

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.files.compiled import compiled
from rapgym.world.encoding import BATCH_UNIT, Layout, Reading

NAMES = (
    "batch",
    "prompt_tokens",
    "reserved_tokens",
    "longest_tokens",
    "limit",
    "recent_limit",
    "loaded",
)
BATCH, PROMPT, RESERVED, LONGEST, LIMIT, RECENT, LOADED = range(7)


@compiled
def _read(
    starts: IntArray,
    units: FloatArray,
    seen: NDArray[np.float32],
    asked: IntArray,
    limits: IntArray,
    recent: IntArray,
    loaded: BoolArray,
) -> None:
    """Args:
    starts: of each part, in the order of `NAMES`; units: requests, tokens, card.
    seen: [B, O]; asked: written, [4, B]; limits, recent, loaded: written, [B, ...].
    """
    card = units[2]
    for lane in range(len(seen)):
        for part in range(4):
            unit = units[0] if part == 0 else units[1]
            asked[part, lane] = np.int64(np.rint(np.float64(seen[lane, starts[part]]) * unit))
        for second in range(limits.shape[1]):
            limits[lane, second] = np.int64(
                np.floor(np.float64(seen[lane, starts[LIMIT] + second]) * card)
            )
        for second in range(recent.shape[1]):
            recent[lane, second] = np.int64(
                np.floor(np.float64(seen[lane, starts[RECENT] + second]) * card)
            )
        for block in range(loaded.shape[1]):
            loaded[lane, block] = seen[lane, starts[LOADED] + block] > 0.5


class Reader:
    """Reads observations of one layout."""

    def __init__(self, where: Layout) -> None:
        parts = [where.slice_of(name) for name in NAMES]
        self._starts = np.array([part.start for part in parts], dtype=np.int64)
        self._sizes = [part.stop - part.start for part in parts[LIMIT:]]
        self._units = np.array([BATCH_UNIT, where.token_unit, where.card_bytes], dtype=np.float64)

    def read(self, observation: FloatArray) -> Reading:
        """float32 [B, O], or [O] as one lane."""
        seen = np.array(observation, dtype=np.float32, order="C", ndmin=2)
        lanes, (ahead, past, blocks) = len(seen), self._sizes
        asked = np.empty((4, lanes), dtype=np.int64)
        limits, recent = np.empty((lanes, ahead), np.int64), np.empty((lanes, past), np.int64)
        loaded = np.empty((lanes, blocks), dtype=bool)
        _read(self._starts, self._units, seen, asked, limits, recent, loaded)
        return Reading(
            asked[0], asked[1], asked[2], asked[3], limits[:, 0], limits[:, 1:], recent, loaded
        )


_last: list[tuple[Layout, Reader]] = []


def reader_of(where: Layout) -> Reader:
    """The reader of a layout, by object: the one of late, or a new one."""
    if not _last or _last[0][0] is not where:
        _last[:] = [(where, Reader(where))]
    return _last[0][1]
