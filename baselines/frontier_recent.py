"""Frontier lookup that leaves free what memory has lately lost within a row.

The limit is seen at a row's first second and moves during the row. How far it fell below its first
second in the worst of the rows that are seen says how far it may fall in this one: a share of that
stays free, beside a fixed margin. Quiet times cost little margin, bursts bring more.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.policies.policy import Briefing
from rapgym.policies.reference import Lookup
from rapgym.rollout import tuning as rollout_tuning

if TYPE_CHECKING:
    from rapgym.world.tally import Tally

MARGINS = (0.0, 0.005, 0.01, 0.015, 0.02, 0.03)  # shares of the card
SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)  # of the deepest recent fall
_tried = np.meshgrid(MARGINS, SHARES, indexing="ij")
SETTINGS = dict(zip(("margin", "share"), (a.ravel() for a in _tried), strict=True))


class FrontierRecent:
    """At each row the best set of the grid that fits beside a margin from the recent past."""

    lanes_apart = True

    def __init__(self, margin: float | FloatArray, share: float | FloatArray) -> None:
        """[B] each where lanes try several settings.

        Args:
            margin: share of the card that is always left free.
            share: of the deepest fall within one of the rows seen, left free beside that.
        """
        self._margin, self._share = margin, share

    def reset(self, batch: int, briefing: Briefing) -> None:
        self._briefing, self._lookup = briefing, Lookup(briefing)

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        free = self._free_bytes(self._deepest(observation))
        return self._lookup.kept(observation, free)

    @property
    def tally_sets(self) -> BoolArray:
        return self._lookup.frontier.kept

    def tally(
        self, kept: "Tally", observation: FloatArray, row: IntArray, limit_row: IntArray
    ) -> None:
        """Serve rows in a lane for each setting, see `rollout.at_once.Tallied`."""
        free = self._free_bytes(self._deepest(observation)[:, None])
        kept.serve(row, limit_row, self._lookup.chosen_beside(observation, free))

    def _deepest(self, observation: FloatArray) -> IntArray:
        """How far the limit fell in the worst of the rows that are seen, [B]."""
        window_s = self._briefing.layout.window_s
        seen = self._briefing.read(observation).recent_limit_bytes
        recent = seen.reshape(len(observation), -1, window_s)
        found: IntArray = (recent[:, :, 0] - recent.min(axis=2)).max(axis=1)
        return found

    def _free_bytes(self, deepest: IntArray) -> IntArray:
        margin = self._margin * self._briefing.layout.card_bytes
        return np.ceil(margin + self._share * deepest).astype(np.int64)


def tune(briefing: Briefing) -> dict[str, Any]:
    """The settings with the least cost on the briefing's split."""
    return rollout_tuning.best_settings(FrontierRecent, SETTINGS, briefing)
