"""The best single static kept set, as pruned models are deployed today: refused where it misfits."""

from typing import Any

import numpy as np

from rapgym import blocks, rollout
from rapgym.policies.policy import Briefing
from rapgym.specs import BoolArray, FloatArray


class StaticBest:
    """One kept set for good."""

    on_misfit = "refuse"

    def __init__(self, kept: str) -> None:
        """`kept`: key of the set, as `tune` found it on the train split."""
        self._key = kept

    def reset(self, batch: int, briefing: Briefing) -> None:
        self._kept = blocks.kept_of(self._key, briefing.layout.blocks)

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        return np.tile(self._kept, (len(observation), 1))


def tune(briefing: Briefing) -> dict[str, Any]:
    """The set of the grid or of the joint order with the least cost on the train split."""
    quality = briefing.quality
    n = briefing.layout.blocks
    prefixes = np.ones((len(quality.order) + 1, n), dtype=bool)
    for count, block in enumerate(quality.order, start=1):
        prefixes[count:, block] = False
    candidates = np.concatenate([quality.grid_kept.reshape(-1, n), prefixes])
    candidates = np.unique(candidates, axis=0)
    costs = rollout.fixed_sets_cost(
        briefing.train, candidates, refuses_misfit=True, offsets=briefing.scenario.offsets
    )
    return {"kept": blocks.key(candidates[int(costs.argmin())])}
