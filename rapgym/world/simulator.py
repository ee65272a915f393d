"""The world as a pure function: one trace row served in each of B lanes."""

from dataclasses import replace
from typing import Protocol

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.model.memory import spent
from rapgym.world import reward, shield, stall
from rapgym.world.records import Fall, Outcome, State, World
from rapgym.world.reward import Seconds
from rapgym.world.shield import Reason


def step(
    world: World,
    state: State,
    proposal: BoolArray,
    source: IntArray | None = None,
    refuses_misfit: BoolArray | None = None,
) -> tuple[State, Outcome]:
    """Serve one row in each of B lanes: no randomness, no effects.

    Args:
        proposal: bool [B, N], what the policy would keep; bits of the floor are ignored.
        source: whose proposal it is (`shield.Reason`), [B]; the policy's unless stated.
        refuses_misfit: lanes whose policy is refused rather than repaired, [B]; none unless stated.

    Returns:
        The state before the next row, rows advanced by one and turned at the end of the split,
        and what happened.
    """
    row = Row(world, state, proposal, source, refuses_misfit)
    nll, measured = world.quality.nll(row.decision.kept)
    seconds = row.serve(nll)
    row.unload_refused()
    used = world.footprint.used_bytes(
        row.decision.kept, row.demand.tokens, row.demand.prompt_tokens
    )
    measured = (measured | row.decision.refused) & row.measured
    return row.following, row.outcome(used, nll, measured, seconds)


class Step(Protocol):
    """What serves a row: `step` above in the simulated world, or a live model."""

    def __call__(
        self,
        world: World,
        state: State,
        proposal: BoolArray,
        source: IntArray | None = None,
        refuses_misfit: BoolArray | None = None,
        /,
    ) -> tuple[State, Outcome]:
        """As `step`."""


class Row:
    """One row in all lanes at once while its seconds pass: `kept` and `refused_from` change."""

    def __init__(
        self,
        world: World,
        state: State,
        proposal: BoolArray,
        source: IntArray | None = None,
        refuses_misfit: BoolArray | None = None,
    ) -> None:
        """Let the shield decide; arguments as those of `step`."""
        lanes = state.lanes
        source = np.full(lanes, Reason.POLICY) if source is None else source
        strict = np.zeros(lanes, dtype=bool) if refuses_misfit is None else refuses_misfit
        self.world, self.state, self.proposal, self.strict = world, state, proposal, strict
        self.demand = world.demand(state)
        self.limits = world.limits(state)
        self.costs = world.footprint.block_bytes(self.demand.tokens)
        prompts = self.demand.prompt_tokens[:, None]
        self.budgets = world.footprint.budget_bytes(self.limits, prompts)
        self.decision = shield.decide(
            proposal, self.costs, self.budgets[:, 0], world.quality.order, source, strict
        )
        self.kept = self.decision.kept.copy()
        self.measured = np.ones(lanes, dtype=bool)
        # First second that is not served because the batch was refused; W where it never was.
        self.refused_from = np.where(self.decision.refused, 0, world.window_s)
        self.falls: list[Fall] = []

    def serve(self, nll: FloatArray) -> Seconds:
        """Let the row's seconds pass.

        Args:
            nll: of `kept` as it is now, [B].
        """
        window_s, lanes = self.world.window_s, len(self.costs)
        loss = reward.token_loss(nll, self.world.ceiling)
        returning = stall.returning_bytes(self.world.footprint, self.state.loaded, self.kept)
        stall_left = stall.stall_s(self.world, returning)
        most = self.budgets.min(axis=1)
        eventful = (self.refused_from == 0) | (spent(self.kept, self.costs) > most)
        stalled = np.where(eventful, 0.0, np.minimum(stall_left, window_s))
        seconds = Seconds(
            loss=np.where(eventful, 0.0, (window_s - stalled) * loss),
            stall=stalled,
            emergency=np.zeros(lanes),
            refused=np.zeros(lanes),
        )
        if eventful.any():
            self._serve_eventful(eventful, stall_left, loss, seconds)
        return seconds

    def fall(self, second: int, lanes: BoolArray) -> BoolArray:
        """Meet the limit of a second: blocks go at once, or the rest of the batch is refused.

        Args:
            lanes: which of them this is asked of, [B].

        Returns:
            Lanes in which blocks had to go, [B].
        """
        budget = self.budgets[:, second]
        falls = lanes & (self.refused_from > second) & (spent(self.kept, self.costs) > budget)
        if falls.any():
            where = np.flatnonzero(falls)
            before, costs, budget = self.kept[where], self.costs[where], budget[where]
            kept = shield.fit(before, costs, budget, self.world.quality.order)
            refused = self.strict[where] | (spent(kept, costs) > budget)
            if refused.any():
                kept[refused] = self.world.floor
                self.refused_from[where[refused]] = second
                falls[where] = ~refused
            self.kept[falls] = kept[~refused]
            self.falls.append(Fall(second, where, before, kept, refused))
        return falls

    def paused_s(self, falls: BoolArray) -> FloatArray:
        """How much of a second is not served while blocks go, in lanes that lose some, s: [B]."""
        return np.where(falls, stall.pause_s(self.world), 0.0)

    def _serve_eventful(
        self, lanes: BoolArray, stall_left: FloatArray, loss: FloatArray, seconds: Seconds
    ) -> None:
        """Second by second, for lanes that are refused or lose memory in mid-row."""
        for second in range(self.world.window_s):
            falls = self.fall(second, lanes)
            if falls.any():
                nll, measured = self.world.quality.nll(self.kept[falls])
                loss[falls] = reward.token_loss(nll, self.world.ceiling)
                self.measured[falls] &= measured
            refused, paused_s = lanes & (self.refused_from <= second), self.paused_s(falls)
            serving = lanes & ~refused
            able_s = np.where(serving, 1.0 - paused_s, 0.0)
            stalled = stall.in_second(stall_left, able_s)
            stall_left -= stalled
            seconds.refused[refused] += 1
            seconds.emergency[...] += paused_s
            seconds.stall[...] += stalled
            seconds.loss[...] += np.where(serving, (able_s - stalled) * loss, 0.0)

    def unload_refused(self) -> None:
        """What stays in memory after a refusal: the floor, or a strict policy's own set.

        Only blocks that were there can stay. They hold no KV cache now; where their weights still
        do not fit, a strict policy falls back to the floor, and floor blocks go, the last first.
        """
        refused = self.refused_from < self.world.window_s
        if not refused.any():
            return
        floor, weights = self.world.floor, self.world.footprint.weights
        present = np.where((self.refused_from == 0)[:, None], self.state.loaded, self.kept)
        seconds_left = np.arange(self.world.window_s) >= self.refused_from[:, None]
        # `budgets` leaves room for the activations of prompts that are gone: a safe estimate.
        lowest = np.where(seconds_left, self.budgets, np.iinfo(np.int64).max).min(axis=1)
        own = present & (self.proposal | floor)
        own_fits = spent(own, weights) <= lowest
        stays = np.where((self.strict & own_fits)[:, None], own, present & floor)
        last_first = np.concatenate([self.world.quality.order, np.flatnonzero(floor)[::-1]])
        stays = shield.fit(stays, np.broadcast_to(weights, stays.shape), lowest, last_first)
        self.kept[refused] = stays[refused]

    @property
    def following(self) -> State:
        """The state before the next row, once this one has ended."""
        rows = len(self.world.rows)
        return replace(
            self.state,
            row=(self.state.row + 1) % rows,
            limit_row=(self.state.limit_row + 1) % rows,
            loaded=self.kept,
        )

    def outcome(
        self, used_bytes: IntArray, nll: FloatArray, measured: BoolArray, seconds: Seconds
    ) -> Outcome:
        """What happened, once the row has ended.

        Args:
            used_bytes: of the kept set at the row's start; ignored where refused, [B].
            nll, measured: as `Outcome` has them, [B].
        """
        output_tokens = self.world.rows.output_tokens[self.state.row]
        weight = output_tokens / self.world.mean_output_tokens
        return Outcome(
            proposal=self.proposal,
            kept=self.decision.kept,
            kept_end=self.kept,
            refused=self.decision.refused,
            reason=self.decision.reason,
            limit_bytes=self.limits[:, 0],
            used_bytes=np.where(self.decision.refused, 0, used_bytes),
            nll=nll,
            measured=measured,
            output_tokens=output_tokens,
            seconds=seconds,
            terms=reward.terms(seconds, self.world.window_s, self.world.ceiling, weight),
            falls=tuple(self.falls),
        )
