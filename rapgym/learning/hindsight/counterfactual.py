"""What every kept set costs in every recorded future: arrivals and memory do not depend on what we do.

A set that meets a falling limit loses its blocks in the shield's order, so what it costs follows from
how many have gone: one search in 33 numbers instead of a step of the simulator. Left out, as in the
forecasting controller: what the shield gives back where the last block to go freed more than was
missing. Stalls are kept apart, for they alone depend on what is loaded.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import BoolArray, FloatArray, IntArray, freeze
from rapgym.errors import InvalidPolicy
from rapgym.model.memory import Footprint
from rapgym.world import encoding, stall
from rapgym.world.encoding import HISTORY, Layout, Visible
from rapgym.world.records import World
from rapgym.world.reward import token_loss


@dataclass(frozen=True, slots=True)
class Remains:
    """What is left of K sets as the blocks of the order go one by one, [K, J]; J is one more."""

    kept: BoolArray  # [K, J, N]; the first of J is the whole set
    attention: IntArray  # blocks kept
    ffn: IntArray
    loss: FloatArray  # of a served token

    def __post_init__(self) -> None:
        freeze(self)

    @classmethod
    def of(cls, world: World, sets: BoolArray) -> Self:
        """Of sets bool [K, N], by the quality columns of the world."""
        order = world.quality.order
        kept = np.repeat(sets[:, None], len(order) + 1, axis=1)
        for gone, block in enumerate(order, start=1):
            kept[:, gone:, block] = False
        attention, ffn = kept[..., 0::2].sum(axis=-1), kept[..., 1::2].sum(axis=-1)
        return cls(kept, attention, ffn, token_loss(world.quality.nll(kept)[0], world.ceiling))

    def used_bytes(self, footprint: Footprint, tokens: int, prompt_tokens: int) -> IntArray:
        """Bytes of each for one demand, margin included, [K, J]."""
        asked = np.array(tokens), np.array(prompt_tokens)
        used = footprint.counted_bytes(self.attention, self.ffn, *asked)
        return used + footprint.margin_bytes

    def returning(self, footprint: Footprint, sets: BoolArray) -> IntArray:
        """Bytes that come back where each remainder is followed by each of M sets, [K, J, M].

        Args:
            sets: bool [M, N].
        """
        every = np.broadcast_to(sets, (len(self.kept), *sets.shape))
        return stall.returning_between(footprint, self.kept, every)


def costs(
    used: IntArray, loss: FloatArray, limits: IntArray, ceiling: float, *, pause_s: float
) -> tuple[FloatArray, NDArray[np.uint8]]:
    """Cost of each set in each future, stalls apart.

    Args:
        used, loss: of each set and its remainders, [K, J].
        limits: in each second ahead, [L, S]; the sets are whole before the first.
        ceiling: C, nats: what a second that is not served costs.
        pause_s: how much of a second is lost in which blocks have to go (`stall.pause_s`).

    Returns:
        Nats a token summed over the S seconds, float64 [L, K], and how many places of the order
        have been passed at the end, [L, K]: J where the rest of the row was refused.
    """
    lowest = np.minimum.accumulate(limits, axis=1)
    seconds = limits.shape[1]
    found = np.tile(loss[:, 0] * seconds, (len(limits), 1))
    gone = np.zeros(found.shape, dtype=np.uint8)  # J is below 256
    if not seconds:
        return found, gone
    for k, (takes, left) in enumerate(zip(used, loss, strict=True)):
        falls = np.flatnonzero(lowest[:, -1] < takes[0])
        passed = np.searchsorted(-takes, -lowest[falls].ravel(), side="left")
        passed = passed.reshape(len(falls), seconds)
        cost = np.append(left, ceiling)[passed]
        before = np.pad(passed[:, :-1], ((0, 0), (1, 0)))
        cost += pause_s * (passed > before) * (ceiling - cost)
        found[falls, k] = cost.sum(axis=1)
        gone[falls, k] = passed[:, -1]
    return found, gone


SIDES = (-1, 0, 1)  # the row before, the row itself, the row after


@dataclass(frozen=True, slots=True)
class Recorded:
    """L seconds of a split's limit crossed with D demands, and what K sets cost in each of the pairs.

    Any second can begin a row and any demand can meet it, with the rows before and after likewise
    moved: many more rows than were served, of the same two records.
    """

    world: World
    layout: Layout
    remains: Remains
    missing: (
        FloatArray  # share of a row in which set m comes back after (k, j), float32 [K, J + 1, K]
    )
    second: IntArray  # of the split, the last whose limit is known when the row is decided, [L]
    row: IntArray  # whose demand is served, [D]
    token_scale: FloatArray  # [D]
    used: IntArray  # bytes of each set and its remainders in the three rows, [3, D, K, J]
    cost: FloatArray  # of the row, nats an output token, stalls apart, float32 [D, L, K]
    passed: NDArray[np.uint8]  # as `costs` has it, [D, L, K]
    weight: FloatArray  # expected output tokens, over their mean, [D]
    weight_after: FloatArray  # of the row after, likewise, [D]

    @classmethod
    def of(
        cls,
        world: World,
        layout: Layout,
        sets: BoolArray,
        *,
        seconds: int,
        demands: int,
        scales: tuple[float, float],
        rng: np.random.Generator,
    ) -> Self:
        """Draw at most so many seconds and demands of a world's rows.

        Args:
            sets: those that may be kept, bool [K, N].
            scales: of the demand's tokens, drawn uniformly.

        Raises:
            InvalidPolicy: there are too few rows.
        """
        window_s, limit = world.window_s, world.rows.limit_bytes.ravel()
        known_s = known_seconds(world)
        first = (HISTORY + 1) * window_s + known_s  # the row before has its history too
        second = np.arange(first, len(limit) - window_s)
        row = np.flatnonzero(world.rows.batch[1:-1] > 0) + 1
        if not len(second) or not len(row):
            raise InvalidPolicy("too few rows to learn from: a row, its history and its successor")
        second = np.sort(rng.permutation(second)[:seconds])
        row = rng.permutation(row)[:demands]
        scale = rng.uniform(*scales, len(row))
        remains = Remains.of(world, sets)
        back = remains.returning(world.footprint, sets) / stall.row_bytes(world)
        back = np.minimum(np.concatenate([back, back[:, -1:]], axis=1), 1.0).astype(np.float32)
        used = []
        for side in SIDES:
            demand = world.demand_of(row + side, scale)
            pairs = zip(demand.tokens.tolist(), demand.prompt_tokens.tolist(), strict=True)
            used.append(np.stack([remains.used_bytes(world.footprint, *each) for each in pairs]))
        ahead = limit[second[:, None] + np.arange(1, 1 + window_s - known_s)]
        cost = np.empty((len(row), len(second), len(sets)), dtype=np.float32)
        passed = np.empty(cost.shape, dtype=np.uint8)
        for d, takes in enumerate(used[1]):
            later, passed[d] = costs(
                takes, remains.loss, ahead, world.ceiling, pause_s=stall.pause_s(world)
            )
            cost[d] = (known_s * remains.loss[:, 0] + later) / window_s
        output = expected_output(world)
        return cls(world, layout, remains, back, second, row, scale, np.stack(used), cost, passed,
                   output[row], output[row + 1])  # fmt: skip

    def observe(self, side: int, d: IntArray, at: IntArray, loaded: BoolArray) -> FloatArray:
        """What a policy sees before one of the three rows of each pair, float32 [B, O].

        Args:
            side: one of `SIDES`; d, at: indices of demands and seconds, [B]; loaded: [B, N].
        """
        world, window_s = self.world, self.world.window_s
        limit = world.rows.limit_bytes.ravel()
        now = self.second[at] + side * window_s - (known_seconds(world) - 1)
        past = limit[now[:, None] + np.arange(-HISTORY * window_s, 0)]
        row, scale = self.row[d] + side, self.token_scale[d]
        before = np.maximum(row[:, None] + np.arange(-HISTORY, 0), 0)
        seen = Visible(
            world.demand_of(row, scale),
            limit[np.minimum(now[:, None] + np.arange(1 + world.notice_s), len(limit) - 1)],
            past.reshape(len(d), HISTORY, window_s),
            world.demand_of(before, scale[:, None]),
            loaded,
        )
        return encoding.observe(world, self.layout, seen)

    def passed_before(self, d: IntArray, at: IntArray, chosen: IntArray) -> IntArray:
        """As `passed`, of the row before, where it kept set `chosen`: [B] each."""
        limit, window_s = self.world.rows.limit_bytes.ravel(), self.world.window_s
        known_s = known_seconds(self.world)
        begin = self.second[at] - window_s
        ahead = limit[begin[:, None] + np.arange(1, 1 + window_s - known_s)]
        lowest = ahead.min(axis=1, initial=np.iinfo(np.int64).max)
        found: IntArray = (self.used[0, d, chosen] > lowest[:, None]).sum(axis=1)
        return found

    def falls(self) -> IntArray:
        """By how much the limit falls within a row after each second, bytes, [L]."""
        limit, known_s = self.world.rows.limit_bytes.ravel(), known_seconds(self.world)
        row = limit[self.second[:, None] + np.arange(1 + self.world.window_s - known_s)]
        found: IntArray = row[:, 0] - row.min(axis=1)
        return found

    def left(self, chosen: IntArray, passed: IntArray) -> BoolArray:
        """What is loaded after a row, bool [B, N]."""
        last = self.remains.kept.shape[1] - 1
        return self.remains.kept[chosen, np.minimum(passed, last)]


def known_seconds(world: World) -> int:
    """Seconds of a row whose limit is known when it is decided."""
    return min(1 + world.notice_s, world.window_s)


def expected_output(world: World) -> FloatArray:
    """Output tokens that a row's requests let expect, over their mean: a line fitted to the rows, [T]."""
    batch, output = world.rows.batch.astype(np.float64), world.rows.output_tokens
    centred, mean = batch - batch.mean(), output.mean()
    slope = (centred * output).sum() / max((centred**2).sum(), 1e-9)
    found: FloatArray = np.maximum(mean + slope * centred, 0.0) / max(mean, 1e-9)
    return found
