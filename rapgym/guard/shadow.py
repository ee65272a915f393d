"""What decisions cost on trajectories of their own: the reference policy's, and a policy's in shadow.

The reference is judged as if it had decided every row since the start, each policy as if it had from
the row on in which it last did. A single row compared from the same state would not be fair: who
inherits a nearly empty memory pays a stall to fill it, so a policy that drops everything would make
the reference look as dear as itself, row after row, and one that thrashes would never be charged for
what its drops cost the row after. On its own trajectory each pays for its own stalls.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rapgym.arrays import BoolArray
from rapgym.guard.watchdog import Costs
from rapgym.world import pace, reward, shield, simulator, stall
from rapgym.world.records import State, World
from rapgym.world.shield import Reason

if TYPE_CHECKING:
    from rapgym.world.twin import Twin

SPARE = 0.1  # of the dense weights: memory is ample where so much is left beside dense


class Shadows:
    """Two simulated worlds beside the served one, calibration columns; neither changes a decision."""

    def __init__(self, world: World, start: State) -> None:
        """Both trajectories begin where the served one does."""
        self._world = world
        self.policy = self.reference = start
        self._twin: Twin | None = None

    @property
    def twin(self) -> "Twin | None":
        """The compiled twin, where it is loaded."""
        if self._twin is None and pace.is_loaded():
            self._twin = pace.twin_for(self._world, pace.REFERENCE_ROWS)
        return self._twin

    def foreseen(self, proposal: BoolArray, instead: BoolArray, strict: BoolArray) -> Costs:
        """What both decisions cost a token should memory stay as it is in the row's first second.

        Args:
            proposal: the policy's, bool [B, N]; instead: the reference's, likewise.
            strict: lanes whose policy is refused rather than repaired, [B].
        """
        world, state = self._world, self.reference
        twin, lanes = self.twin, state.lanes
        if twin is not None:
            share = twin.foreseen(self.policy, proposal, strict, state.loaded, instead)
            return Costs(share[:lanes], share[lanes:])
        asked = world.demand(state)
        costs = world.footprint.block_bytes(asked.tokens)
        limit = world.rows.limit_bytes[state.limit_row, 0]
        budget = world.footprint.budget_bytes(limit, asked.prompt_tokens)
        source = np.zeros(2 * state.lanes, dtype=np.int64)
        decision = shield.decide(
            np.concatenate([proposal, instead]),
            np.concatenate([costs, costs]),
            np.tile(budget, 2),
            world.quality.order,
            source,
            np.concatenate([strict, np.zeros_like(strict)]),
        )
        loaded = np.concatenate([self.policy.loaded, state.loaded])
        returning = stall.returning_bytes(world.footprint, loaded, decision.kept)
        stalled = stall.row_share(world, returning)
        loss = reward.token_loss(world.quality.nll(decision.kept)[0], world.ceiling)
        share = loss / world.ceiling
        share = np.where(decision.refused, 1.0, share + stalled * (1.0 - share))
        return Costs(*share.reshape(2, -1))

    def serve(self, proposal: BoolArray, instead: BoolArray, strict: BoolArray) -> Costs:
        """Serve the row on both trajectories; arguments as `foreseen` has them."""
        both = self.policy.beside(self.reference)
        proposals = np.concatenate([proposal, instead])
        own = np.concatenate([strict, np.zeros_like(strict)])
        if self.twin is None:
            following, outcome = simulator.step(self._world, both, proposals, None, own)
        else:
            source = np.full(both.lanes, Reason.POLICY, dtype=np.int64)
            following, outcome = self.twin.step(both, proposals, source, own)
        lanes = len(proposal)
        self._before, self._kept_end = self.reference, outcome.kept_end[:lanes]
        self.policy = following.at(slice(lanes))
        self.reference = following.at(slice(lanes, None))
        return Costs(*(outcome.terms.total / self._world.ceiling).reshape(2, -1))

    def wasted(self, costs: Costs) -> BoolArray:
        """Lanes whose last row had ample memory, which the policy left unused at a price, bool [B]."""
        world, state = self._world, self._before
        asked = world.demand(state)
        dense = world.footprint.used_bytes(
            np.ones((state.lanes, world.blocks), dtype=bool), asked.tokens, asked.prompt_tokens
        )
        spare = int(SPARE * world.footprint.weights.sum())
        needed = dense + world.footprint.margin_bytes + spare
        ample: BoolArray = world.limits(state).min(axis=1) >= needed
        return ample & ~self._kept_end.all(axis=1) & (costs.policy > costs.reference)

    def follow(self, decides: BoolArray, served: State) -> None:
        """Where the policy decides, its trajectory is the served one: [B], and the state after the row."""
        loaded = np.where(decides[:, None], served.loaded, self.policy.loaded)
        self.policy = replace(self.policy, loaded=loaded)
