"""All rows of an episode at once, for a policy that decides from each observation alone.

A row depends on demand and limit, which nothing changes, and on what the row before left in memory. That
is guessed first: every block. Rows whose guess was wrong are decided and served again, with what the row
before them left this time, until no guess is wrong: then every row stands on the one before it, as if
they had been served in turn. The first wrong row is right after each round, so there is an end; and since
a row mostly leaves the same whatever was in memory before it, it comes after some rounds.
"""

import numpy as np

from rapgym.arrays import BoolArray, IntArray
from rapgym.guard.guard import ask, begin, refuses_misfit, strict_lanes
from rapgym.policies.policy import Briefing, Policy
from rapgym.rollout.log import EpisodeLog, LogWriter
from rapgym.scenarios.lanes import Lanes, Start
from rapgym.world.records import State
from rapgym.world.shield import Reason

MOST_ASKED = 4096  # observations that are in memory together
PACKAGE = __name__.partition(".")[0]


def can_serve(policy: object, lanes: Lanes) -> bool:
    """Whether a policy's rows may be decided at once, in lanes that compiled code serves.

    A policy of the package's declares it by `lanes_apart = True`: a proposal follows from its
    observation and the briefing, whatever was asked before or beside it, and draws nothing at random. A
    user's is asked row by row whatever it declares: all rows at once would show it the future.
    """
    own = type(policy).__module__.partition(".")[0] == PACKAGE
    return own and getattr(policy, "lanes_apart", False) is True and lanes.twin is not None


def episode(policy: Policy, lanes: Lanes, start: Start, briefing: Briefing) -> EpisodeLog | None:
    """The log of an episode in a single lane, [T, 1]; None where an answer cannot be read.

    Args:
        lanes: of the world and its compiled code; where they stand is left as it is.

    Raises:
        InvalidPolicy: the policy's `reset` raises, or `on_misfit` is declared wrongly.
    """
    twin, world = lanes.twin, lanes.world
    assert twin is not None  # `can_serve`
    begin(policy, min(MOST_ASKED, start.rows), briefing)
    whole = _states(lanes, start)
    source = np.full(start.rows, Reason.POLICY, dtype=np.int64)
    strict = strict_lanes(refuses_misfit(policy), source)
    proposal, left = np.empty_like(whole.loaded), np.empty_like(whole.loaded)
    rng, wrong = np.random.default_rng(0), np.arange(start.rows)
    while len(wrong):
        for first in range(0, len(wrong), MOST_ASKED):
            rows = wrong[first : first + MOST_ASKED]
            before = whole.at(rows)
            observation, _ = twin.seen(lanes.layout, before, rows)
            answer, readable = ask(policy, observation, rng, world.blocks)
            if not readable.all():
                return None
            following, _ = twin.step(before, answer, source[rows], strict[rows])
            proposal[rows], left[rows] = answer, following.loaded
        wrong = _put_right(whole.loaded, left)
    _, outcome = twin.step(whole, proposal, source, strict)
    writer = LogWriter()
    writer.add(world, whole.row, whole.limit_row, source, outcome)
    return writer.finish().reshaped(start.rows, 1)


def _states(lanes: Lanes, start: Start) -> State:
    """Before each row of an episode, every block in memory: one lane a row."""
    step, count = np.arange(start.rows), len(lanes.world.rows)
    row = (start.row + step) % count
    scale = np.full(start.rows, start.token_scale)
    return lanes.world.state(row, (row + start.offset) % count, scale)


def _put_right(loaded: BoolArray, left: BoolArray) -> IntArray:
    """Set what is in memory before each row to what the row before left: which rows that changes."""
    wrong: IntArray = 1 + np.flatnonzero((loaded[1:] != left[:-1]).any(axis=1))
    loaded[wrong] = left[wrong - 1]
    return wrong
