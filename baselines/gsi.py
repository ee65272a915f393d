"""Greedy sequential importance in its fixed order: drop along it until the rest fits.

The order is the joint greedy order of the quality table, found once by measuring; it knows nothing
of the demand, so an FFN block goes before an attention block whatever the KV cache holds. In two
forms: repaired where memory falls inside a window, and refused.
"""

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.policies.policy import Briefing


class GreedyOrder:
    """Drops the shortest prefix of the joint greedy order after which the rest fits."""

    lanes_apart = True

    def reset(self, batch: int, briefing: Briefing) -> None:
        self._briefing = briefing
        self._order = briefing.quality.order

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        seen, footprint = self._briefing.read(observation), self._briefing.footprint
        kept = np.ones((len(observation), self._briefing.layout.blocks), dtype=bool)
        used = footprint.used_bytes(kept, seen.tokens, seen.prompt_tokens)
        excess = used + footprint.margin_bytes - seen.limit_bytes
        freed = footprint.block_bytes(seen.tokens)[:, self._order]
        kept[:, self._order] = np.cumsum(freed, axis=1) - freed >= excess[:, None]
        return kept


class GreedyOrderRefused(GreedyOrder):
    """The same decision; where it stops fitting inside a window, the rest of the batch is refused."""

    on_misfit = "refuse"
