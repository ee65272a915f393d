"""Lanes of an environment that take their steps in one compiled pass each: see `stride_kernel`.

The arrays here are where the lanes stand; `state` says it as a `State`. Importing this loads numba.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.files.compiled import entry_of
from rapgym.quality import opened
from rapgym.quality.columns import QualityColumns
from rapgym.world import lookup, stride_kernel
from rapgym.world.encoding import HISTORY, Layout
from rapgym.world.once import once_a_world, once_for_columns
from rapgym.world.records import State, World
from rapgym.world.stride_kernel import Answers, Lanes, Said, Small, Tables
from rapgym.world.twin import fixed, sight_of, twin_of

MEMO_SETS = 1 << 15  # predictions remembered at once
ENDLESS = np.iinfo(np.int64).max  # steps of an episode that only its rows end


class Strode(NamedTuple):
    """What one step did in B lanes: all arrays the caller's own."""

    said: Said
    mask: NDArray[np.int8] | None  # legal actions, [B, N + 1], where rows take several small steps

    @property
    def sets(self) -> BoolArray:
        """Those of `said`, [B, 3, N]."""
        return self.said.sets.view(bool)

    @property
    def served(self) -> BoolArray:
        """Lanes whose row is finished, [B]."""
        return self.said.served

    @property
    def over(self) -> BoolArray:
        """Lanes whose episode is, [B]."""
        return self.said.over

    @property
    def reward(self) -> FloatArray:
        """float64 [B]; 0 where no row was served."""
        return self.said.reward


class Stride:
    """B lanes of one world, whose actions are of one kind."""

    def __init__(
        self, world: World, where: Layout, kind: str, playing: BoolArray, most_steps: int | None
    ) -> None:
        """Make room for as many lanes as `playing` has; `stand` says where they are.

        Args:
            kind: of actions; see `rapgym.envs.actions`.
            playing: lanes in whose episode something is left to do, [B]; kept up to date in place.
            most_steps: after which an episode is cut; rows alone end it unless stated.
        """
        count, blocks = len(playing), world.blocks
        self.world, self.where, self.kind, self.count = world, where, kind, count
        self.small_steps, self.size = kind == "blocks", where.size
        self._twin, stays = twin_of(world), where.slice_of("headroom_loaded").stop
        self.lanes = Lanes(
            whole=np.zeros((count, stride_kernel.WHOLE), dtype=np.int64),
            scale=np.ones(count),
            keys=np.zeros((count, 2), dtype=np.uint64),
            recent=np.zeros((count, 3 * HISTORY + 3), dtype=np.float32),
            stays=np.zeros((count, stays if self.small_steps else 0), dtype=np.float32),
            stale=np.ones(count, dtype=bool),
            playing=playing,
        )
        self._entries = dict[str, Any]()  # see `_call`
        self._nobody, self._no_actions = np.zeros(count, dtype=bool), np.zeros(count, np.uint64)
        self._type = np.dtype(np.int8 if kind == "kept-set" else np.int64)  # of actions
        of_lane = {"blocks": (), "counts": (2,), "kept-set": (blocks,)}[kind]
        self._shape = (count, *of_lane)
        self._grid = words_of(world.quality.grid_kept)
        self._small = small_of(world, count if self.small_steps else 0)
        answers, most = answers_of(world.quality), ENDLESS if most_steps is None else most_steps
        self._full = answers.words[stride_kernel.FULL]
        # What `advance` is given in every step, in its order.
        self._always = (
            self._twin.facts, sight_of(world, where), tables_of(world), answers, self._small, self.lanes,
            most, np.zeros(blocks, dtype=np.int64),
        )  # fmt: skip

    @property
    def age(self) -> IntArray:
        """Rows that each lane has served in this episode, [B]; who writes here moves the lanes."""
        return self.lanes.whole[:, stride_kernel.AGE]

    @property
    def episode_rows(self) -> IntArray:
        """After which each lane's episode ends, [B]; likewise."""
        return self.lanes.whole[:, stride_kernel.LENGTH]

    @property
    def steps(self) -> IntArray:
        """Of each lane's episode, [B]; likewise."""
        return self.lanes.whole[:, stride_kernel.STEPS]

    @property
    def so_far(self) -> BoolArray:
        """What each lane's row still keeps, [B, N]; to read."""
        return self._small.so_far.view(bool)

    def state(self) -> State:
        """Where the lanes stand, in arrays of its own."""
        whole, keys = self.lanes.whole, self.lanes.keys[:, stride_kernel.LOADED]
        loaded = lookup.kept_of(keys[:, None], self.world.blocks)
        return State(
            whole[:, stride_kernel.ROW].copy(), whole[:, stride_kernel.LIMIT_ROW].copy(),
            self.lanes.scale.copy(), loaded,
        )  # fmt: skip

    def stand(self, state: State, so_far: BoolArray | None) -> None:
        """Stand the lanes there, at their `age`; what their rows keep so far, [B, N], with small steps."""
        lanes, foot = self.lanes, self.world.footprint
        whole, keys = lanes.whole, lanes.keys
        seen, asked = self._twin.seen(self.where, state, self.age)
        whole[:, stride_kernel.ROW], whole[:, stride_kernel.LIMIT_ROW] = (
            state.row,
            state.limit_row,
        )
        lanes.scale[:], keys[:, stride_kernel.LOADED] = state.token_scale, words_of(state.loaded)
        whole[:, stride_kernel.PROMPT : stride_kernel.LONGEST + 1] = asked[1:].T
        whole[:, stride_kernel.COST] = foot.block_bytes(asked[1] + asked[2])[:, 0]
        whole[:, stride_kernel.OVERHEAD] = foot.overhead_bytes(asked[1])
        lanes.recent[:, :-3] = seen[:, self.where.slice_of("recent_demand")]
        lanes.recent[:, -3:] = seen[:, :3]
        if self.small_steps:
            assert so_far is not None
            lanes.stays[:], lanes.stale[:] = seen, False
            keys[:, stride_kernel.SO_FAR], self._small.so_far[:] = words_of(so_far), so_far
            gone = (~so_far).astype(np.float64)
            self._small.rises[:] = self._small.block + gone @ self._small.pair

    def begin(
        self, lanes: IntArray, row: IntArray, limit_row: IntArray, scale: FloatArray, rows: IntArray
    ) -> None:
        """Begin an episode of so many `rows` in each of some lanes, every block in memory: [n] each."""
        self._call("begin", self.lanes, lanes, row, limit_row, scale, rows, self._full)

    def read(self, actions: Any, *, checked: bool = False) -> Any:
        """What `act` takes of the actions of all lanes, uint64 [B].

        Args:
            checked: they are legal, in another type perhaps.

        Returns:
            None where they are not legal, or not as a space samples them.
        """
        if checked:
            actions = actions.astype(self._type)
        if not isinstance(actions, np.ndarray):
            return None
        if actions.dtype != self._type or actions.shape != self._shape:
            return None
        if not actions.flags.carray:
            actions = actions.copy()
        if self.kind == "blocks":
            plain = actions.view(np.uint64)  # what is negative is large
            return plain if plain.max() <= self.world.blocks else None
        proposal = np.empty(self.count, dtype=np.uint64)
        if self.kind == "kept-set":
            whole = self._call("of_bits", actions, proposal)
        else:
            whole = self._call("of_counts", actions, self._grid, proposal)
        return proposal if whole else None

    def act(self, actions: NDArray[Any], acting: BoolArray) -> Strode:
        """Take a step in these lanes, bool [B]; the others have only just begun.

        Args:
            actions: of all lanes, as `read` gives them.
        """
        count, blocks = self.count, self.world.blocks
        said = Said(
            np.empty((count, self.size), np.float32), np.empty((count, 7), np.int64),
            np.empty((count, 8)), np.empty((count, 3, blocks), np.uint8),
            np.empty((count, 1, blocks + 1) if self.small_steps else (0, 0, 0), np.uint8),
            np.empty(count, bool), np.empty(count, bool), np.empty(count, bool), np.empty(count),
        )  # fmt: skip
        if not acting.flags.carray:
            acting = acting.copy()
        self._call("advance", *self._always, said, actions, acting)
        return Strode(said, said.mask[:, 0].view(np.int8) if self.small_steps else None)

    def look(self) -> Strode:
        """See what is so in every lane, and move none."""
        return self.act(self._no_actions, self._nobody)

    def advancing(
        self, said: Said, actions: NDArray[np.uint64], acting: BoolArray
    ) -> Callable[..., None]:
        """What does as `act` with such actions and such lanes, and writes to these arrays each time what it did."""
        given = *self._always, said
        return partial(entry_of(stride_kernel.advance, *given, actions, acting), *given)

    def _call(self, name: str, *given: Any) -> Any:
        """Call a function of the kernel, always with arrays of the same types."""
        entry = self._entries.get(name)
        if entry is None:
            entry = self._entries[name] = entry_of(getattr(stride_kernel, name), *given)
        return entry(*given)


def words_of(kept: BoolArray) -> NDArray[np.uint64]:
    """Sets as words, block 0 the lowest bit: bool [..., N] -> uint64 [...], N <= 64."""
    bits = np.uint64(1) << np.arange(kept.shape[-1], dtype=np.uint64)
    return np.where(kept, bits, np.uint64(0)).sum(axis=-1, dtype=np.uint64)


def small_of(world: World, count: int) -> Small:
    """What small steps of so many lanes need of a world; of none, nothing."""
    block, pair = np.zeros(0), np.zeros((0, 0))
    if count:
        known, floor = world.quality.increments, world.floor
        block = np.where(floor, 1.0, known.block / world.ceiling)
        pair = np.where(floor, 0.0, known.pair / world.ceiling)
    of_lanes = count, len(block)
    return Small(fixed(block), fixed(pair), np.zeros(of_lanes), np.ones(of_lanes, dtype=np.uint8))


def is_worth(world: World) -> bool:
    """Whether lanes of this world can be served so."""
    return type(world.quality) is QualityColumns and opened.is_opened(world.quality)


@once_a_world
def tables_of(world: World) -> Tables:
    """What is looked up of a world, computed once."""
    rows = world.rows
    bits = ((np.arange(256)[:, None] >> np.arange(8)) & 1).astype(np.uint8)
    # As `reward.terms` has it, to the last bit.
    share = rows.output_tokens / world.mean_output_tokens / world.window_s
    return Tables(
        fixed(bits), fixed(bits.astype(np.float32)), fixed(rows.limit_bytes.min(axis=1)),
        fixed(share),
    )  # fmt: skip


@once_for_columns
def answers_of(columns: QualityColumns) -> Answers:
    """What these columns say of any set, made once; it goes when they go."""
    floor, n = columns.floor, len(columns.floor)
    parts, rows = opened.opened(columns), columns.sets
    places = 1 << int(np.ceil(np.log2(2 * len(rows) + 64)))
    row_key, row_nll = np.zeros(places, dtype=np.uint64), np.zeros(places)
    stride_kernel.enter(words_of(rows.kept), np.array(rows.nll), row_key, row_nll)
    words = words_of(np.stack([floor, np.ones(n, dtype=bool), ~floor]))
    return Answers(
        words=fixed(words), row_key=fixed(row_key), row_nll=fixed(row_nll),
        memo_key=np.zeros(MEMO_SETS, dtype=np.uint64), memo_nll=np.zeros(MEMO_SETS),
        squeezed=fixed(parts.squeezed),
        widths=fixed(np.array([parts.tabled_bits, parts.group_bits], dtype=np.int64)),
        mask=fixed(parts.mask), value=fixed(parts.value), tabled=fixed(parts.tabled),
        groups=fixed(parts.groups), at_counts=fixed(columns.at_counts),
        added=fixed(np.array([columns.added])),
    )  # fmt: skip
