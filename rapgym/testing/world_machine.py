"""Hypothesis state machines: the whole life of the shield alone, and of a world whose rows are served.

`ShieldMachine` and `WorldMachine` are `RuleBasedStateMachine`s. After every rule all that is executed
has been recounted by the plain model (`witness`), and the six promises of DESIGN.md section 6 hold.
A subclass of `WorldMachine` says what serves the rows and how many lanes there are: simulator, many
lanes at once, a device.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from hypothesis import seed as seeded
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rapgym.arrays import BoolArray, IntArray
from rapgym.errors import InvalidTable
from rapgym.guard import guard
from rapgym.policies.policy import Policy
from rapgym.policies.reference import FrontierLookup
from rapgym.quality import file as table_file
from rapgym.quality.columns import QualityColumns
from rapgym.quality.table import QualityTable
from rapgym.testing import hostile, strategies
from rapgym.testing import worlds as made
from rapgym.testing.witness import Tally, Witness
from rapgym.world import encoding, simulator
from rapgym.world.records import State, World
from rapgym.world.shield import Reason
from rapgym.world.simulator import Step

DEADLINE_S = 0.05  # a decision that takes longer is replaced; nobody waits: lateness is an argument
ROUNDS = 5  # of lives, until enough was decided
SEEDS = st.integers(0, 1 << 32)
ROWS, SECONDS = st.integers(0, 5), st.integers(0, 3)  # taken modulo what a world has
COUNTS, BYTE = st.integers(0, 4), st.integers(-1, 1)


class WorldMachine(RuleBasedStateMachine):
    """A world while its rows are served: demand, memory, table and policies change under it."""

    lanes: ClassVar[int] = 2
    rows_at_once: ClassVar[int] = 2  # most rows that one rule serves
    is_live: ClassVar[bool] = False
    tally: ClassVar[Tally] = Tally()

    @staticmethod
    def served_by(world: World, loaded: BoolArray) -> Step:
        """What serves rows in this world, with these blocks in memory, bool [B, N]."""
        return simulator.step

    @initialize(world=strategies.tiny_worlds(), seed=SEEDS)
    def begin(self, world: World, seed: int) -> None:
        rng, rows = np.random.default_rng(seed), len(world.rows)
        self.state: State = world.state(
            rng.integers(rows, size=self.lanes),
            rng.integers(rows, size=self.lanes),
            rng.choice([0.9, 1.0, 1.1], self.lanes),
        )
        self.strict: BoolArray = np.zeros(self.lanes, dtype=bool)
        self.age = 0
        self.history: list[tuple[Any, ...]] = []
        self._now_in(world)

    def _now_in(self, world: World) -> None:
        """Go on in another world, or in the same one after a restart."""
        self.world = world
        self.briefing = made.briefing_of(world)
        self.reference = FrontierLookup()
        self.reference.reset(self.lanes, self.briefing)
        step = self.served_by(world, self.state.loaded.copy())
        self.step = Witness(step, type(self).tally, is_live=self.is_live)

    def _with_rows(self, **columns: IntArray) -> None:
        self._now_in(replace(self.world, rows=replace(self.world.rows, **columns)))

    # Demand and memory.

    @rule(
        row=ROWS, prompt=st.integers(0, 12), reserved=st.integers(0, 8), output=st.integers(0, 30)
    )
    def requests_arrive(self, row: int, prompt: int, reserved: int, output: int) -> None:
        rows, columns = self.world.rows, {}
        told = {"prompt_tokens": prompt, "reserved_tokens": reserved, "output_tokens": output,
                "longest_tokens": prompt + reserved, "batch": int(prompt > 0)}  # fmt: skip
        for name, value in told.items():
            columns[name] = getattr(rows, name).copy()
            columns[name][row % len(rows)] = value
        self._with_rows(**columns)

    @rule(factor=st.sampled_from([0, 2, 7, 1 << 20]))
    def demand_bursts(self, factor: int) -> None:
        rows = self.world.rows
        scaled = (rows.batch, rows.prompt_tokens + rows.reserved_tokens, rows.longest_tokens,
                  rows.output_tokens)  # fmt: skip
        largest = max(int(column.max()) for column in scaled)
        if largest * factor < 1 << 30:  # more is no trace that can be read
            scale = np.full(len(rows), factor, dtype=np.int64)
            self._now_in(made.with_demand(self.world, scale))

    @rule(row=ROWS, attention=COUNTS, ffn=COUNTS, more=BYTE)
    def the_tenant_takes_memory_between_windows(
        self, row: int, attention: int, ffn: int, more: int
    ) -> None:
        limits = self.world.rows.limit_bytes.copy()
        limits[row % len(limits)] = self._exact(row, attention, ffn) + more
        self._with_rows(limit_bytes=limits)

    @rule(row=ROWS, second=SECONDS, attention=COUNTS, ffn=COUNTS, more=BYTE)
    def the_tenant_takes_memory_inside_a_window(
        self, row: int, second: int, attention: int, ffn: int, more: int
    ) -> None:
        limits = self.world.rows.limit_bytes.copy()
        row, second = row % len(limits), second % limits.shape[1]
        limits[row, second] = self._exact(row, attention, ffn) + more
        self._with_rows(limit_bytes=limits)

    def _exact(self, row: int, attention: int, ffn: int) -> int:
        rows, layers = self.world.rows, self.world.footprint.layers
        row %= len(rows)
        return made.bytes_of(self.world, min(attention, layers), min(ffn, layers),
                             int(rows.prompt_tokens[row]), int(rows.reserved_tokens[row]))  # fmt: skip

    @rule(share=st.sampled_from([1, 2, 3, 1000]))
    def capacity_is_lost_for_good(self, share: int) -> None:
        limits = self.world.rows.limit_bytes
        self._with_rows(limit_bytes=limits - np.abs(limits) // share)

    @rule()
    def memory_is_ample_and_the_reference_recovers(self) -> None:
        """Promise 5: the reference policy is back at dense in the first row."""
        scale = float(self.state.token_scale.max())
        rows = self.world.rows
        tokens = int(np.ceil((rows.prompt_tokens + rows.reserved_tokens).max() * scale)) + 1
        layers = self.world.footprint.layers
        # Limits are seen in 32 bits: what is rounded away must not matter.
        ample = made.bytes_of(self.world, layers, layers, tokens, tokens) * 1001 // 1000 + 1000
        self._with_rows(limit_bytes=np.full_like(rows.limit_bytes, ample))
        if ample < made.STORY.card_gib * 1000 * encoding.LARGEST:  # beyond it is not seen
            _, outcome = self._serve(self._propose(self.reference), Reason.FALLBACK)
            assert outcome.kept.all(), "promise 5: dense once memory is ample"

    # Tables.

    @rule(number=st.integers(0, made.TABLES - 1), test=st.booleans())
    def the_table_is_another(self, number: int, test: bool) -> None:
        if number % 3 == self.world.footprint.layers - 2:
            table = made.tiny_table(number)
            self._read(table.test() if test else table.calibration())

    @rule(number=st.integers(0, made.TABLES - 1), lost=st.sampled_from(["row", "nll", "kl", "single"]),
          seed=SEEDS)  # fmt: skip
    def the_table_is_damaged(self, number: int, lost: str, seed: int) -> None:
        """Rows are missing, or a cell is: it is read, or refused and the old one stays."""
        if number % 3 != self.world.footprint.layers - 2:
            return
        found = damaged_table(number, lost, np.random.default_rng(seed))
        if found is not None:
            self._read(found)

    def _read(self, columns: QualityColumns) -> None:
        self._now_in(replace(self.world, quality=columns))

    # Policies.

    @rule(seed=SEEDS, rows=st.integers(1, 8))
    def a_fair_policy_serves(self, seed: int, rows: int) -> None:
        policy, rng = self._begun(hostile.Proposes()), np.random.default_rng(seed)
        for _ in range(max(rows, self.rows_at_once)):
            self._serve(*self._asked(policy, rng))

    @rule(name=st.sampled_from([*hostile.POLICIES]), seed=SEEDS, rows=st.integers(1, 8))
    def a_hostile_policy_serves(self, name: str, seed: int, rows: int) -> None:
        policy, rng = self._begun(hostile.POLICIES[name]()), np.random.default_rng(seed)
        strict = self.strict
        self.strict = np.full(self.lanes, guard.refuses_misfit(policy))
        for _ in range(1 + rows % self.rows_at_once):
            self._serve(*self._asked(policy, rng))
        self.strict = strict

    @rule(name=st.sampled_from([*hostile.UNREADABLE]), seed=SEEDS)
    def a_policy_returns_what_is_no_proposal(self, name: str, seed: int) -> None:
        policy = self._begun(hostile.Proposes(hostile.UNREADABLE[name]))
        proposal, source = self._asked(policy, np.random.default_rng(seed))
        # Of a single lane, some are ragged in no entry.
        assert (source == Reason.FALLBACK).all(), f"{name} was read as a proposal"
        self._serve(proposal, source)

    @rule(name=st.sampled_from([*hostile.READABLE]), seed=SEEDS)
    def a_policy_answers_in_an_odd_form(self, name: str, seed: int) -> None:
        policy = self._begun(hostile.Proposes(hostile.READABLE[name]))
        assert isinstance(policy, hostile.Proposes)
        proposal, source = self._asked(policy, np.random.default_rng(seed))
        assert (source == Reason.POLICY).all(), f"{name} was not read"
        assert policy.meant is not None
        assert (proposal == policy.meant).all()
        self._serve(proposal, source)

    @rule(seed=SEEDS)
    def some_policies_declare_refusal(self, seed: int) -> None:
        self.strict = np.random.default_rng(seed).random(self.lanes) < 0.3

    @rule(seed=SEEDS, share=st.sampled_from([0.0, 0.5, 1.0]))
    def an_operator_pins_a_set(self, seed: int, share: float) -> None:
        rng = np.random.default_rng(seed)
        pinned = rng.random((self.lanes, self.world.blocks)) < share
        self._serve(pinned, Reason.OVERRIDE)

    @rule()
    def the_watchdog_hands_over(self) -> None:
        self._serve(self._propose(self.reference), Reason.WATCHDOG)

    # Restarts.

    @rule(lane=st.integers(0, 63), row=ROWS)
    def an_episode_restarts(self, lane: int, row: int) -> None:
        state, lane = self.state, lane % self.lanes
        at, loaded = state.row.copy(), state.loaded.copy()
        at[lane], loaded[lane] = row % len(self.world.rows), True
        self.state = replace(state, row=at, loaded=loaded)
        self.age = 0
        self._now_in(self.world)

    @rule()
    def the_process_restarts(self) -> None:
        """What is known of lanes comes back as it was written, into a world made anew."""
        state = self.state
        again: list[Any] = [np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)
                 for array in (state.row, state.limit_row, state.token_scale, state.loaded)]  # fmt: skip
        self.state = State(*again)
        rows = self.world.rows
        self._with_rows(limit_bytes=rows.limit_bytes.copy())

    # What all of these stand on.

    def _begun(self, policy: Policy) -> Policy:
        guard.begin(policy, self.lanes, self.briefing)
        return policy

    def _observed(self) -> Any:
        age = np.full(self.lanes, self.age)
        seen = encoding.visible(self.world, self.state, age)
        observation = encoding.observe(self.world, self.briefing.layout, seen)
        layout = self.briefing.layout
        assert np.isfinite(observation).all()
        assert ((layout.low <= observation) & (observation <= layout.high)).all()
        return observation

    def _propose(self, policy: Policy) -> BoolArray:
        return policy.propose(self._observed(), np.random.default_rng(0))

    def _asked(self, policy: Policy, rng: np.random.Generator) -> tuple[BoolArray, IntArray]:
        """What a policy proposes, the reference in its place where that cannot be read or is late."""
        observation = self._observed()
        kept_safe = observation.copy()
        proposal, readable = guard.ask(policy, observation, rng, self.world.blocks)
        assert (observation == kept_safe).all(), "a policy cannot write into what was observed"
        if getattr(policy, "takes_s", 0.0) > DEADLINE_S:
            readable = np.zeros_like(readable)
        if not readable.all():
            instead = self.reference.propose(observation, rng)
            proposal = np.where(readable[:, None], proposal, instead)
        return proposal, np.where(readable, Reason.POLICY, Reason.FALLBACK)

    def _serve(self, proposal: BoolArray, source: IntArray | Reason) -> Any:
        whose = np.full(self.lanes, source) if isinstance(source, Reason) else source
        before = self.state
        self.state, outcome = self.step(self.world, before, proposal, whose, self.strict)
        self.age += 1
        arguments = (self.world, before, proposal.copy(), whose.copy(), self.strict.copy())
        self.history.append((arguments, outcome))
        return self.state, outcome

    @invariant()
    def lanes_stand_somewhere(self) -> None:
        if hasattr(self, "world"):
            rows = len(self.world.rows)
            for place in (self.state.row, self.state.limit_row):
                assert ((place >= 0) & (place < rows)).all()
            assert self.state.loaded.shape == (self.lanes, self.world.blocks)

    @precondition(lambda self: len(self.history) > 0)
    @rule(number=st.integers(0, 1 << 16))
    def a_decision_is_replayed(self, number: int) -> None:
        """Promise 6: from its arguments alone, any decision comes out as it did."""
        arguments, wanted = self.history[number % len(self.history)]
        _, found = simulator.step(*arguments)
        for name in ("kept", "kept_end", "refused", "reason", "limit_bytes", "used_bytes"):
            assert (getattr(found, name) == getattr(wanted, name)).all(), name
        np.testing.assert_allclose(found.reward, wanted.reward, atol=1e-9)


def damaged_table(number: int, lost: str, rng: np.random.Generator) -> QualityColumns | None:
    """Calibration columns of a tiny table that has lost a row or a cell; None where it is refused.

    By the rules of `table_file`: a cell of nll must be there, kl and top1 may be missing; without a
    single removal, or a prefix of the joint order, there are no columns.
    """
    header, rows = made.tiny_rows(number)
    place = int(rng.integers(len(rows)))
    if lost in ("row", "single"):
        dropped = np.count_nonzero(~rows.kept, axis=1)
        if lost == "single":
            place = int(rng.choice(np.flatnonzero(dropped == 1)))
        stays = np.arange(len(rows)) != place
        rows = table_file.Rows(
            kept=rows.kept[stays],
            sample=tuple(np.array(rows.sample)[stays].tolist()),
            design=rows.design[: len(rows) - 1],
            **{name: getattr(rows, name)[stays] for name in
               ("nll_p95", "tokens", "nll", "nll_se", "kl", "top1")},
        )  # fmt: skip
    else:
        column = getattr(rows, lost).copy()
        column[place] = np.nan
        rows = replace(rows, **{lost: column})
    try:
        content = table_file.packed(header, rows)
        found = QualityTable("damaged", table_file.unpacked(content, "damaged")).calibration()
    except InvalidTable:
        assert lost != "kl", "divergence may be missing"
        return None
    assert lost != "nll", "a cell of nll must be there"
    return found


def counted(machine: type[Any]) -> Callable[[], Tally]:
    """A fresh count of what a machine serves from now on; call it for the count so far."""
    machine.tally = Tally()
    return lambda: machine.tally


def exercise(machine: type[Any], *, examples: int, steps: int, least: int) -> Tally:
    """Try `examples` lives of a machine, and as many again while fewer than `least` decisions fell.

    How many decisions a life holds is drawn: now and then a round of lives hardly decides anything.

    Raises AssertionError where a promise is broken, or where ROUNDS rounds did not decide enough: then
    the machine tries less than it says.
    """
    count = counted(machine)
    for number in range(ROUNDS):
        # Where examples are the same every time, those of another round are others all the same.
        run_state_machine_as_test(
            seeded(number)(machine) if number else machine,
            settings=settings(max_examples=examples, stateful_step_count=steps),
        )
        if count().decisions >= least:
            return count()
    raise AssertionError(f"{count().decisions} decisions in {ROUNDS} rounds, {least} are wanted")
