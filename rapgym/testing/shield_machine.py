"""A state machine that tries to break the shield's promises."""

from typing import ClassVar

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rapgym.arrays import BoolArray, IntArray
from rapgym.model import memory
from rapgym.testing import hostile, model
from rapgym.testing.witness import Tally
from rapgym.testing.world_machine import BYTE, SEEDS
from rapgym.world import shield
from rapgym.world.shield import Reason


class ShieldMachine(RuleBasedStateMachine):
    """The shield alone: costs, budgets and proposals of B lanes change, and it decides them all."""

    lanes: ClassVar[int] = 4
    tally: ClassVar[Tally] = Tally()

    @initialize(layers=st.integers(1, 5), seed=SEEDS, order_seed=SEEDS)
    def begin(self, layers: int, seed: int, order_seed: int) -> None:
        rng, self.n = np.random.default_rng(seed), 2 * layers
        # Sizes from a small pool, zero included, so that budgets are met exactly and blocks tie.
        self.weights: IntArray = rng.choice([0, 1, 2, 3, 5, 8, 10**12], self.n)
        self.tokens: IntArray = np.zeros(self.lanes, dtype=np.int64)
        order = np.random.default_rng(order_seed).permutation(self.n)
        self.order: IntArray = order[: int(rng.integers(0, self.n + 1))]
        self.budget: IntArray = np.full(self.lanes, int(self.weights.sum()))
        self.proposal: BoolArray = np.ones((self.lanes, self.n), dtype=bool)
        self.source: IntArray = np.full(self.lanes, int(Reason.POLICY))
        self.strict: BoolArray = np.zeros(self.lanes, dtype=bool)

    @property
    def costs(self) -> IntArray:
        even = np.arange(self.n) % 2 == 0
        return self.weights + np.where(even, self.tokens[:, None], 0)

    @rule(seed=SEEDS, most=st.sampled_from([1, 8, 1 << 40]))
    def tokens_come_and_go(self, seed: int, most: int) -> None:
        self.tokens = np.random.default_rng(seed).integers(0, most + 1, self.lanes)

    @rule(seed=SEEDS, more=BYTE)
    def the_tenant_takes_all_but_some_blocks(self, seed: int, more: int) -> None:
        kept = np.random.default_rng(seed).random((self.lanes, self.n)) < 0.5
        self.budget = memory.spent(kept, self.costs) + more

    @rule(lost=st.sampled_from([1, 5, 10**11]))
    def capacity_is_lost(self, lost: int) -> None:
        self.budget = self.budget - lost

    @rule()
    def memory_is_ample(self) -> None:
        self.budget = self.costs.sum(axis=1)

    @rule(seed=SEEDS, share=st.floats(0, 1))
    def a_policy_proposes(self, seed: int, share: float) -> None:
        self.proposal = np.random.default_rng(seed).random((self.lanes, self.n)) < share
        self.source = np.full(self.lanes, int(Reason.POLICY))

    @rule(name=st.sampled_from([*hostile.UNREADABLE]), seed=SEEDS)
    def a_policy_gives_what_is_no_proposal(self, name: str, seed: int) -> None:
        bits = np.random.default_rng(seed).random((self.lanes, self.n)) < 0.5
        if self.lanes == 1 and name == "generators":
            return
        answer = hostile.UNREADABLE[name](bits)
        assert shield.read_proposal(answer, self.n) is None
        self.source = np.full(self.lanes, int(Reason.FALLBACK))

    @rule(source=st.sampled_from([Reason.FALLBACK, Reason.WATCHDOG, Reason.OVERRIDE]), seed=SEEDS)
    def somebody_else_decides(self, source: Reason, seed: int) -> None:
        self.proposal = np.random.default_rng(seed).random((self.lanes, self.n)) < 0.7
        self.source = np.full(self.lanes, int(source))

    @rule(seed=SEEDS)
    def some_policies_declare_refusal(self, seed: int) -> None:
        self.strict = np.random.default_rng(seed).random(self.lanes) < 0.5

    @invariant()
    def it_keeps_its_promises(self) -> None:
        if not hasattr(self, "strict"):
            return
        arguments = (self.proposal, self.costs, self.budget, self.order, self.source, self.strict)
        before = [array.tobytes() for array in arguments]
        found, again = shield.decide(*arguments), shield.decide(*arguments)
        assert before == [array.tobytes() for array in arguments], "promise 4: arguments stay"
        for name in ("kept", "refused", "reason"):
            same = getattr(found, name).tobytes() == getattr(again, name).tobytes()
            assert same, "promise 4: deterministic"
        costs, order = self.costs.tolist(), self.order.tolist()
        floor = frozenset(range(self.n)) - {*order}
        for lane, proposal in enumerate(self.proposal.tolist()):
            kept = model.kept_of(found.kept[lane].tolist())
            self._recount(found, lane, model.kept_of(proposal), kept, costs[lane], order, floor)
        type(self).tally.decisions += self.lanes
        type(self).tally.reasons.update(Reason(r).name.lower() for r in found.reason.tolist())

    def _recount(
        self,
        found: shield.Decision,
        lane: int,
        proposal: model.Kept,
        kept: model.Kept,
        costs: list[int],
        order: list[int],
        floor: model.Kept,
    ) -> None:
        """One lane by the words of promises 1 to 3, and by the plain repair."""
        budget, wanted = int(self.budget[lane]), proposal | floor
        refused = bool(found.refused[lane])

        def spent(blocks: model.Kept) -> int:
            return sum(costs[block] for block in blocks)

        fits = spent(wanted) <= budget
        declared = bool(self.strict[lane]) and not fits
        assert refused == (spent(floor) > budget or declared), "promise 1: refused with cause alone"
        reason = Reason(found.reason[lane])
        if refused:
            assert (kept, reason) == (floor, Reason.REFUSED)
            return
        assert spent(kept) <= budget, "promise 1: safe"
        assert floor <= kept <= wanted, "promise 3: a subset of the proposal, plus the floor"
        assert not fits or kept == wanted, "promise 2: what fits is executed unchanged"
        for block in wanted - kept:
            assert spent(kept) + costs[block] > budget, "promise 3: nothing goes in vain"
        assert kept == model.fit(proposal, costs, budget, order), "promise 3: along the order"
        whose = Reason(self.source[lane])
        repaired = kept != wanted and whose == Reason.POLICY
        assert reason == (Reason.REPAIRED if repaired else whose)
