"""Episodes of B lanes in one world: where they start, how they advance, what they see.

Both environments and the rollout stand on this; they differ only in how actions become proposals.
"""

from dataclasses import dataclass

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.errors import InvalidSpec
from rapgym.scenarios import worlds
from rapgym.scenarios.card import card_bytes
from rapgym.scenarios.story import Scenario, Split
from rapgym.world import encoding, simulator
from rapgym.world.encoding import Layout, Visible
from rapgym.world.records import Outcome, State, World
from rapgym.world.shield import Reason
from rapgym.world.simulator import Step

STRETCHES = ("train", "fit", "learn")  # splits whose episodes are a part of them
TRAIN_EPISODE_ROWS = 64
TOKEN_SCALES = (0.9, 1.1)  # small scaling of a train episode's tokens, uniform


@dataclass(frozen=True, slots=True)
class Start:
    """Where one episode begins."""

    row: int
    offset: int  # of the tenant's rows against the served ones
    token_scale: float
    rows: int  # length of the episode


def episode_rows(world: World, split: Split) -> int:
    """Rows of an episode: a stretch of `train` and of its parts to learn from, any other split whole."""
    rows = len(world.rows)
    return min(TRAIN_EPISODE_ROWS, rows) if split in STRETCHES else rows


def start_of(world: World, story: Scenario, split: Split, seed_rng: np.random.Generator,
             offset: int) -> Start:  # fmt: skip
    """A train episode from a drawn start, pairing and scaling; any other is the whole split.

    Args:
        offset: which of the scenario's further pairings, 0 for the hour as it was; a train episode
            draws its own.
    """
    rows, length = len(world.rows), episode_rows(world, split)
    if split in STRETCHES:
        row = int(seed_rng.integers(rows - length + 1))
        turned = int(seed_rng.integers(rows))
        return Start(row, turned, float(seed_rng.uniform(*TOKEN_SCALES)), length)
    if not 0 <= offset < story.offsets:
        raise InvalidSpec(f"{story.name} has offsets 0 to {story.offsets - 1}, not {offset}")
    return Start(0, offset * rows // story.offsets, 1.0, length)


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
    ) -> None:
        """Stand `count` lanes at the split's first row.

        Args:
            small_steps: observations say what a row's small steps have dropped so far.
            step: what serves a row; the simulated world unless stated.
        """
        self.story, self.split, self.count, self.step = story, split, count, step
        self.world = worlds.world(story, split)
        self.layout: Layout = encoding.layout(
            self.world, card_bytes=card_bytes(story), small_steps=small_steps
        )
        self.importance = importance(self.world)
        ones = np.ones(count, dtype=np.int64)
        self.state: State = self.world.state(0 * ones, 0 * ones)
        self.age: IntArray = 0 * ones
        self.episode_rows: IntArray = ones.copy()
        self._seen: Visible | None = None
        # The part of an observation that stays until a row is served, and of what it was made.
        self._of_row: tuple[Visible, FloatArray] | None = None

    def restart(self, lane: int, start: Start) -> None:
        """Begin an episode in one lane, every block in memory."""
        row, limit_row = start.row, (start.row + start.offset) % len(self.world.rows)
        fresh = self.world.state(
            np.array([row]), np.array([limit_row]), np.array([start.token_scale])
        )
        self.state = self.state.put(np.array([lane]), fresh)
        self.age[lane], self.episode_rows[lane] = 0, start.rows
        self._seen = None

    @property
    def seen(self) -> Visible:
        """What may be known before the next row; gathered once a row."""
        if self._seen is None:
            self._seen = encoding.visible(self.world, self.state, self.age)
        return self._seen

    def observe(self, so_far: BoolArray | None = None) -> FloatArray:
        """float32 [B, O], the caller's own."""
        seen = self.seen
        if self._of_row is None or self._of_row[0] is not seen:
            self._of_row = seen, encoding.observe_row(self.world, self.layout, seen)
        of_row = self._of_row[1]
        if so_far is None:
            return of_row.copy()
        return encoding.with_steps(self.world, self.layout, seen, of_row, so_far, self.importance)

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
        if lanes is None:
            lanes = np.ones(self.count, dtype=bool)
        part = self.state.at(lanes)
        strict = np.broadcast_to(np.asarray(refuses_misfit, dtype=bool), part.lanes)
        source = np.full(part.lanes, Reason.POLICY) if source is None else source[lanes]
        following, outcome = self.step(self.world, part, proposal[lanes], source, strict)
        self.state = self.state.put(lanes, following)
        self.age[lanes] += 1
        self._seen = None
        return outcome

    @property
    def ended(self) -> BoolArray:
        """Lanes whose episode is over, bool [B]."""
        return self.age >= self.episode_rows


def importance(world: World) -> FloatArray:
    """What each block costs along the joint greedy order, over C; 1 for the floor; float64 [N]."""
    costs = np.clip(world.quality.importance, 0, None)
    found: FloatArray = np.where(world.floor, 1.0, np.minimum(costs / world.ceiling, 1.0))
    return found
