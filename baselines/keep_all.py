"""Keep everything and let the shield cut: what safety alone gives, without any policy."""

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.policies.policy import Briefing


class KeepAll:
    """Proposes the dense model at every row."""

    lanes_apart = True

    def reset(self, batch: int, briefing: Briefing) -> None:
        self._blocks = briefing.layout.blocks

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        return np.ones((len(observation), self._blocks), dtype=bool)
