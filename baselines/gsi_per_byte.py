"""Greedy importance by nats per byte freed at this demand.

Where the KV cache is large an attention block frees much, where it is small an FFN block does: the
order of dropping follows the tokens in flight.
"""

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.policies.policy import Briefing
from rapgym.world import shield


class GreedyPerByte:
    """Drops the blocks with the least greedy importance per byte freed until the rest
    fits; what turns out not to be needed is given back."""

    lanes_apart = True

    def reset(self, batch: int, briefing: Briefing) -> None:
        self._briefing = briefing
        self._droppable = briefing.quality.order
        # An increment can be below zero: dropping that block helped, so it goes first.
        self._importance = briefing.quality.importance[self._droppable]

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        seen, footprint = self._briefing.read(observation), self._briefing.footprint
        kept = np.ones((len(observation), self._briefing.layout.blocks), dtype=bool)
        used = footprint.used_bytes(kept, seen.tokens, seen.prompt_tokens)
        excess = used + footprint.margin_bytes - seen.limit_bytes
        freed = footprint.block_bytes(seen.tokens)[:, self._droppable]
        order = np.argsort(self._importance / freed, axis=1, kind="stable")
        stays = shield.cut(np.take_along_axis(freed, order, axis=1), excess)
        np.put_along_axis(kept, self._droppable[order], stays, axis=1)
        return kept
