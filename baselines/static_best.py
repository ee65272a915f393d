"""The best single static kept set in two forms: refused where it misfits, as pruned models are
deployed today, and repaired by the shield."""

from typing import Any

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.model import blocks
from rapgym.policies.policy import Briefing
from rapgym.rollout import tuning as rollout_tuning


class StaticRepaired:
    """One kept set for good; where it does not fit, the shield cuts it."""

    lanes_apart = True

    def __init__(self, kept: str) -> None:
        """`kept`: key of the set, as it was found on train for this form."""
        self._key = kept

    def reset(self, batch: int, briefing: Briefing) -> None:
        self._kept = blocks.kept_of(self._key, briefing.layout.blocks)

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        return np.tile(self._kept, (len(observation), 1))


class StaticBest(StaticRepaired):
    """One kept set for good, refused where it does not fit."""

    on_misfit = "refuse"


def tune(briefing: Briefing) -> dict[str, Any]:
    """The set of least cost on the briefing's split where a misfit is refused."""
    return _best_set(briefing, refuses_misfit=True)


def tune_repaired(briefing: Briefing) -> dict[str, Any]:
    """The set of least cost on the briefing's split where a misfit is repaired."""
    return _best_set(briefing, refuses_misfit=False)


def _best_set(briefing: Briefing, *, refuses_misfit: bool) -> dict[str, Any]:
    """The best of the grid and of the joint order's prefixes."""
    quality = briefing.quality
    n = briefing.layout.blocks
    prefixes = np.ones((len(quality.order) + 1, n), dtype=bool)
    for count, block in enumerate(quality.order, start=1):
        prefixes[count:, block] = False
    candidates = np.concatenate([quality.grid_kept.reshape(-1, n), prefixes])
    candidates = np.unique(candidates, axis=0)
    costs = rollout_tuning.fixed_sets_cost(
        briefing.train,
        candidates,
        refuses_misfit=refuses_misfit,
        offsets=briefing.scenario.offsets,
    )
    return {"kept": blocks.key(candidates[int(costs.argmin())])}
