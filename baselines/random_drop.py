"""Drop blocks at random until the rest fits: the floor of what a policy must beat."""

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.policies.policy import Briefing
from rapgym.world import shield


class RandomDrop:
    """A fresh random order at every row; drops along it until what is kept fits."""

    in_step = True

    def reset(self, batch: int, briefing: Briefing) -> None:
        self._briefing = briefing
        self._droppable = briefing.quality.order

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        seen, footprint = self._briefing.read(observation), self._briefing.footprint
        dense = np.ones((len(observation), self._briefing.layout.blocks), dtype=bool)
        used = footprint.used_bytes(dense, seen.tokens, seen.prompt_tokens)
        excess = used + footprint.margin_bytes - seen.limit_bytes
        order = rng.permuted(np.tile(self._droppable, (len(observation), 1)), axis=1)
        freed = np.take_along_axis(footprint.block_bytes(seen.tokens), order, axis=1)
        np.put_along_axis(dense, order, shield.cut(freed, excess), axis=1)
        return dense
