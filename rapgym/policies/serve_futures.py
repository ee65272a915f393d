"""Model-predictive control of the serving engine: the counts of least expected loss over sampled futures.

How the limit goes on is taken from the seconds of train whose past was most like the present. Demand
goes on as it is, or as the prompts of the last seconds would have it. What is held in memory decides;
queues, deadlines and histories inside the futures are left out.
"""

from itertools import pairwise

import numpy as np

from rapgym.arrays import FloatArray, IntArray
from rapgym.policies.serving import Grid, ServeBriefing, ServeReading, decisions
from rapgym.serving.world import ServeWorld

BACK_S = (5, 15)  # over which the past's fall or rise is compared
AHEAD_S = (0, 5, 15, 30)  # edges of the stretches of a future: of each the lowest limit counts
SAMPLES = 8  # futures of each decision
MOST_PASTS = 4000  # of train, evenly spread

Number = float | FloatArray


class Futures:
    """Least mean loss over what memory did next where it had done as now, and over the demand to come."""

    def __init__(self, margin: Number, demand: Number, price: Number, later: Number) -> None:
        """As a `Lookup`; later: what a second after the first stretch counts, over one in it.

        Args:
            demand: share of the queue, and of prompts that arrive faster than in the mean, that counts.
        """
        self._margin, self._demand, self._price, self._later = margin, demand, price, later

    def reset(self, batch: int, briefing: ServeBriefing) -> None:
        world = briefing.train
        self._briefing, self._grid = briefing, Grid.of(world)
        self._pasts, self._changes = pasts(world)
        self._margin_bytes = np.asarray(self._margin) * world.card_bytes

    def decide(self, observation: FloatArray, rng: np.random.Generator) -> IntArray:
        seen = self._briefing.read(observation)
        attention, ffn = self._grid.least(self._loss(seen))
        return decisions(attention, ffn)

    def futures(self, seen: ServeReading) -> FloatArray:
        """The lowest limit in each stretch of each sampled future, bytes, [B, SAMPLES, K]."""
        now = past_of(seen.limits_bytes, self._briefing.train.card_bytes)
        apart = ((now[:, None] - self._pasts) ** 2).sum(axis=2)
        count = min(SAMPLES, len(self._pasts))
        nearest = np.argpartition(apart, count - 1, axis=1)[:, :count]
        found: FloatArray = seen.limit_bytes[:, None, None] + self._changes[nearest]
        return found

    def _loss(self, seen: ServeReading) -> FloatArray:
        """Nats a token of demand at each pair of counts, mean over futures, [B, A + 1, F + 1]."""
        grid, lanes = self._grid, len(seen.limit_bytes)
        margin = np.broadcast_to(self._margin_bytes, lanes)
        price = np.broadcast_to(np.asarray(self._price) * grid.ceiling, lanes)
        demand = np.broadcast_to(np.asarray(self._demand, dtype=np.float64), lanes)
        later = np.broadcast_to(np.asarray(self._later, dtype=np.float64), lanes)
        limits = self.futures(seen) - margin[:, None, None]
        held = seen.held_tokens + seen.prefill_tokens + demand * seen.queued_tokens
        surplus = seen.prompts_per_s - self._briefing.train.means.prompt_tokens
        total, weights = np.zeros((lanes, *grid.nll.shape)), np.zeros(lanes)
        for stretch, (begin_s, end_s) in enumerate(pairwise(AHEAD_S)):
            weight = (end_s - begin_s) * (np.ones(lanes) if begin_s == 0 else later)
            grown = held + demand * surplus * (begin_s + end_s) / 2
            asked = np.maximum(grown, 1.0)
            for sample in range(limits.shape[1]):
                loss = grid.loss(asked, limits[:, sample, stretch], price)
                total += weight[:, None, None] * loss
            weights += weight * limits.shape[1]
        return total / weights[:, None, None]


def past_of(limits_bytes: FloatArray, card_bytes: float) -> FloatArray:
    """What of a past is compared: the limit, and its rise over `BACK_S`, over the card.

    Args:
        limits_bytes: by the second, the newest last, [..., at least BACK_S[-1] + 1].

    Returns:
        [..., 1 + len(BACK_S)].
    """
    now = limits_bytes[..., -1]
    rises = [now - limits_bytes[..., -1 - back] for back in BACK_S]
    return np.stack([now, *rises], axis=-1) / card_bytes


def pasts(world: ServeWorld) -> tuple[FloatArray, FloatArray]:
    """Pasts of train, [M, 3], and how the limit went on: the lowest of each stretch less that before it.

    Bytes, [M, K]; of seconds whose past and future lie in one span. A world too short for one has a
    single past, after which nothing changes.
    """
    back, ahead = BACK_S[-1] + 1, AHEAD_S[-1]
    counts = [max(0, span.seconds - ahead - back + 1) for span in world.spans]
    ends = np.cumsum(counts)
    if not ends[-1]:
        return np.zeros((1, 1 + len(BACK_S))), np.zeros((1, len(AHEAD_S) - 1))
    chosen = np.unique(np.linspace(0, ends[-1] - 1, min(MOST_PASTS, ends[-1])).astype(int))
    seen, changes = [], []
    for place in chosen.tolist():
        index = int(np.searchsorted(ends, place, side="right"))
        limits, second = (
            world.spans[index].limit_bytes,
            back + place - int(ends[index] - counts[index]),
        )
        past = limits[second - back : second].astype(np.float64)
        seen.append(past_of(past, world.card_bytes))
        lowest = [limits[second + a : second + b].min() for a, b in pairwise(AHEAD_S)]
        changes.append(np.array(lowest, dtype=np.float64) - past[-1])
    return np.array(seen), np.array(changes)
