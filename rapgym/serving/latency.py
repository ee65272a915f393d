"""How long requests waited, by percentiles, and what became of those that have no such times.

A percentile is over the requests that finished, of all parts together: their times are sorted as one
list, and NumPy's linear rule reads between two of them, as vLLM's own benchmark does. A request that was
shed, or had not ended when the engine gave up, is in no percentile: what it never got has no time. It
is counted instead, and misses every service level. So percentiles are read beside those counts: a
policy that sheds what is slow has fast percentiles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rapgym.arrays import FloatArray, IntArray

if TYPE_CHECKING:
    from rapgym.serving.kernel import Lane, World

QUANTILES = (50, 95, 99)
# Of a percentile, s: what a results file holds, so that what is read gives the same scores.
DECIMALS = 9
TIMES = ("ttft", "tpot", "e2e")
PERCENTILES = tuple(f"{name}_p{share}_s" for name in TIMES for share in QUANTILES)
# Requests of a part: preempted at least once; with a first token by its deadline; finished, and from the
# first token to the last no slower than `tpot_s` a token.
COUNTED = ("preempted", "ttft_met", "tpot_met")
PREEMPTED, TTFT_MET, TPOT_MET = range(len(COUNTED))


def times(
    arrival_s: FloatArray, first_s: FloatArray, last_s: FloatArray, output_tokens: IntArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Seconds of requests that finished, [R] each, as `TIMES` names them.

    The first token's wait; the mean time of each further token, of requests that have one, so that it
    may be shorter; and from arrival to the last token.
    """
    several = output_tokens > 1
    paced = (last_s - first_s)[several] / (output_tokens[several] - 1)
    return first_s - arrival_s, paced, last_s - arrival_s


def percentiles(values: FloatArray) -> list[float]:
    """Of `QUANTILES`; NaN of nothing."""
    return (
        np.percentile(values, QUANTILES).tolist()
        if len(values)
        else [float("nan")] * len(QUANTILES)
    )


@dataclass(frozen=True, slots=True, eq=False)
class Waits:
    """What the requests of P parts waited for."""

    counts: FloatArray  # columns of `COUNTED`, by part; of several seeds their mean, [P, 3]
    percentiles: FloatArray  # `PERCENTILES` of all parts; NaN where no request has such a time, [9]


class Gathered:
    """Requests of parts, one part after the other, on their way to `Waits`."""

    def __init__(self) -> None:
        self._counts = list[list[int]]()
        self._times = list[tuple[FloatArray, FloatArray, FloatArray]]()

    def add(self, world: "World", lane: "Lane") -> None:
        """Take what became of every request of a part, once it has been served and drained."""
        arrival_s, (ttft_s, ttft_token_s, tpot_s) = world.arrival_s, world.rates[3:6].tolist()
        done = lane.made == world.output
        first_s, last_s, output = lane.first_s, lane.last_s, world.output
        due_s = arrival_s + ttft_s + ttft_token_s * world.prompt
        # Of an answer of one token there is no pace to miss.
        paced = (last_s - first_s)[done] <= tpot_s * (output[done] - 1)
        self._counts.append(
            [
                int(np.count_nonzero(lane.preemptions)),
                int(np.count_nonzero(first_s <= due_s)),  # not of NaN
                int(np.count_nonzero(paced)),
            ]
        )
        self._times.append(times(arrival_s[done], first_s[done], last_s[done], output[done]))

    def waits(self) -> Waits:
        """Of all parts that were added."""
        every = [np.concatenate(each) for each in zip(*self._times, strict=True)]
        found = np.concatenate([percentiles(each) for each in every])
        return Waits(np.array(self._counts, dtype=np.float64), np.round(found, DECIMALS))


def mean_of(seeds: Sequence[Waits]) -> Waits:
    """The mean over seeds, which served the same parts: of percentiles, each of all requests of its seed."""
    return Waits(
        np.mean([each.counts for each in seeds], axis=0),
        np.mean([each.percentiles for each in seeds], axis=0),
    )
