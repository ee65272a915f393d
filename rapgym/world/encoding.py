"""What a policy may see, as float32 vectors with named parts, and how actions become proposals.

Nothing of the future is here: of the row to be decided its demand and its limit so far, and what
the rows before it were like.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.world.records import Demand, State, World

HISTORY = 8  # rows before this one that are seen
BATCH_UNIT = 64  # requests
_BACK = np.arange(HISTORY, 0, -1)
LARGEST = 64.0  # features are cut at plus and minus this; no scenario comes near
SCHEMA = 2  # moves with anything below that changes what an entry means


@dataclass(frozen=True, slots=True)
class Part:
    """Some neighbouring entries of an observation that mean the same thing."""

    name: str
    size: int
    low: float  # no entry is below
    high: float  # nor above
    meaning: str


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything stands in an observation, and the units to read it back."""

    parts: tuple[Part, ...]
    card_bytes: int  # unit of memory: the whole card
    token_unit: int  # unit of tokens: dense KV cache of that many tokens fills `card_bytes`
    blocks: int  # N
    window_s: int  # W
    notice_s: int

    @property
    def size(self) -> int:
        """O, the length of an observation."""
        return sum(part.size for part in self.parts)

    @property
    def low(self) -> FloatArray:
        """The least that each entry can be, float32 [O]."""
        return np.concatenate([np.full(p.size, p.low, np.float32) for p in self.parts])

    @property
    def high(self) -> FloatArray:
        """The most that each entry can be, float32 [O]."""
        return np.concatenate([np.full(p.size, p.high, np.float32) for p in self.parts])

    def slice_of(self, name: str) -> slice:
        """Where the part of this name stands.

        Raises:
            KeyError: there is no such part.
        """
        start = 0
        for part in self.parts:
            if part.name == name:
                return slice(start, start + part.size)
            start += part.size
        raise KeyError(name)


def layout(world: World, *, card_bytes: int, small_steps: bool = False) -> Layout:
    """The layout of a world's observations; `small_steps` adds what RAP-v0 needs."""
    n, w = world.blocks, world.window_s
    history = HISTORY * w
    parts = [
        Part("batch", 1, 0, LARGEST, f"requests of this row, in units of {BATCH_UNIT}"),
        Part("prompt_tokens", 1, 0, LARGEST, "prompt tokens of this row, summed, in token units"),
        Part("reserved_tokens", 1, 0, LARGEST, "output tokens reserved for this row, summed, in token units"),
        Part("longest_tokens", 1, 0, LARGEST, "prompt and reserve of the longest request, in token units"),
        Part("kv_share", 1, 0, 1, "share of the KV cache in what dense would use for this row"),
        Part("limit", 1 + world.notice_s, -LARGEST, LARGEST, "limit in the first second of this row, and in those that "
             "the tenant has announced, in card units, rounded down"),
        Part("recent_limit", history, -LARGEST, LARGEST, f"limit in each second of the last {HISTORY} rows, oldest "
             "first, in card units; rows before the episode repeat the limit now"),
        Part("recent_demand", 3 * HISTORY, 0, LARGEST, f"batch, prompt and reserved tokens of the last {HISTORY} "
             "rows, oldest first, in the units above; rows before the episode repeat this row"),
        Part("loaded", n, 0, 1, "which blocks are in memory"),
        Part("headroom_dense", 1, -LARGEST, LARGEST, "limit less what dense would use for this row, in card units"),
        Part("headroom_loaded", 1, -LARGEST, LARGEST, "limit less what the blocks in memory would use, in card units"),
    ]  # fmt: skip
    if small_steps:
        parts += [
            Part("so_far", n, 0, 1, "which blocks this row still keeps"),
            Part("headroom_so_far", 1, -LARGEST, LARGEST, "limit less what those would use, in card units"),
            Part("importance", n, 0, 1, "greedy importance: nats that it would cost if the block went "
                 "next, by a form fitted to the table, over C; 1 for a block of the floor, 0 for one that "
                 "is gone"),
        ]  # fmt: skip
    per_token = world.footprint.model_kv_token_bytes
    return Layout(tuple(parts), card_bytes, max(1, card_bytes // per_token), n, w, world.notice_s)


@dataclass(frozen=True, slots=True)
class Visible:
    """What a policy may know when it decides a row, in B lanes, before any scaling."""

    demand: Demand
    limit_bytes: IntArray  # now and in announced seconds, [B, 1 + notice]
    recent_limit_bytes: IntArray  # [B, HISTORY, W]
    recent_demand: Demand  # each [B, HISTORY], oldest first
    loaded: BoolArray  # [B, N]


def visible(world: World, state: State, age: IntArray) -> Visible:
    """Gather what may be seen.

    Args:
        age: rows that each lane has served in this episode, [B].
    """
    rows = len(world.rows)
    limit = world.limits(state)
    ahead = range(1 + world.notice_s // world.window_s)  # rows into which announcements reach
    announced = [world.rows.limit_bytes[(state.limit_row + row) % rows] for row in ahead]
    seen = np.concatenate(announced, axis=1)[:, : 1 + world.notice_s]
    # Rows before the episode repeat this one.
    back = np.where(age[:, None] >= _BACK, _BACK, 0)
    recent = world.rows.limit_bytes[(state.limit_row[:, None] - back) % rows]
    recent = np.where((back > 0)[:, :, None], recent, limit[:, None, :1])
    past = world.demand_of((state.row[:, None] - back) % rows, state.token_scale[:, None])
    return Visible(world.demand(state), seen, recent, past, state.loaded)


def rounded_down(values: FloatArray) -> FloatArray:
    """float64 -> the largest float32 that is not above, so that no limit is seen too large."""
    near = values.astype(np.float32)
    return np.where(near > values, np.nextafter(near, np.float32(-np.inf)), near)


def observe(
    world: World,
    where: Layout,
    seen: Visible,
    so_far: BoolArray | None = None,
    importance: FloatArray | None = None,
) -> FloatArray:
    """The observation of each lane, float32 [B, O].

    Args:
        so_far: what this row still keeps, bool [B, N], for a layout with small steps.
        importance: what each block would cost if it went next, float [B, N], likewise, over C.
    """
    of_row = observe_row(world, where, seen)
    if so_far is None:
        return of_row
    assert importance is not None
    limit_bytes = seen.limit_bytes[:, 0]
    return with_steps(world, where, seen.demand, limit_bytes, of_row, so_far, importance)


def with_steps(
    world: World,
    where: Layout,
    asked: Demand,
    limit_bytes: IntArray,
    of_row: FloatArray,
    so_far: BoolArray,
    importance: FloatArray,
) -> FloatArray:
    """What `observe_row` gave, and after it the parts that change with a row's small steps.

    Args:
        limit_bytes: in the row's first second, [B].
    """
    steps = [
        so_far,
        _left(world, where, asked, limit_bytes, so_far),
        importance,
    ]
    return np.concatenate([of_row, _encoded(steps)], axis=1)


def _encoded(columns: Sequence[NDArray[Any]]) -> FloatArray:
    return np.clip(np.concatenate(columns, axis=1), -LARGEST, LARGEST).astype(np.float32)


def _headroom(world: World, where: Layout, seen: Visible, kept: BoolArray) -> FloatArray:
    """Limit less what a kept set would use, in card units: [B, 1]."""
    return _left(world, where, seen.demand, seen.limit_bytes[:, 0], kept)


def _left(
    world: World, where: Layout, asked: Demand, limit_bytes: IntArray, kept: BoolArray
) -> FloatArray:
    foot = world.footprint
    used = foot.used_bytes(kept, asked.tokens, asked.prompt_tokens)
    return ((limit_bytes - used - foot.margin_bytes) / where.card_bytes)[:, None]


def observe_row(world: World, where: Layout, seen: Visible) -> FloatArray:
    """All parts that stay until the row is served, float32 [B, ...]."""
    asked, card, unit = seen.demand, where.card_bytes, where.token_unit
    lanes = len(asked.batch)
    dense = np.ones(where.blocks, dtype=bool)
    kv_bytes = world.footprint.layers * world.footprint.kv_bytes(asked.tokens)
    used_dense = world.footprint.used_bytes(dense, asked.tokens, asked.prompt_tokens)
    past = seen.recent_demand
    history = np.stack(
        [past.batch / BATCH_UNIT, past.prompt_tokens / unit, past.reserved_tokens / unit], axis=2
    )
    columns = [
        (asked.batch / BATCH_UNIT)[:, None],
        (asked.prompt_tokens / unit)[:, None],
        (asked.reserved_tokens / unit)[:, None],
        (asked.longest_tokens / unit)[:, None],
        (kv_bytes / used_dense)[:, None],
        rounded_down(seen.limit_bytes / card),
        rounded_down(seen.recent_limit_bytes.reshape(lanes, -1) / card),
        history.reshape(lanes, -1),
        seen.loaded,
        _headroom(world, where, seen, dense),
        _headroom(world, where, seen, seen.loaded),
    ]
    return _encoded(columns)


@dataclass(frozen=True, slots=True)
class Reading:
    """An observation read back into tokens and bytes: exact but for limits, rounded down."""

    batch: IntArray  # [B]
    prompt_tokens: IntArray  # [B]
    reserved_tokens: IntArray  # [B]
    longest_tokens: IntArray  # [B]
    limit_bytes: IntArray  # [B]
    announced_limit_bytes: IntArray  # [B, notice]
    recent_limit_bytes: IntArray  # oldest first, [B, HISTORY * W]
    loaded: BoolArray  # [B, N]

    @property
    def tokens(self) -> IntArray:
        """KV cache entries that a kept attention block would hold, [B]."""
        return self.prompt_tokens + self.reserved_tokens


def read(where: Layout, observation: FloatArray) -> Reading:
    """Read float32 [B, O] (or [O], as one lane)."""
    observation = np.atleast_2d(observation).astype(np.float64)

    def part(name: str) -> FloatArray:
        return observation[:, where.slice_of(name)]

    def tokens(name: str) -> IntArray:
        return np.rint(part(name)[:, 0] * where.token_unit).astype(np.int64)

    limits = np.floor(part("limit") * where.card_bytes).astype(np.int64)
    recent = np.floor(part("recent_limit") * where.card_bytes).astype(np.int64)
    return Reading(
        batch=np.rint(part("batch")[:, 0] * BATCH_UNIT).astype(np.int64),
        prompt_tokens=tokens("prompt_tokens"),
        reserved_tokens=tokens("reserved_tokens"),
        longest_tokens=tokens("longest_tokens"),
        limit_bytes=limits[:, 0],
        announced_limit_bytes=limits[:, 1:],
        recent_limit_bytes=recent,
        loaded=part("loaded") > 0.5,
    )
