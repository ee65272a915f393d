"""Frontier lookup that restores late: what memory takes goes at once, what it gives is not trusted yet.

A plain lookup loads blocks back in the first row in which they fit, stalls for them, and drops them
again in the next burst. This one keeps what is in memory while it fits, and goes over to a better
set once such a set has fitted with room to spare for some rows on end.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.policies.policy import Briefing
from rapgym.policies.reference import Lookup
from rapgym.rollout import tuning as rollout_tuning

if TYPE_CHECKING:
    from rapgym.world.tally import Tally

# Shares of the card, and rows. Without headroom or patience it keeps a set only over worse ones.
MARGINS, HEADROOMS, PATIENCE = (0.0, 0.01, 0.02, 0.04), (0.0, 0.01, 0.03, 0.06), (1, 2, 4)
_tried = np.meshgrid(MARGINS, HEADROOMS, PATIENCE, indexing="ij")
SETTINGS = dict(zip(("margin", "headroom", "rows"), (a.ravel() for a in _tried), strict=True))


class FrontierHysteresis:
    """Keeps what is loaded while it fits; a better set comes back only after a proven while."""

    in_step = True

    def __init__(
        self,
        margin: float | FloatArray,
        headroom: float | FloatArray,
        rows: int | IntArray,
    ) -> None:
        """[B] each where lanes try several settings.

        Args:
            margin: share of the card always left free.
            headroom: share of the card that a set must leave free beyond that before it comes back.
            rows: for how many rows on end some better set must have done so.
        """
        self._margin, self._headroom, self._rows = margin, headroom, rows

    def reset(self, batch: int, briefing: Briefing) -> None:
        self._briefing, self._lookup = briefing, Lookup(briefing)
        self._frontier = self._lookup.frontier
        card = briefing.layout.card_bytes
        self._margin_bytes = np.asarray(self._margin * card).astype(np.int64)
        self._headroom_bytes = np.asarray(self._headroom * card).astype(np.int64)
        self._fitted = np.zeros(batch, dtype=np.int64)  # rows on end with a better set, [B]
        self._last = np.zeros(batch, dtype=np.int64)  # grid set proposed last, [B]

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        seen, footprint = self._briefing.read(observation), self._briefing.footprint
        quality, front = self._briefing.quality, self._frontier
        free = seen.limit_bytes - self._margin_bytes
        # After an emergency what is loaded is a set of the shield's, not of the grid; after a
        # refusal even a block of the floor may be gone.
        loaded = seen.loaded | quality.floor
        stays = (
            footprint.used_bytes(loaded, seen.tokens, seen.prompt_tokens) + footprint.margin_bytes
            <= free
        )
        safe = self._lookup.chosen(observation, self._margin_bytes + self._headroom_bytes)
        better = stays & (front.nll[safe] < self._nll(loaded))
        self._fitted = np.where(better, self._fitted + 1, 0)
        returns = better & (self._fitted >= self._rows)
        self._fitted[returns] = 0
        chosen = np.where(returns, safe, self._lookup.chosen(observation, self._margin_bytes))
        keeps = stays & ~returns
        self._last = np.where(keeps, self._last, chosen)
        return np.where(keeps[:, None], loaded, front.kept[chosen])

    @property
    def tally_sets(self) -> BoolArray:
        return self._frontier.kept

    def tally(
        self, kept: "Tally", observation: FloatArray, row: IntArray, limit_row: IntArray
    ) -> None:
        """Serve rows in a lane for each setting, see `rollout.at_once.Tallied`."""
        from rapgym.policies import quick_hysteresis

        lookup, margin, lanes = self._lookup, self._margin_bytes, len(self._fitted)
        safe = lookup.chosen_beside(observation, margin + self._headroom_bytes)
        chosen = lookup.chosen_beside(observation, margin)
        free = self._briefing.read(observation).limit_bytes[:, None] - margin
        patience = np.broadcast_to(self._rows, lanes).astype(np.int64)
        scratch = np.empty((2, lanes), dtype=np.int64)
        kept.drive(
            quick_hysteresis.serve, self._frontier.nll, patience, self._fitted, scratch[0],
            scratch[1], safe, chosen, free, row, limit_row,
        )  # fmt: skip

    def _nll(self, loaded: BoolArray) -> FloatArray:
        """Nats a token above dense, [B]; most lanes still hold the grid set they proposed last."""
        found = self._frontier.nll[self._last]
        other = (loaded != self._frontier.kept[self._last]).any(axis=1)
        if other.any():
            found[other] = self._briefing.quality.nll(loaded[other])[0]
        return found


def tune(briefing: Briefing) -> dict[str, Any]:
    """The settings with the least cost on the briefing's split."""
    return rollout_tuning.best_settings(FrontierHysteresis, SETTINGS, briefing)
