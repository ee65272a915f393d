"""Drop blocks at random until the rest fits: the floor of what a policy must beat."""

from collections.abc import Sequence

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
        return self.propose_beside(observation, [rng] * len(observation))

    def propose_beside(
        self, observation: FloatArray, rngs: Sequence[np.random.Generator]
    ) -> BoolArray:
        """The same of lanes that each draw from their own, as `at_once.in_step` asks."""
        seen, footprint = self._briefing.read(observation), self._briefing.footprint
        dense = np.ones((len(observation), self._briefing.layout.blocks), dtype=bool)
        used = footprint.used_bytes(dense, seen.tokens, seen.prompt_tokens)
        excess = used + footprint.margin_bytes - seen.limit_bytes
        order = np.array([rng.permuted(self._droppable) for rng in rngs])
        freed = np.take_along_axis(footprint.block_bytes(seen.tokens), order, axis=1)
        np.put_along_axis(dense, order, shield.cut(freed, excess), axis=1)
        return dense
