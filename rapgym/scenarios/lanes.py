"""Episodes of B lanes in one world: where they start, how they advance, what they see.

Both environments and the rollout stand on this; they differ only in how actions become proposals.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.errors import InvalidSpec
from rapgym.scenarios import worlds
from rapgym.scenarios.card import card_bytes
from rapgym.scenarios.story import Scenario, Split
from rapgym.world import encoding, pace, simulator
from rapgym.world.encoding import Layout, Visible
from rapgym.world.records import Demand, Outcome, State, World
from rapgym.world.shield import Decision, Reason
from rapgym.world.simulator import Step

if TYPE_CHECKING:
    from rapgym.world.stride import Stride
    from rapgym.world.twin import Twin

TRAIN_EPISODE_ROWS = 64
TOKEN_SCALES = (0.9, 1.1)  # small scaling of a train episode's tokens, uniform


@dataclass(frozen=True, slots=True)
class Start:
    """Where one episode begins."""

    row: int
    offset: int  # of the tenant's rows against the served ones
    token_scale: float
    rows: int  # length of the episode


@dataclass(frozen=True, slots=True)
class Starts:
    """Where the episodes of B lanes begin, as `Start` has it: [B] each."""

    row: IntArray
    offset: IntArray
    token_scale: FloatArray
    rows: IntArray


def is_stretch(split: Split) -> bool:
    """Whether episodes are stretches of a split, from a drawn start: what one learns from."""
    return split.partition("-")[0] in ("train", "fit", "learn")


def episode_rows(world: World, split: Split) -> int:
    """Rows of an episode: a stretch of `train` and of its parts to learn from, any other split whole."""
    rows = len(world.rows)
    return min(TRAIN_EPISODE_ROWS, rows) if is_stretch(split) else rows


def start_of(world: World, story: Scenario, split: Split, seed_rng: np.random.Generator,
             offset: int) -> Start:  # fmt: skip
    """A train episode from a drawn start, pairing and scaling; any other is the whole split.

    Args:
        offset: which of the scenario's further pairings, 0 for the hour as it was; a train episode
            draws its own.
    """
    rows, length = len(world.rows), episode_rows(world, split)
    if is_stretch(split):
        row = int(seed_rng.integers(rows - length + 1))
        turned = int(seed_rng.integers(rows))
        return Start(row, turned, float(seed_rng.uniform(*TOKEN_SCALES)), length)
    if not 0 <= offset < story.offsets:
        raise InvalidSpec(f"{story.name} has offsets 0 to {story.offsets - 1}, not {offset}")
    return Start(0, offset * rows // story.offsets, 1.0, length)


def starts_of(world: World, story: Scenario, split: Split, rngs: Sequence[np.random.Generator],
              offsets: IntArray, *, compiled: bool = False) -> Starts:  # fmt: skip
    """`start_of` for B lanes, each with its own generator and offset.

    Args:
        compiled: draw by compiled code, which is loaded then.
    """
    if compiled and is_stretch(split):
        from rapgym.scenarios import drawing

        rows, length = len(world.rows), episode_rows(world, split)
        row, turned, scale = drawing.draw(rngs, (rows - length + 1, rows), TOKEN_SCALES)
        return Starts(row, turned, scale, np.full(len(rngs), length))
    starts = [
        start_of(world, story, split, rng, offset)
        for rng, offset in zip(rngs, offsets.tolist(), strict=True)
    ]
    return together(starts)


def together(starts: Sequence[Start]) -> Starts:
    """The starts of several lanes in one record."""
    return Starts(
        np.array([start.row for start in starts], dtype=np.int64),
        np.array([start.offset for start in starts], dtype=np.int64),
        np.array([start.token_scale for start in starts], dtype=np.float64),
        np.array([start.rows for start in starts], dtype=np.int64),
    )


class Lanes:
    """The mutable half of an environment: one `State` that a step replaces."""

    def __init__(
        self,
        story: Scenario,
        split: Split,
        count: int,
        *,
        small_steps: bool = False,
        step: Step = simulator.step,
        compiled: bool = False,
    ) -> None:
        """Stand `count` lanes at the split's first row.

        Args:
            small_steps: observations say what a row's small steps have dropped so far.
            step: what serves a row; the simulated world unless stated.
            compiled: use compiled code from the first row on, where it knows what quality is made of.
        """
        self.story, self.split, self.count, self.step = story, split, count, step
        self._small_steps = small_steps
        self.world = worlds.world(story, split)
        self.layout: Layout = encoding.layout(
            self.world, card_bytes=card_bytes(story), small_steps=small_steps
        )
        ones = np.ones(count, dtype=np.int64)
        # Where the lanes stand says `_state`, or where it is None `stride`: see `state`.
        self._state: State | None = self.world.state(0 * ones, 0 * ones)
        self.stride: Stride | None = None
        self.age: IntArray = 0 * ones
        self.episode_rows: IntArray = ones.copy()
        self.strides = False  # whether `stride` knows where the lanes stand
        self._served = 0  # rows, of all lanes together
        self._twin: Twin | None = None
        self._turn()
        if compiled and pace.is_compiled(self.world, pace.REFERENCE_ROWS):
            self._load()

    @property
    def state(self) -> State:
        """Where each lane stands."""
        if self._state is None:
            assert self.stride is not None
            self._state = self.stride.state()
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        self._state, self.strides = state, False

    def leave_stride(self) -> None:
        """Know where the lanes stand without `stride`, which does not learn what moves them next."""
        self._state, self.strides = self.state, False

    def strode(self) -> None:
        """Note that `stride` has moved lanes: it alone knows where they stand."""
        if self._state is not None:  # else nothing is known of them that could be forgotten
            self._state, self.strides = None, True
            self._turn()

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy: it makes what is compiled anew."""
        return self.__dict__ | {"_state": self.state, "stride": None, "strides": False}

    def _turn(self) -> None:
        """Forget what is known of rows that were to be decided: some lanes stand elsewhere now."""
        self._seen: Visible | None = None
        self._asked: Demand | None = None
        self._asked_columns: IntArray | None = None  # its fields, [4, B]
        # The part of an observation that stays until a row is served, where rows take several steps.
        self._of_row: FloatArray | None = None

    def restart(self, lane: int, start: Start) -> None:
        """Begin an episode in one lane, every block in memory."""
        self.restart_all(np.array([lane]), together([start]))

    def restart_all(self, lanes: IntArray, starts: Starts) -> None:
        """Begin an episode in each of some lanes, every block in memory."""
        limit_row = (starts.row + starts.offset) % len(self.world.rows)
        if self.strides:
            assert self.stride is not None
            self.stride.begin(lanes, starts.row, limit_row, starts.token_scale, starts.rows)
            self.strode()
            return
        fresh = self.world.state(starts.row, limit_row, starts.token_scale)
        self.state = self.state.put(lanes, fresh)
        self.age[lanes], self.episode_rows[lanes] = 0, starts.rows
        self._turn()

    def begin(
        self, lanes: IntArray, rngs: Sequence[np.random.Generator], offsets: IntArray
    ) -> None:
        """Begin an episode in each of some lanes where `start_of` says, [n] each."""
        starts = starts_of(
            self.world, self.story, self.split, rngs, offsets, compiled=self.twin is not None
        )
        self.restart_all(lanes, starts)

    @property
    def twin(self) -> "Twin | None":
        """The compiled twin of step and observation, once many rows are served; None before."""
        if self._twin is None and pace.is_compiled(self.world, self._served):
            self._load()
        return self._twin

    def _load(self) -> None:
        from rapgym.world import twin

        self._twin = twin.twin_of(self.world)

    def warm(self) -> None:
        """Have all compiled code at hand now, so that no row waits until it is compiled or read."""
        if not pace.is_compiled(self.world, pace.REFERENCE_ROWS):
            return
        self._load()
        twin, state, dense = self.twin, self.state, np.ones((self.count, self.world.blocks), bool)
        assert twin is not None
        policys, repaired = np.full(self.count, Reason.POLICY), np.zeros(self.count, dtype=bool)
        twin.observe(self.layout, state, self.age)
        twin.shield(state, dense, policys, repaired)
        twin.step(state, dense, policys, repaired)

    def shield(self, proposal: BoolArray, source: IntArray, strict: BoolArray) -> Decision:
        """What the shield makes of proposals for the next row; nothing is served.

        Args:
            proposal: bool [B, N]; source: whose it is (`shield.Reason`), [B].
            strict: lanes whose policy is refused rather than repaired, [B].
        """
        if self.twin is not None:
            return self.twin.shield(self.state, proposal, source, strict)
        return simulator.Row(self.world, self.state, proposal, source, strict).decision

    @property
    def seen(self) -> Visible:
        """What may be known before the next row; gathered once a row."""
        if self._seen is None:
            self._seen = encoding.visible(self.world, self.state, self.age)
        return self._seen

    @property
    def asked(self) -> Demand:
        """What the next row of each lane asks for."""
        if self._asked is None:
            columns = self._asked_columns
            self._asked = self.world.demand(self.state) if columns is None else Demand(*columns)
        return self._asked

    def observe(self, so_far: BoolArray | None = None) -> FloatArray:
        """float32 [B, O], the caller's own."""
        of_row = self._of_row
        if of_row is None:
            if self.twin is None:
                of_row = encoding.observe_row(self.world, self.layout, self.seen)
                self._asked = self.seen.demand
            else:
                of_row, self._asked_columns = self.twin.seen(self.layout, self.state, self.age)
        if so_far is None:
            return of_row
        self._of_row = of_row
        known, limits = importance(self.world, so_far), self.world.limits(self.state)[:, 0]
        return encoding.with_steps(
            self.world, self.layout, self.asked, limits, of_row, so_far, known
        )

    def observe_with(self, loaded: BoolArray) -> FloatArray:
        """What a policy would see if these blocks were in memory, bool [B, N] -> float32 [B, O]."""
        if self.twin is not None and not self._small_steps:
            now = self.state
            state = State(now.row, now.limit_row, now.token_scale, loaded)
            seen, self._asked_columns = self.twin.seen(self.layout, state, self.age)
            return seen
        return encoding.observe(self.world, self.layout, replace(self.seen, loaded=loaded))

    def serve(
        self,
        proposal: BoolArray,
        lanes: BoolArray | None = None,
        source: IntArray | None = None,
        refuses_misfit: bool | BoolArray = False,
    ) -> Outcome:
        """Serve a row in the named lanes (all unless stated); the others stay where they are.

        Args:
            refuses_misfit: of the named lanes, all of them or [served].

        Returns:
            The outcome of the named lanes alone, in their order.
        """
        if lanes is not None and lanes.all():
            lanes = None  # whole arrays are quicker than all of their entries
        if lanes is None:
            part, proposal = self.state, proposal.copy()  # the outcome holds it
        else:
            part, proposal = self.state.at(lanes), proposal[lanes]
            source = None if source is None else source[lanes]
        if isinstance(refuses_misfit, np.ndarray):
            strict: BoolArray = refuses_misfit
        else:
            strict = np.full(part.lanes, refuses_misfit, dtype=bool)
        source = np.full(part.lanes, Reason.POLICY, dtype=np.int64) if source is None else source
        if self.step is simulator.step and self.twin is not None:
            following, outcome = self.twin.step(part, proposal, source, strict)
        else:
            following, outcome = self.step(self.world, part, proposal, source, strict)
        if lanes is None:
            # The outcome holds what is loaded, too: nobody who writes there moves a lane.
            self.state = State(
                following.row,
                following.limit_row,
                following.token_scale,
                following.loaded.copy(),
            )
            self.age += 1
        else:
            self.state = self.state.put(lanes, following)
            self.age[lanes] += 1
        self._served += part.lanes
        self._turn()
        return outcome

    @property
    def ended(self) -> BoolArray:
        """Lanes whose episode is over, bool [B]."""
        return self.age >= self.episode_rows


def importance(world: World, so_far: BoolArray) -> FloatArray:
    """What each block would cost if it went next, over C, bool [..., N] -> float64 [..., N].

    1 for the floor, 0 for a block that is gone.
    """
    return importance_of(world.quality.increments.of(~so_far), so_far, world.floor, world.ceiling)


def importance_of(
    rises: FloatArray, so_far: BoolArray, floor: BoolArray, ceiling: float
) -> FloatArray:
    """`importance` of what `Increments.of` gives."""
    share = np.clip(rises / ceiling, 0.0, 1.0)
    found: FloatArray = np.where(floor, 1.0, np.where(so_far, share, 0.0))
    return found
