"""Frontier lookup that leaves part of the memory free, so that fewer emergencies happen."""

from typing import TYPE_CHECKING, Any

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.policies.policy import Briefing
from rapgym.policies.reference import Lookup
from rapgym.rollout import tuning as rollout_tuning

if TYPE_CHECKING:
    from rapgym.world.tally import Tally

MARGINS = np.round(np.concatenate([np.arange(0, 0.05, 0.0025), np.arange(0.05, 0.325, 0.01)]), 4)


class FrontierMargin:
    """At each row the best measured set of the grid that fits into the limit less a fixed margin."""

    lanes_apart = True

    def __init__(self, margin: float | FloatArray) -> None:
        """`margin`: share of the card left free, as `tune` found it on the train split; [B] where
        lanes try several."""
        self._margin = margin

    def reset(self, batch: int, briefing: Briefing) -> None:
        self._lookup = Lookup(briefing)
        self._free_bytes = np.asarray(self._margin * briefing.layout.card_bytes).astype(np.int64)

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        return self._lookup.kept(observation, self._free_bytes)

    @property
    def tally_sets(self) -> BoolArray:
        return self._lookup.frontier.kept

    def tally(
        self, kept: "Tally", observation: FloatArray, row: IntArray, limit_row: IntArray
    ) -> None:
        """Serve rows in a lane for each margin, see `rollout.at_once.Tallied`."""
        kept.serve(row, limit_row, self._lookup.chosen_beside(observation, self._free_bytes))


def tune(briefing: Briefing) -> dict[str, Any]:
    """The margin with the least cost on the briefing's split."""
    return rollout_tuning.best_settings(FrontierMargin, {"margin": MARGINS}, briefing)
