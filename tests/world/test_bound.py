"""The bound: no plan costs less, whoever made it; and it is not far below what can be done."""

from dataclasses import replace
from functools import cache
from itertools import product
from math import ceil

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from toy_table import ALL_SETS, kept_without
from toy_world import lanes_at, least_cost, toy_rows, toy_world
from worlds import Trial, trials, worlds

from rapgym.arrays import BoolArray, FloatArray
from rapgym.quality.columns import QualityColumns
from rapgym.testing import worlds as made
from rapgym.world import bound, pace, plan, simulator
from rapgym.world.records import State, World

ABOVE_FLOOR = np.array([kept for kept in ALL_SETS if kept[:2].all()])
SLACK = 1e-9


def at_counts(world: World) -> FloatArray:
    assert isinstance(world.quality, QualityColumns)
    return world.quality.at_counts


def cost(world: World, state: State, proposals: BoolArray, strict: BoolArray) -> FloatArray:
    """Nats an output token of serving [T, B, N] from `state` on, [B]."""
    total, output = np.zeros(state.lanes), np.zeros(state.lanes)
    for proposal in proposals:
        state, outcome = simulator.step(world, state, proposal, None, strict)
        total += outcome.terms.total * world.mean_output_tokens
        output += outcome.output_tokens
    found: FloatArray = total / np.maximum(output, 1)
    return found


@given(trials())
@settings(max_examples=150)
def test_no_policy_costs_less(trial: Trial) -> None:
    costs = cost(trial.world, trial.state, trial.proposals, trial.strict)
    assert (costs >= least_cost(trial.world, trial.state, len(trial.proposals)) - SLACK).all()


@given(worlds(most_rows=3), st.sampled_from([0.9, 1.0, 1.1]), st.booleans())
@settings(max_examples=60)
def test_no_sequence_of_kept_sets_costs_less(world: World, scale: float, strict: bool) -> None:
    """All of them, from dense and from the floor, repaired or refused."""
    rows = min(len(world.rows), 3)
    plans = np.array(list(product(range(len(ABOVE_FLOOR)), repeat=rows))).T
    lanes = plans.shape[1]
    state = replace(lanes_at(world, [0] * lanes), token_scale=np.full(lanes, scale))
    bare = replace(state, loaded=np.tile(world.floor, (lanes, 1)))
    proposals = ABOVE_FLOOR[plans]
    one = replace(lanes_at(world, [0]), token_scale=np.full(1, scale))
    floor_cost = least_cost(world, one, rows)[0]
    for start in (state, bare):
        best = cost(world, start, proposals, np.full(lanes, strict)).min()
        assert best >= floor_cost - SLACK


@given(worlds(most_rows=4))
def test_the_best_plan_found_is_executed_and_lies_between(world: World) -> None:
    rows = len(world.rows)
    start = lanes_at(world, [0, 0], [0, rows - 1])
    proposals = plan.best_plan(world, ABOVE_FLOOR, start, rows)
    found = cost(world, start, proposals, np.zeros(2, dtype=bool))
    assert (found >= least_cost(world, start, rows) - SLACK).all()


@given(worlds(most_rows=3))
@settings(max_examples=150)
def test_no_sequence_of_its_candidates_beats_the_best_plan(world: World) -> None:
    """Reloads that an emergency interrupts go on in what is left of its second, and are planned with."""
    rows = len(world.rows)
    firsts = [made.bytes_of(world, 1, 1, int(p), int(r)) for p, r in zip(
        world.rows.prompt_tokens, world.rows.reserved_tokens, strict=True
    )]  # fmt: skip
    # A row that is refused from its start leaves what was there, which planning does not know.
    assume((world.rows.limit_bytes[:, 0] >= firsts).all())
    candidates = ABOVE_FLOOR[[0, 5, 10, -1]]
    plans = np.array(list(product(range(len(candidates)), repeat=rows))).T
    lanes = lanes_at(world, [0] * plans.shape[1])
    best = cost(world, lanes, candidates[plans], np.zeros(plans.shape[1], dtype=bool)).min()
    one = lanes_at(world, [0])
    found = cost(world, one, plan.best_plan(world, candidates, one, rows), np.zeros(1, dtype=bool))
    assert found[0] <= best + SLACK


def test_planning_knows_that_a_reload_rests_while_blocks_leave() -> None:
    # From the floor everything returns at 50 B/s, in 4 s: one of row 1, whose other is lost. Nothing of
    # it is left for row 2, in which a1 and f1 are gone and the rest serves at 0.35. Who stays with the
    # floor in row 1 (0.65) pays a whole row for that later, and row 3 has forty times the output.
    limits = [[220] * 2, [460, 340], [340] * 2, [340] * 2]
    rows = toy_rows([5] * 4, limits, [10, 10, 10, 400])
    world = toy_world(rows, restore_bytes_per_s=50.0)
    start = lanes_at(world, [0])
    proposals = plan.best_plan(world, ABOVE_FLOOR[[0, -1]], start, 4)
    found = cost(world, start, proposals, np.zeros(1, dtype=bool))
    assert found == pytest.approx((0.65 + 4 + 0.35 + 40 * 0.35) / 43)


def relaxed_optimum(world: World, rows: int) -> float:
    """The bound's own problem by plain recursion over counts of dropped blocks, dense start free.

    Rules: at a row's start any counts that fit; returned blocks stall at least for the bytes that
    counts imply, until the first second that does not fit at the most. In a later second that does
    not fit any smaller counts may be landed on, the reaction lost unless announced. Any batch may be
    refused from any second on, and the next row starts from any counts.
    """
    best, ceiling, window_s = at_counts(world), world.ceiling, world.window_s
    states = [(a, f) for a in range(best.shape[0]) for f in range(best.shape[1])]
    foot = world.footprint

    def used(t: int, state: tuple[int, int]) -> int:
        prompt, reserved = int(world.rows.prompt_tokens[t]), int(world.rows.reserved_tokens[t])
        attention = foot.attention_bytes + ceil(
            foot.model_kv_token_bytes * (prompt + reserved) / foot.layers
        )
        activations = int(np.ceil(foot.activation_bytes_per_token * prompt))
        return (foot.fixed_bytes + activations + foot.margin_bytes
                + (3 - state[0]) * attention + (3 - state[1]) * foot.ffn_bytes)  # fmt: skip

    def fits(t: int, second: int, state: tuple[int, int]) -> bool:
        return used(t, state) <= int(world.rows.limit_bytes[t, second])

    @cache
    def any_start(t: int) -> float:
        return min(from_counts(t, state) for state in states)

    @cache
    def from_counts(t: int, before: tuple[int, int]) -> float:
        if t == rows:
            return 0.0
        share = int(world.rows.output_tokens[t]) / window_s
        # Refused as a whole: nothing is loaded.
        found = [share * ceiling * window_s + any_start(t + 1)]
        for state in states:
            if not fits(t, 0, state):
                continue
            calm = next((s for s in range(window_s) if not fits(t, s, state)), window_s)
            returned = (max(before[0] - state[0], 0) * foot.attention_bytes
                        + max(before[1] - state[1], 0) * foot.ffn_bytes)  # fmt: skip
            stall = min(returned / world.restore_bytes_per_s, calm)
            loss = min(float(best[state]), ceiling)
            found.append(share * stall * (ceiling - loss) + seconds(t, 0, state))
        return min(found)

    @cache
    def seconds(t: int, second: int, state: tuple[int, int]) -> float:
        if second == window_s:
            return from_counts(t + 1, state)
        share = int(world.rows.output_tokens[t]) / window_s
        refused = share * ceiling * (window_s - second) + any_start(t + 1)
        if fits(t, second, state):
            served = share * min(float(best[state]), ceiling) + seconds(t, second + 1, state)
            return min(refused, served)
        lost = min(world.reaction_s, 1.0) if world.notice_s == 0 else 0.0
        landings = [
            share * (lost * ceiling + (1 - lost) * min(float(best[other]), ceiling))
            + seconds(t, second + 1, other)
            for other in states
            if other[0] >= state[0] and other[1] >= state[1] and fits(t, second, other)
        ]
        return min([refused, *landings])

    return any_start(0) / max(int(world.rows.output_tokens[:rows].sum()), 1)


@given(worlds(most_rows=4))
def test_the_bound_solves_its_problem_exactly(world: World) -> None:
    rows = len(world.rows)
    one = lanes_at(world, [0])
    assert least_cost(world, one, rows)[0] == pytest.approx(relaxed_optimum(world, rows), abs=1e-9)


@given(trials())
def test_its_rows_add_up_to_it(trial: Trial) -> None:
    rows = len(trial.proposals)
    costs, output = bound.least_cost_rows(trial.world, at_counts(trial.world), trial.state, rows)
    assert costs.shape == output.shape == (rows, trial.state.lanes)
    total = (costs * output).sum(axis=0) / np.maximum(output.sum(axis=0), 1)
    assert total == pytest.approx(least_cost(trial.world, trial.state, rows), abs=1e-9)
    assert (costs <= trial.world.ceiling + 1e-9).all()


@given(trials())
@settings(max_examples=150)
def test_compiled_code_plans_the_same_to_the_last_bit(trial: Trial) -> None:
    world, rows = trial.world, len(trial.proposals)
    for lane in range(trial.state.lanes):
        one = bound._Lane(world, at_counts(world), trial.state, lane, rows)
        assert (one.plan(compiled=True) == one.plan(compiled=False)).all()


def test_a_long_run_is_planned_by_compiled_code_and_any_once_that_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, asked = toy_world(toy_rows([5], [[460] * 4])), list[bool]()

    def planned(self: bound._Lane, *, compiled: bool) -> FloatArray:
        asked.append(compiled)
        return np.zeros(len(self.output))

    monkeypatch.setattr(bound._Lane, "plan", planned)
    short, long = pace.REFERENCE_ROWS - 1, pace.REFERENCE_ROWS
    for loaded, rows in ([], short), ([], long), (["twin"], short), (["quick_bound"], short):
        monkeypatch.setattr(pace, "is_loaded", lambda name="twin", there=loaded: name in there)
        bound.least_cost_rows(world, at_counts(world), lanes_at(world, [0]), rows)
    assert asked == [False, True, True, True]


def one_lane(world: World) -> float:
    state = lanes_at(world, [0])
    return float(least_cost(world, state, len(world.rows))[0])


@pytest.mark.parametrize(
    ("limit", "nats"),
    # By hand, 5 tokens: each block 60 bytes, dense 460. The cheapest set that drops so many blocks:
    # none; a1; a2 f2 together; a2 f2 and a1; all four; the floor does not fit.
    [(460, 0.0), (459, 0.10), (399, 0.30), (339, 0.40), (279, 0.65), (219, 4.0)],
)
def test_where_memory_stands_still_it_is_the_best_set_that_fits(limit: int, nats: float) -> None:
    world = toy_world(toy_rows([5] * 3, [[limit] * 4] * 3, [10, 30, 0]))
    assert one_lane(world) == pytest.approx(nats)


@pytest.mark.parametrize(
    ("ample", "total"),
    # Stay: 0.30 a row. From a1 a2 dropped (0.40) a2 returns in 0.4 s of 4, losing 0.4 (4 - 0.1) / 4 =
    # 0.39 for the rest at 0.10; or both return in 0.8 s, losing 0.80 for the rest at nothing.
    [(1, 0.30 + 0.30), (3, 0.40 + 0.39 + 3 * 0.10), (5, 0.40 + 0.80)],
)
def test_it_counts_the_stall_of_a_return_by_hand(ample: int, total: float) -> None:
    # A tight row in which two blocks must go, then ample ones.
    world = toy_world(toy_rows([5] * (1 + ample), [[399] * 4] + [[460] * 4] * ample))
    assert one_lane(world) == pytest.approx(total / (1 + ample))


def test_it_counts_an_emergency_by_hand_and_notice_saves_it() -> None:
    # Dense for three seconds and a second lost costs 1; a2 f2 dropped in time cost 0.30.
    limits = [[460, 460, 460, 340]]
    assert one_lane(toy_world(toy_rows([5], limits))) == pytest.approx(0.30)
    # Announced, dense serves three seconds and the fourth is served without a2 and f2.
    assert one_lane(toy_world(toy_rows([5], limits), notice_s=1)) == pytest.approx(0.30 / 4)
    # A tenth of a second is lost, the rest of the fourth is served without them.
    quick = toy_world(toy_rows([5], limits), reaction_s=0.1)
    assert one_lane(quick) == pytest.approx((0.1 * 4 + 0.9 * 0.30) / 4)


@pytest.mark.parametrize("notice_s", [0, 1])
def test_blocks_do_not_return_through_an_emergency_that_cannot_be(notice_s: int) -> None:
    # A row starts with what fits in its first second, so nobody lands on smaller counts there, free
    # of stalls: from the floor to a2 f2 dropped is 100 bytes, at 20 B/s more than the row.
    limits = [[220] * 4, [340] * 4]
    rows = toy_rows([5, 5], limits)
    world = toy_world(rows, notice_s=notice_s, restore_bytes_per_s=20.0)
    assert one_lane(world) == pytest.approx(0.65)


def test_a_return_stalls_until_the_first_emergency_at_the_most() -> None:
    # From the floor (0.65), at 10 B/s: whatever returns needs more than a row. Where the limit falls
    # after one ample second, announced, one second is lost (1 nat), the other three are served
    # without a2 and f2 (0.30), and so are the five rows to come. Staying would cost 0.65 a row, and
    # refusing the end of the first row, of ten times the output, far more.
    limits = [[220] * 4, [460, 340, 340, 340]] + [[340] * 4] * 5
    rows = toy_rows([5] * 7, limits, [100] + [10] * 6)
    world = toy_world(rows, notice_s=1, restore_bytes_per_s=10.0)
    assert one_lane(world) == pytest.approx((10 * 0.65 + 1 + 3 * 0.30 / 4 + 5 * 0.30) / 16)


def test_the_bound_is_reached_where_it_can_be() -> None:
    limits = [[399] * 4] + [[460] * 4] * 5
    world = toy_world(toy_rows([5] * 6, limits))
    state = lanes_at(world, [0])
    proposals = np.array([kept_without(2, 4)] + [kept_without()] * 5)[:, None]
    assert cost(world, state, proposals, np.zeros(1, dtype=bool)) == pytest.approx(one_lane(world))
    best = plan.best_plan(world, ABOVE_FLOOR, state, 6)
    assert cost(world, state, best, np.zeros(1, dtype=bool)) == pytest.approx(one_lane(world))
