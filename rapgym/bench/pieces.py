"""Into what independent pieces the rows of a split fall: what a resample draws.

A piece is a stretch of neighbouring rows, and pieces tile the rows. Which stretch, follows from how
long the split is:

- *day*: where it has six days or more.
- *hour*: where it has six hours or more, but fewer days.
- *burst*: of less than that, the rows between two in which the full model fits throughout. A burst
  begins with a row in which it does not fit in every second, after one in which it does; the fitting
  rows behind it, up to the next burst, belong to it. So do, of the first, the rows before it.

The clock on the wall cuts: where pairings turn the tenant's rows against the served ones, both times
are cut at the same rows, those of the pairing as it was recorded. Cut apart, each where the model
would fit at the other's median, the tenant of half of the shipped scenarios would be one piece.
"""

from dataclasses import dataclass

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.bench.records import Unit
from rapgym.model.memory import Footprint
from rapgym.scenarios import worlds
from rapgym.scenarios.story import Scenario, Split
from rapgym.workload import series
from rapgym.world.records import World

SECONDS: dict[Unit, int] = {"day": 86400, "hour": 3600}
LEAST_PIECES = 6  # with fewer, nothing is claimed: no p-value


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """The pieces of T rows."""

    unit: Unit
    first: IntArray  # first row of each piece, ascending from 0, [P]
    rows: int  # T

    def __len__(self) -> int:
        return len(self.first)

    @property
    def of_row(self) -> IntArray:
        """Which piece each row is of, [T]."""
        return np.repeat(np.arange(len(self)), np.diff(np.append(self.first, self.rows)))

    @property
    def effective(self) -> float:
        """How many pieces of one length would say as much: (sum of lengths)^2 / sum of squares."""
        lengths = np.diff(np.append(self.first, self.rows)).astype(np.float64)
        return float(lengths.sum() ** 2 / (lengths**2).sum())

    def sums(self, values: FloatArray) -> FloatArray:
        """Sum over the rows of each piece: [T, ...] -> [P, ...]."""
        found: FloatArray = np.add.reduceat(values, self.first, axis=0)
        return found


def pieces(fits: BoolArray, window_s: int, begins: BoolArray | None = None) -> Pieces:
    """The pieces of a split.

    Args:
        fits: whether the full model fits in every second of a row, in the pairing as it was recorded,
            bool [T].
        window_s: seconds of a row.
        begins: rows that do not follow the one before, as at the seams of a blocked split, where a
            piece begins whatever happens, bool [T].
    """
    rows = len(fits)
    for unit, seconds in SECONDS.items():
        length = seconds // window_s
        # What is left over at the end is no piece of its own: the last is longer.
        if (count := rows // length) >= LEAST_PIECES:
            return Pieces(unit, _and_seams(np.arange(count) * length, begins), rows)
    return Pieces("burst", _and_seams(_bursts(fits), begins), rows)


def _bursts(fits: BoolArray) -> IntArray:
    begins = np.flatnonzero(~fits & np.append(True, fits[:-1]))
    return np.append(0, begins[1:])


def _and_seams(first: IntArray, begins: BoolArray | None) -> IntArray:
    return first if begins is None else np.union1d(first, np.flatnonzero(begins))


def fitting_seconds(world: World, kept: BoolArray, footprint: Footprint | None = None) -> BoolArray:
    """Whether a kept set fits in each second, [T, W]; the tenant's rows as they were recorded.

    Args:
        footprint: bytes in another format than the world's own.
    """
    rows, footprint = world.rows, footprint or world.footprint
    tokens = rows.prompt_tokens + rows.reserved_tokens
    used = footprint.used_bytes(kept, tokens, rows.prompt_tokens) + footprint.margin_bytes
    fits: BoolArray = used[:, None] <= rows.limit_bytes
    return fits


def fitting_rows(world: World, kept: BoolArray) -> BoolArray:
    """Whether a kept set fits in every second of a row, [T]."""
    fits: BoolArray = np.all(fitting_seconds(world, kept), axis=1)
    return fits


def of_split(story: Scenario, split: Split = "test") -> Pieces:
    """The pieces of a scenario's split; in a blocked one none crosses a seam."""
    world = worlds.world(story, split)
    fits = fitting_rows(world, np.ones(world.blocks, dtype=bool))
    if story.splits == "time":
        return pieces(fits, story.window_s)
    rows = series.split_rows(len(worlds.workload(story)), split, story.splits)
    return pieces(fits, story.window_s, np.diff(rows, prepend=rows[0] - 1) > 1)
