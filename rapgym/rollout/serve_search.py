"""Search that knows the future: what a plan costs that has seen every request and every limit.

Not a bound: each search tries constant decisions over a horizon and keeps the best for a while, so that a
policy may beat it. Several are run, and the least counts.
"""

from dataclasses import dataclass

import numpy as np

from rapgym.arrays import FloatArray, IntArray
from rapgym.files.compiled import compiled
from rapgym.policies.serving import ServeBriefing
from rapgym.serving import kernel
from rapgym.serving.engine import DROP, PREEMPT
from rapgym.serving.kernel import Lane, World
from rapgym.serving.world import Part, ServeWorld


@dataclass(frozen=True, slots=True)
class Search:
    """How far a search looks, how long it holds a decision, and among how many counts it chooses."""

    horizon_s: int
    hold_s: int
    attention: int  # counts tried, evenly spread
    ffn: int

    @property
    def name(self) -> str:
        return (
            f"sees {self.horizon_s} s, holds {self.hold_s} s, {self.attention} x {self.ffn} counts"
        )

    def candidates(self, world: ServeWorld) -> IntArray:
        """Decisions that are tried: dropping blocks as memory falls, and today's engine, int64 [M, 3]."""
        attention = np.unique(np.linspace(0, world.attention, self.attention).astype(np.int64))
        ffn = np.unique(np.linspace(0, world.ffn, self.ffn).astype(np.int64))
        pairs = [(a, f, DROP) for a in attention.tolist() for f in ffn.tolist()]
        return np.array([(0, 0, PREEMPT), *pairs], dtype=np.int64)


SEARCHES = (Search(8, 1, 5, 7), Search(15, 3, 5, 7), Search(30, 5, 5, 7))


@compiled
def _worth(w: World, lane: Lane, first: int) -> float:
    """Cost so far of requests from `first` on, and of tokens that are late already and not made."""
    now_s, rates, total = lane.number[kernel.NOW_S], w.rates, 0.0
    for request in range(first, lane.counts[kernel.ARRIVED]):
        total += lane.cost[request]
        if not np.isnan(lane.shed_s[request]):
            continue
        due_s = w.arrival_s[request] + rates[3] + rates[4] * w.prompt[request]
        for index in range(lane.made[request], w.output[request]):
            late_s = now_s - due_s - index * rates[5]
            if late_s <= 0:
                break
            total += rates[2] * min(1.0, late_s / rates[6])
    return total


@compiled
def _first_open(w: World, lane: Lane, first: int) -> int:
    """The first request, from `first` on, that is neither served nor shed."""
    while first < lane.counts[kernel.ARRIVED] and (
        lane.made[first] == w.output[first] or not np.isnan(lane.shed_s[first])
    ):
        first += 1
    return first


def plan(world: ServeWorld, part: Part, search: Search) -> IntArray:
    """The decision of each second of a part that a search finds, int64 [S, 3].

    Args:
        world: with the columns by which it judges: a policy's or the scorer's.
    """
    served, lane = world.served(part)
    scratch = Lane._make(each.copy() for each in lane)
    tried, decisions = search.candidates(world), np.zeros((part.seconds, 3), dtype=np.int64)
    first = 0
    for second in range(0, part.seconds, search.hold_s):
        best, least = tried[0], np.inf
        for decision in tried:
            for into, state in zip(scratch, lane, strict=True):
                into[...] = state
            kernel.run(served, scratch, float(second + search.horizon_s), *decision.tolist())
            found = _worth(served, scratch, first)
            if found < least - 1e-9:
                best, least = decision, found
        until = min(second + search.hold_s, part.seconds)
        decisions[second:until] = best
        for stop in range(second + 1, until + 1):
            kernel.run(served, lane, float(stop), *best.tolist())
        first = _first_open(served, lane, first)
    return decisions


class Planned:
    """Plays plans, one a lane."""

    def __init__(self, plans: list[IntArray]) -> None:
        self._plans, self._second = plans, 0

    def reset(self, batch: int, briefing: ServeBriefing) -> None:
        assert batch == len(self._plans)
        self._second = 0

    def decide(self, observation: FloatArray, rng: np.random.Generator) -> IntArray:
        second, self._second = self._second, self._second + 1
        return np.stack([plan[min(second, len(plan) - 1)] for plan in self._plans])
