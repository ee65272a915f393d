"""The mean of two estimates of what each set costs: by empirical futures, and by the network of hindsight.

Both say what a set of the frontier costs in this row and brings upon the next, nats an output token, from
the same table and the same rows of train: `forecast-plain` by what followed similar pasts, with a weight of
1 for all it counts, `hindsight` by its two curves. Their errors have little in common. What the network
says is known but for a number that is the same for all sets of a row, which moves no choice. Sets that
only one of them has an opinion on are left out; where none is left, `forecast-plain` decides.
"""

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray, first_of_least
from rapgym.baselines import hindsight
from rapgym.baselines.forecast import Plain
from rapgym.policies.policy import Briefing
from rapgym.policies.reference import frontier

NEAR = 2e-5  # nats: what compiled code does not tell apart, see `learning.hindsight.quick`


class Mean:
    """At each row the set of the frontier with the least mean of both estimates."""

    lanes_apart = True

    def __init__(self, file: str, sha256: str | None = None) -> None:
        """Arguments name a training run of `hindsight`."""
        self._forecast, self._hindsight = Plain(), hindsight.Agent(file, sha256)

    def reset(self, batch: int, briefing: Briefing) -> None:
        """Raises: InvalidPolicy: the run cannot read these observations."""
        self._forecast.reset(batch, briefing)
        self._hindsight.reset(batch, briefing)
        self._briefing, self._kept = briefing, frontier(briefing.quality).kept
        self._place = np.full(len(self._kept), -1)  # of each set of the frontier among hindsight's
        self._place[self._hindsight.of_frontier] = np.arange(len(self._hindsight.of_frontier))

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        seen = self._briefing.read(observation)
        chosen = np.empty(len(observation), dtype=np.int64)
        for lane, own in enumerate(observation):
            sets, cost = self._forecast.costs(seen, lane)
            quick = self._hindsight.quick_costs(own)
            choice = None if quick is None else self._choice(sets, cost, quick, near=NEAR)
            if choice is None:
                choice = self._choice(sets, cost, self._hindsight.costs(own)[0])
            assert choice is not None
            chosen[lane] = choice
        return self._kept[chosen]

    def _choice(
        self, sets: IntArray, cost: FloatArray, other: FloatArray, near: float = 0.0
    ) -> int | None:
        """Of the frontier; None where another is nearer to it than `near` nats.

        Args:
            sets, cost: those that one has an opinion on, and what they cost, [K].
            other: what each of hindsight's sets costs; infinite where it does not fit.
        """
        place = self._place[sets]
        second = np.where(place < 0, np.inf, other[place])
        mean = np.where(np.isfinite(second), (cost + second) / 2, np.inf)
        if not np.isfinite(mean).any():
            mean = cost
        if near and np.count_nonzero(mean <= mean.min() + near) > 1:
            return None
        return int(sets[first_of_least(mean)])
