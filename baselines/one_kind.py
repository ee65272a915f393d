"""Drop blocks of one kind alone, along the greedy order measured for that kind, until the rest fits.

What these two lose to a policy that drops both kinds is what choosing between them is worth. Where
all that may be dropped of a kind is not enough, the shield goes on along its own order.
"""

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.policies.policy import Briefing
from rapgym.world import shield


class AttentionOnly:
    """Drops as few attention blocks as it takes."""

    lanes_apart = True

    def reset(self, batch: int, briefing: Briefing) -> None:
        self._briefing, self._order = briefing, briefing.quality.attention_order

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        return _cut_along(self._order, self._briefing, observation)


class FfnOnly:
    """Drops as few FFN blocks as it takes."""

    lanes_apart = True

    def reset(self, batch: int, briefing: Briefing) -> None:
        self._briefing, self._order = briefing, briefing.quality.ffn_order

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        return _cut_along(self._order, self._briefing, observation)


def _cut_along(order: IntArray, briefing: Briefing, observation: FloatArray) -> BoolArray:
    """The dense set less the shortest prefix of `order` after which the rest fits, bool [B, N]."""
    seen, footprint = briefing.read(observation), briefing.footprint
    kept = np.ones((len(observation), briefing.layout.blocks), dtype=bool)
    used = footprint.used_bytes(kept, seen.tokens, seen.prompt_tokens)
    excess = used + footprint.margin_bytes - seen.limit_bytes
    kept[:, order] = shield.cut(footprint.block_bytes(seen.tokens)[:, order], excess)
    return kept
