"""Episodes of a split's pairings together, for the package's own policies.

All rows at once for a policy that decides from each observation alone.

A row depends on demand and limit, which nothing changes, and on what the row before left in memory. That
is guessed first: every block. Rows whose guess was wrong are decided and served again, with what the row
before them left this time, until no guess is wrong: then every row stands on the one before it, as if
they had been served in turn. The first wrong row is right after each round, so there is an end; and since
a row mostly leaves the same whatever was in memory before it, it comes after some rounds.

In turn by compiled code for one that is `Tallied`: no guess is needed, and lanes may try different settings.

Row by row for one that remembers or draws: all pairings' rows are served in one step.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeGuard

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.guard.guard import Guard, ask, begin, refuses_misfit, strict_lanes
from rapgym.policies.policy import Briefing, Policy
from rapgym.rollout.log import EpisodeLog, LogWriter, joined
from rapgym.scenarios.lanes import Lanes, Start, together
from rapgym.world.records import State
from rapgym.world.shield import Reason

if TYPE_CHECKING:
    from rapgym.world.tally import Tally

MOST_ASKED = 4096  # observations that are in memory together
PACKAGE = __name__.partition(".")[0]


class Tallied(Policy, Protocol):
    """A policy that can decide by compiled code, in turn, rows that all its lanes meet."""

    @property
    def tally_sets(self) -> BoolArray:
        """What it may propose, beside what is in memory: bool [M, N], once it was reset."""

    def tally(
        self, kept: "Tally", observation: FloatArray, row: IntArray, limit_row: IntArray
    ) -> None:
        """Decide rows in turn and have `kept` serve them, as `propose` would lane by lane.

        Args:
            observation: of each row, [R, O]; what it says of blocks in memory is not so.
            row, limit_row: [R].
        """


def can_serve(policy: object, lanes: Lanes) -> bool:
    """Whether a policy's rows may be decided at once, in lanes that compiled code serves.

    A policy of the package's declares it by `lanes_apart = True`: a proposal follows from its
    observation and the briefing, whatever was asked before or beside it, and draws nothing at random. A
    user's is asked row by row whatever it declares: all rows at once would show it the future.
    """
    return _declares(policy, "lanes_apart") and lanes.twin is not None


def can_serve_in_step(policy: object) -> bool:
    """Whether the pairings of a split may be served side by side, each by a policy object of its own.

    A policy of the package's declares it by `in_step = True`: an object remembers and draws for itself
    alone. A user's is asked for one pairing after the other: those rows are the future of this one.
    """
    return _declares(policy, "in_step")


def can_tally(policy: Policy) -> TypeGuard[Tallied]:
    """Whether a policy, one of the package's, decides by compiled code where tokens are not scaled."""
    return _is_own(policy) and hasattr(policy, "tally")


def _declares(policy: object, name: str) -> bool:
    return _is_own(policy) and getattr(policy, name, False) is True


def _is_own(policy: object) -> bool:
    return type(policy).__module__.partition(".")[0] == PACKAGE


def episodes(
    policy: Policy, lanes: Lanes, starts: Sequence[Start], briefing: Briefing
) -> EpisodeLog | None:
    """The log of K episodes of T rows, [T, K]; None where an answer cannot be read.

    Args:
        lanes: of the world and its compiled code; where they stand is left as it is.

    Raises:
        InvalidPolicy: the policy's `reset` raises, or `on_misfit` is declared wrongly.
    """
    twin, world = lanes.twin, lanes.world
    assert twin is not None  # `can_serve`
    count, whole = len(starts), _states(lanes, starts)
    begin(policy, min(MOST_ASKED, whole.lanes), briefing)
    source = np.full(whole.lanes, Reason.POLICY, dtype=np.int64)
    strict = strict_lanes(refuses_misfit(policy), source)
    proposal, left = np.empty_like(whole.loaded), np.empty_like(whole.loaded)
    rng, wrong = np.random.default_rng(0), np.arange(whole.lanes)
    while len(wrong):
        for first in range(0, len(wrong), MOST_ASKED):
            rows = wrong[first : first + MOST_ASKED]
            before = whole.at(rows)
            observation, _ = twin.seen(lanes.layout, before, rows // count)
            answer, readable = ask(policy, observation, rng, world.blocks)
            if not readable.all():
                return None
            following, _ = twin.step(before, answer, source[rows], strict[rows])
            proposal[rows], left[rows] = answer, following.loaded
        wrong = _put_right(whole.loaded, left, count)
    _, outcome = twin.step(whole, proposal, source, strict)
    writer = LogWriter()
    writer.add(world, whole.row, whole.limit_row, source, outcome)
    return writer.finish().reshaped(starts[0].rows, count)


def _states(lanes: Lanes, starts: Sequence[Start]) -> State:
    """Before each row of each episode, every block in memory: [T * K], the first rows of all first."""
    each, count = together(starts), len(lanes.world.rows)
    row = (each.row + np.arange(starts[0].rows)[:, None]) % count
    scale = np.broadcast_to(each.token_scale, row.shape)
    return lanes.world.state(row.ravel(), ((row + each.offset) % count).ravel(), scale.ravel())


def _put_right(loaded: BoolArray, left: BoolArray, count: int) -> IntArray:
    """Set what is in memory before each row to what the row before left: which rows that changes.

    Args:
        count: of episodes.
    """
    wrong: IntArray = count + np.flatnonzero((loaded[count:] != left[:-count]).any(axis=1))
    loaded[wrong] = left[wrong - count]
    return wrong


def in_turn(
    policies: Sequence[Policy], lanes: Lanes, starts: Sequence[Start], briefing: Briefing
) -> EpisodeLog:
    """The log of K episodes of T rows, one after the other, [T, K].

    Args:
        policies: one for each episode.
        lanes: of the world and its compiled code; where they stand is left as it is.

    Raises:
        InvalidPolicy: a policy's `reset` raises, or `on_misfit` is declared wrongly.
    """
    return joined(
        [
            _in_turn(policy, lanes, start, briefing)
            for policy, start in zip(policies, starts, strict=True)
        ]
    )


def _in_turn(policy: Policy, lanes: Lanes, start: Start, briefing: Briefing) -> EpisodeLog:
    twin, whole = lanes.twin, _states(lanes, [start])
    assert twin is not None  # who calls this
    assert can_tally(policy)  # has asked
    kept = _tallied(policy, lanes, whole, briefing, np.zeros(1), start.rows)
    proposal, whole.loaded[:] = kept.proposed
    source = np.full(start.rows, Reason.POLICY, dtype=np.int64)
    strict = strict_lanes(refuses_misfit(policy), source)
    _, outcome = twin.step(whole, proposal, source, strict)
    writer = LogWriter()
    writer.add(lanes.world, whole.row, whole.limit_row, source, outcome)
    return writer.finish().reshaped(start.rows, 1)


def tally(
    policy: Tallied, lanes: Lanes, start: Start, briefing: Briefing, total: FloatArray
) -> int:
    """Let a policy whose lanes try different settings serve an episode; `rollout.served_rows` in sum.

    Args:
        lanes: of the world; where they stand is left as it is.
        total: what each lane has paid, cost times output tokens, is added here, [B].

    Returns:
        Output tokens of the rows.
    """
    whole = _states(lanes, [start])
    _tallied(policy, lanes, whole, briefing, total)
    return int(lanes.world.rows.output_tokens[whole.row].sum())


def _tallied(
    policy: Tallied,
    lanes: Lanes,
    whole: State,
    briefing: Briefing,
    total: FloatArray,
    rows: int = 0,
) -> "Tally":
    """An episode that was served, of `_states`; it remembers so many rows of the first lane."""
    from rapgym.world.tally import Tally
    from rapgym.world.twin import twin_of

    world, twin = lanes.world, twin_of(lanes.world)
    assert (whole.token_scale == 1.0).all()
    begin(policy, len(total), briefing)
    strict = refuses_misfit(policy)
    kept = Tally(world, policy.tally_sets, total, refuses_misfit=strict, rows=rows)
    for first in range(0, whole.lanes, MOST_ASKED):
        age = np.arange(first, min(first + MOST_ASKED, whole.lanes))
        part = whole.at(age)
        observation, _ = twin.seen(lanes.layout, part, age)
        policy.tally(kept, observation, part.row, part.limit_row)
    return kept


class _Beside:
    """A policy object for each lane, asked as if they were one."""

    def __init__(self, policies: Sequence[Policy], rngs: Sequence[np.random.Generator]) -> None:
        self._policies, self._rngs = policies, rngs
        self.on_misfit = getattr(policies[0], "on_misfit", "repair")
        # Who remembers nothing answers for all.
        self._beside = getattr(policies[0], "propose_beside", None)

    def reset(self, batch: int, briefing: Briefing) -> None:
        for policy in self._policies:
            begin(policy, 1, briefing)

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        if self._beside is not None:
            answer: BoolArray = self._beside(observation, self._rngs)
            return answer
        answers = [
            policy.propose(observation[lane : lane + 1], own)
            for lane, (policy, own) in enumerate(zip(self._policies, self._rngs, strict=True))
        ]
        return np.concatenate(answers)


def in_step(
    policies: Sequence[Policy],
    lanes: Lanes,
    starts: Sequence[Start],
    briefing: Briefing,
    rngs: Sequence[np.random.Generator],
) -> EpisodeLog | None:
    """The log of K episodes of T rows in K lanes, row by row, [T, K]; None where an answer cannot be read.

    Args:
        policies: one for each episode.
        rngs: what each draws from.

    Raises:
        InvalidPolicy: a policy's `reset` raises, or `on_misfit` is declared wrongly.
    """
    lanes.restart_all(np.arange(len(starts)), together(starts))
    guard, log = Guard(_Beside(policies, rngs), lanes, briefing), LogWriter()
    for _ in range(starts[0].rows):
        before, served = lanes.state, guard.serve(rngs[0])
        if not served.decided.readable.all():
            return None
        source = served.decided.source
        log.add(lanes.world, before.row, before.limit_row, source, served.outcome)
    return log.finish()
