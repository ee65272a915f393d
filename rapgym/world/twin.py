"""A row served by compiled code: `simulator.step` again, bit for bit, and many times faster.

`simulator.step` stays the one that is read and believed; tests hold this one to it. Importing this
module loads numba, and the first call compiles or reads what an earlier process compiled: who serves
only some rows is better off with the reference.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.files.compiled import settled
from rapgym.world import encoding, kernel, stall
from rapgym.world.encoding import Layout
from rapgym.world.kernel import Facts, Falls, Lanes, Scratch, Sight
from rapgym.world.lookup import lookup_of
from rapgym.world.records import Demand, Fall, Outcome, State, World
from rapgym.world.reward import Seconds, Terms
from rapgym.world.shield import Decision, Reason

FEW_FALLS = 64  # for which room is made at once


def facts_of(world: World) -> Facts:
    """What the kernel needs of a world."""
    rows, foot, order = world.rows, world.footprint, world.quality.order
    sizes = [foot.layers, foot.attention_bytes, foot.ffn_bytes, foot.model_kv_token_bytes,
             foot.fixed_bytes, foot.margin_bytes]  # fmt: skip
    rates = [foot.activation_bytes_per_token, world.ceiling, stall.link_bytes_per_s(world),
             world.mean_output_tokens, stall.pause_s(world)]  # fmt: skip
    return Facts(
        batch=fixed(rows.batch),
        prompt=fixed(rows.prompt_tokens),
        reserved=fixed(rows.reserved_tokens),
        longest=fixed(rows.longest_tokens),
        output=fixed(rows.output_tokens),
        limit_bytes=fixed(rows.limit_bytes),
        order=fixed(np.asarray(order, dtype=np.int64)),
        last_first=fixed(np.concatenate([order, np.flatnonzero(world.floor)[::-1]])),
        floor=fixed(world.floor),
        sizes=fixed(np.array(sizes, dtype=np.int64)),
        rates=fixed(np.array(rates, dtype=np.float64)),
    )


def fixed(array: Any) -> Any:
    """An array that compiled code reads: in C order and read-only, so that all are of one type."""
    found = np.ascontiguousarray(array).view()
    found.setflags(write=False)
    return found


def sight_of(world: World, where: Layout) -> Sight:
    """What the kernel needs of a world to observe it."""
    rows, most = world.rows, encoding.LARGEST

    def cut(values: FloatArray) -> FloatArray:
        return np.clip(values, -most, most).astype(np.float32)

    ahead = where.slice_of("limit")
    sizes = [world.window_s, encoding.HISTORY, ahead.stop - ahead.start]
    return Sight(
        batch=fixed(cut(rows.batch / encoding.BATCH_UNIT)),
        limit=fixed(cut(encoding.rounded_down(rows.limit_bytes.ravel() / where.card_bytes))),
        sizes=fixed(np.array(sizes, dtype=np.int64)),
        units=fixed(np.array([where.card_bytes, where.token_unit, most], dtype=np.float64)),
    )


class Rowwise(Sequence[Fall]):
    """The falls of a row, gathered second by second when they are first asked for."""

    def __init__(self, found: Falls) -> None:
        self._found = found

    @cached_property
    def _falls(self) -> tuple[Fall, ...]:
        found, count = self._found, int(self._found.made[0])
        second = found.second[:count]
        falls = []
        for each in np.unique(second).tolist():
            where = np.flatnonzero(second == each)
            falls.append(Fall(each, found.lane[where], found.before[where], found.kept[where],
                              found.refused[where]))  # fmt: skip
        return tuple(falls)

    def __len__(self) -> int:
        return len(self._falls) if self._found.made[0] else 0

    @overload
    def __getitem__(self, index: int) -> Fall: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Fall, ...]: ...
    def __getitem__(self, index: int | slice) -> Fall | tuple[Fall, ...]:
        return self._falls[index]

    def __iter__(self) -> Iterator[Fall]:
        return iter(self._falls)


class Twin:
    """Serves rows of one world."""

    def __init__(self, world: World) -> None:
        self.world, self.facts, self._lookup = world, facts_of(world), lookup_of(world.quality)
        self._sight: tuple[Layout, Sight, int] | None = None
        self._scratch = scratch_of(world.blocks)
        self._kept = np.empty((1, world.blocks), dtype=bool)  # scratch, too
        # What they are given has passed `given`, or was made here.
        self._observe, self._shield = settled(kernel.observe), settled(kernel.shield)
        self._foresee, self._serve_all = settled(kernel.foresee), settled(kernel.serve)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is made anew: copied arrays could be written to, and so be of another type."""
        return Twin, (self.world,)

    def step(
        self, state: State, proposal: BoolArray, source: IntArray, strict: BoolArray
    ) -> tuple[State, Outcome]:
        """As `simulator.step`; nothing that it gives shares memory with what it was given, but for
        the proposal and the scales of tokens."""
        lanes = self._lanes(state, proposal, source, strict)
        falls = self._serve(lanes)
        whole, measures = lanes.whole, lanes.measures
        following = State(lanes.next_row, lanes.next_limit_row, state.token_scale, lanes.kept_end)
        outcome = Outcome(
            proposal=proposal,
            kept=lanes.kept,
            kept_end=lanes.kept_end,
            refused=lanes.refused,
            reason=whole[kernel.REASON],
            limit_bytes=whole[kernel.LIMIT],
            used_bytes=whole[kernel.USED],
            nll=measures[kernel.NLL],
            measured=lanes.measured,
            output_tokens=whole[kernel.OUTPUT],
            seconds=Seconds(*measures[kernel.LOSS_S : kernel.REFUSED_S + 1]),
            terms=Terms(*measures[kernel.QUALITY : kernel.REFUSED_COST + 1]),
            falls=Rowwise(falls),
        )
        return following, outcome

    def observe(self, where: Layout, state: State, age: IntArray) -> tuple[FloatArray, Demand]:
        """As `encoding.observe_row`, and what each row asks for; both the caller's own."""
        seen, asked = self.seen(where, state, age)
        return seen, Demand(*asked)

    def seen(self, where: Layout, state: State, age: IntArray) -> tuple[FloatArray, IntArray]:
        """As `encoding.observe_row`, and the fields of each row's `Demand`, [4, B]; the caller's own.

        Args:
            where: of which only the units are read; it must be the world's.
            age: rows that each lane has served in this episode, [B].
        """
        known = self._sight
        if known is None or known[0] is not where:  # comparing two takes as long as all the rest
            if known is None or known[0] != where:
                size = where.slice_of("headroom_loaded").stop
                known = where, sight_of(self.world, where), size
            known = self._sight = where, *known[1:]
        _, sight, size = known
        count = state.lanes
        seen = np.empty((count, size), dtype=np.float32)
        asked = np.empty((4, count), dtype=np.int64)
        found = self._observe(
            self.facts, sight, given(state.row, np.int64), given(state.limit_row, np.int64),
            given(state.token_scale, np.float64), given(state.loaded, np.bool_),
            given(age, np.int64), asked, seen, self._scratch.key,
        )  # fmt: skip
        self._require_rows(found)
        return seen, asked

    def shield(
        self, state: State, proposal: BoolArray, source: IntArray, strict: BoolArray
    ) -> Decision:
        """Bytes and shield alone, as `simulator.Row.decision`; nothing is served."""
        count, blocks = proposal.shape
        kept = np.empty((count, blocks), dtype=bool)
        refused, reason = np.empty(count, dtype=bool), np.empty(count, dtype=np.int64)
        found = self._shield(
            self.facts, given(state.row, np.int64), given(state.limit_row, np.int64),
            given(state.token_scale, np.float64), given(proposal, np.bool_),
            given(source, np.int64), given(strict, np.bool_), kept, refused, reason, self._scratch,
        )  # fmt: skip
        self._require_rows(found)
        return Decision(kept, refused, reason)

    def foreseen(
        self, state: State, proposal: BoolArray, strict: BoolArray, loaded_instead: BoolArray,
        instead: BoolArray,
    ) -> FloatArray:  # fmt: skip
        """What two proposals a lane cost a token should memory stay as it is in the row's first second, units of C.

        Args:
            state: of the first; of the second `loaded_instead` is in memory, [B, N], and all else is the same.
            proposal, strict: of the first, [B, ...]; instead: the second, never strict, [B, N].

        Returns:
            float64 [2 * B], all first ones first.
        """
        lookup, count = self._lookup, state.lanes
        share = np.empty(2 * count)
        while True:
            entries = lookup.entries
            found = self._foresee(
                self.facts, given(state.row, np.int64), given(state.limit_row, np.int64),
                given(state.token_scale, np.float64), given(state.loaded, np.bool_),
                given(proposal, np.bool_), given(strict, np.bool_),
                given(loaded_instead, np.bool_), given(instead, np.bool_), self._kept, share,
                entries, self._scratch,
            )  # fmt: skip
            self._require_rows(found)
            if found == kernel.DONE:
                return share
            if found == kernel.UNKNOWN:
                lookup.predict_all(self.world.quality, entries)
            else:
                lookup.make_room(2 * count)

    def account(self, state: State, seconds: Seconds) -> tuple[Demand, IntArray, FloatArray]:
        """What rows asked for, bytes for blocks in their first second, [B], and their terms of cost, [B, 4].

        Args:
            state: before the rows were served; seconds: how they were spent.
        """
        lanes = state.lanes
        whole, cost = np.empty((5, lanes), dtype=np.int64), np.empty((lanes, 4))
        found = kernel.account(
            self.facts, given(state.row, np.int64), given(state.limit_row, np.int64),
            given(state.token_scale, np.float64), given(seconds.loss, np.float64),
            given(seconds.stall, np.float64), given(seconds.emergency, np.float64),
            given(seconds.refused, np.float64), whole[:4], whole[4], cost,
        )  # fmt: skip
        self._require_rows(found)
        return Demand(*whole[:4]), whole[4], cost

    def onward(
        self, loaded: BoolArray, kept: BoolArray, able_s: FloatArray, cost: FloatArray,
        ahead: FloatArray,
    ) -> tuple[FloatArray, IntArray]:  # fmt: skip
        """The least cost from each loaded set and the choice that has it, [B, M] each; see `plan`."""
        least = np.empty(loaded.shape[:2])
        choice = np.empty(loaded.shape[:2], dtype=np.int64)
        kernel.onward(self.facts, given(loaded, np.bool_), given(kept, np.bool_), able_s, cost,
                      given(ahead, np.float64), least, choice)  # fmt: skip
        return least, choice

    def _require_rows(self, found: int) -> None:
        if found == kernel.ASTRAY:
            raise IndexError(f"a lane stands outside the {len(self.world.rows)} rows of its world")

    def _lanes(
        self, state: State, proposal: BoolArray, source: IntArray, strict: BoolArray
    ) -> Lanes:
        count, blocks = proposal.shape
        sets = np.empty((2, count, blocks), dtype=bool)
        flags = np.empty((2, count), dtype=bool)
        places = np.empty((3, count), dtype=np.int64)
        return Lanes(
            given(state.row, np.int64), given(state.limit_row, np.int64),
            given(state.token_scale, np.float64), given(state.loaded, np.bool_),
            given(proposal, np.bool_), given(source, np.int64), given(strict, np.bool_),
            next_row=places[0], next_limit_row=places[1],
            kept=sets[0], kept_end=sets[1], refused=flags[0], measured=flags[1],
            whole=np.empty((kernel.WHOLE, count), dtype=np.int64),
            measures=np.empty((kernel.MEASURES, count)), place=places[2],
        )  # fmt: skip

    def _serve(self, lanes: Lanes) -> Falls:
        """Fill what is written of lanes: the falls."""
        lookup, count = self._lookup, len(lanes.row)
        most = count * min(self.facts.limit_bytes.shape[1], len(self.facts.order) + 1)
        # Few lanes have room for all that may fall; of many, few do.
        room = most if most <= FEW_FALLS else min(count, most)
        falls = falls_of(room, self.world.blocks)
        while True:
            entries = lookup.entries
            found = self._serve_all(self.facts, lanes, falls, entries, self._scratch)
            self._require_rows(found)
            if found == kernel.DONE:
                break
            if found == kernel.NO_FALL:
                falls = falls_of(most, self.world.blocks)
            else:
                lookup.make_room(count + len(falls.second))
        if count and lanes.whole[kernel.MISSING, 0]:
            places = np.concatenate([lanes.place, falls.place[: falls.made[0]]])
            lookup.predict(self.world.quality, entries, places)
            kernel.charge(self.facts, lanes, falls, entries)
        return falls


def scratch_of(blocks: int) -> Scratch:
    """Room for what the passes of a world of so many blocks forget."""
    words = -(-blocks // kernel.WORD)
    return Scratch(
        np.empty(blocks, np.int64), np.empty(words, np.uint64), np.empty(words, np.uint64)
    )


def falls_of(count: int, blocks: int) -> Falls:
    """Room for so many falls."""
    whole = np.empty((3, count), dtype=np.int64)
    sets = np.empty((2, count, blocks), dtype=bool)
    return Falls(whole[0], whole[1], sets[0], sets[1], np.empty(count, dtype=bool), whole[2],
                 np.zeros(1, dtype=np.int64))  # fmt: skip


def given(array: Any, dtype: Any) -> Any:
    """An array as compiled code takes it: in C order, and of a type that may be written to."""
    if array.dtype == dtype and array.flags.carray:
        return array
    return np.array(array, dtype, order="C")


def shown(observation: Any) -> Any:
    """Observations as compiled code takes them: float32 [B, O].

    Raises:
        ValueError: they are not of lanes.
    """
    if observation.ndim != 2:
        raise ValueError(f"observations are [lanes, O], not {list(observation.shape)}")
    return given(observation, np.float32)


_last: list[Twin] = []  # of the worlds served last, the latest first
MOST_TWINS = 4


def twin_of(world: World) -> Twin:
    """The twin of a world: one of late, or a new one."""
    for twin in _last:
        if twin.world is world:
            return twin
    twin = Twin(world)
    _last[:] = [twin, *_last[: MOST_TWINS - 1]]
    return twin


def step(
    world: World,
    state: State,
    proposal: BoolArray,
    source: IntArray | None = None,
    refuses_misfit: BoolArray | None = None,
) -> tuple[State, Outcome]:
    """As `simulator.step`."""
    source = np.full(state.lanes, Reason.POLICY, dtype=np.int64) if source is None else source
    strict = np.zeros(state.lanes, dtype=bool) if refuses_misfit is None else refuses_misfit
    return twin_of(world).step(state, proposal, source, strict)
