"""What a small network sees of the limit's past and of demand, read fast from an observation."""

from collections.abc import Callable

import numpy as np

from rapgym.arrays import FloatArray, IntArray
from rapgym.world.encoding import HISTORY, Layout

RECENT_S = 16  # seconds before the last known one that are seen one by one
DEMAND = ("kv_share", "prompt_tokens", "reserved_tokens", "headroom_dense")


class Inputs:
    """From observations to features, in units of the card or of tokens that fill it.

    Entries are found by name, and the number of features does not depend on the length of a row.
    First what features are linear in, [V]: announced limits and recent ones less the limit now, the
    lowest and the highest of each row before likewise, demand, and the limit now. Differences come
    first so that nothing cancels in float32. Now is the last second whose limit is known.
    """

    def __init__(self, where: Layout) -> None:
        limit, past = where.slice_of("limit"), where.slice_of("recent_limit")
        assert limit.stop == past.start, "limits stand side by side"
        self._now, self._seconds = limit.stop - 1, slice(limit.start, past.stop)
        self._rows = slice(past.start - limit.start, past.stop - limit.start)
        self._shape = (-1, HISTORY, where.window_s)
        self._rest = np.array([*(where.slice_of(name).start for name in DEMAND), self._now])
        first, window_s = self._rows.start, where.window_s
        extremes = self._rows.stop
        rest = extremes + 2 * HISTORY
        self.size = rest + len(self._rest)  # V
        rows: list[tuple[str, dict[int, float]]] = [("level", {self.size - 1: 1.0})]
        # Of the seconds before, the last first: past ones, and what was announced before the last.
        seconds = [*range(first, self._rows.stop), *range(first - 1)]
        back = (max(-1 - back, -len(seconds)) for back in range(RECENT_S))
        rows += [("recent", {seconds[i]: 1.0}) for i in back]
        for start in range(first, self._rows.stop, window_s):
            mean = dict.fromkeys(range(start, start + window_s), 1.0 / window_s)
            rows.append(("history", mean))
        rows += [("history", {extremes + i: 1.0}) for i in range(2 * HISTORY)]
        rows += [("demand", {rest + i: 1.0}) for i in range(len(DEMAND))]
        self.group = np.array([group for group, _ in rows])  # of each feature, [F]
        self.linear = np.zeros((len(rows), self.size), dtype=np.float32)  # [F, V]
        for row, (_, entries) in zip(self.linear, rows, strict=True):
            row[[*entries]] = [*entries.values()]

    def raw(self, observation: FloatArray) -> FloatArray:
        """float32 [B, O] -> float32 [B, V]."""
        differences = observation[:, self._seconds] - observation[:, [self._now]]
        rows = differences[:, self._rows].reshape(self._shape)
        ends = (rows.min(axis=2), rows.max(axis=2))
        return np.concatenate([differences, *ends, observation[:, self._rest]], axis=1)

    def __call__(self, observation: FloatArray) -> FloatArray:
        """float32 [B, O] -> [B, F]."""
        found: FloatArray = self.raw(observation) @ self.linear.T
        return found

    @property
    def places(self) -> tuple[int, int, int, IntArray]:
        """For compiled code: the first second, now, the first of recent rows, and the other entries."""
        return self._seconds.start, self._now, self._seconds.start + self._rows.start, self._rest

    def reader(self) -> Callable[[FloatArray], FloatArray]:
        """`raw` of one observation [O], fast: it fills and returns the same array each time."""
        raw = np.empty(self.size, dtype=np.float32)
        differences, rows = raw[: self._rows.stop], raw[self._rows].reshape(self._shape[1:])
        lowest = raw[self._rows.stop :][:HISTORY]
        highest = raw[self._rows.stop + HISTORY :][:HISTORY]
        rest, seconds, now, where = raw[-len(self._rest) :], self._seconds, self._now, self._rest
        least, most = np.minimum.reduce, np.maximum.reduce

        def read(seen: FloatArray) -> FloatArray:
            np.subtract(seen[seconds], seen[now], out=differences)
            least(rows, axis=1, out=lowest)
            most(rows, axis=1, out=highest)
            seen.take(where, out=rest, mode="clip")
            return raw

        return read
