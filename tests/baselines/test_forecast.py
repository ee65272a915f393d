"""The forecasting controller: its expected cost is the simulator's, and tuning sees no own future."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_world
from toy_table import toy_columns

from rapgym.arrays import BoolArray, FloatArray, IntArray, first_of_least
from rapgym.baselines import forecast
from rapgym.baselines.forecast import CrossFitted, Forecast, Futures, Remains
from rapgym.errors import InvalidPolicy
from rapgym.policies.policy import Briefing, briefing
from rapgym.policies.reference import FrontierLookup, frontier
from rapgym.rollout import rollout
from rapgym.rollout import tuning as rollout_tuning
from rapgym.scenarios import worlds
from rapgym.scenarios.story import Scenario
from rapgym.workload import series
from rapgym.world import encoding, pace, simulator
from rapgym.world.records import Outcome, World

RNG = np.random.default_rng(0)
COLUMNS = toy_columns()


def one_row(limits: IntArray, notice_s: int = 0, reaction_s: float = 1.0) -> World:
    """A row of 5 tokens, so that all blocks take 60 bytes and the shield has nothing to give back;
    everything comes back within 0.3 s, so before any emergency."""
    rows = toy_world.toy_rows([5], [limits.tolist()])
    return toy_world.toy_world(rows, quality=COLUMNS, restore_bytes_per_s=1000.0, notice_s=notice_s,
                               reaction_s=reaction_s)  # fmt: skip


def served(world: World, loaded: BoolArray, proposal: BoolArray) -> Outcome:
    state = replace(toy_world.lanes_at(world, [0]), loaded=loaded[None])
    return simulator.step(world, state, proposal[None])[1]


def to_come_back(world: World, kept: BoolArray) -> float:
    """C for the share of a row in which the blocks that are missing come back."""
    seconds = world.footprint.weights[~kept].sum() / world.restore_bytes_per_s
    return float(world.ceiling * seconds / world.window_s)


@pytest.mark.parametrize(("notice_s", "reaction_s"), [(0, 1.0), (0, 0.1), (0, 0.0), (1, 0.5)])
def test_expected_change_equals_a_loop_over_futures_through_the_simulator(
    notice_s: int, reaction_s: float
) -> None:
    for _ in range(20):
        first = int(RNG.integers(220, 470))
        limits = RNG.integers(200, 480, size=(6, 4))
        limits[:, 0] = first
        weight = RNG.dirichlet(np.ones(6))
        world = one_row(limits[0], notice_s, reaction_s)
        remains = Remains.of(world, frontier(world.quality))
        used = remains.used_bytes(world, 5, 5)
        sets = forecast.worth_trying(used[:, 0], first)
        assert len(used[sets]), "some set fits"
        loss, back = remains.loss[sets], remains.back[sets]
        found = forecast.expected_change(world, used[sets], loss, back, limits, weight)
        for i, kept in enumerate(frontier(world.quality).kept[sets]):
            outcomes = [served(one_row(path, notice_s, reaction_s), kept, kept) for path in limits]
            assert not outcomes[0].refused.any()
            cost = np.array([o.terms.total[0] for o in outcomes])
            ends = np.array([to_come_back(world, o.kept_end[0]) for o in outcomes])
            assert loss[i, 0] + found[0][i] == pytest.approx(weight @ cost)
            assert back[i, 0] + found[1][i] == pytest.approx(weight @ ends)


def told_of(world: World) -> Briefing:
    where = encoding.layout(world, card_bytes=toy_world.CARD_BYTES)
    return Briefing(toy_world.STORY, world, where)


def observed(told: Briefing, loaded: BoolArray) -> FloatArray:
    """The first row, decided with these blocks loaded; bool [B, N] -> float32 [B, O]."""
    world, zero = told.train, [0] * len(loaded)
    state = replace(toy_world.lanes_at(world, zero), loaded=loaded)
    return encoding.observe(
        world, told.layout, encoding.visible(world, state, np.zeros(len(loaded), dtype=np.int64))
    )


def drawn_sets(count: int) -> BoolArray:
    loaded: BoolArray = RNG.random((count, 6)) < 0.6
    loaded[:, :2] = True
    return loaded


@pytest.mark.parametrize(("notice_s", "reaction_s"), [(0, 1.0), (0, 0.1), (3, 1.0)])
def test_knowing_the_future_it_takes_the_set_of_least_cost(
    notice_s: int, reaction_s: float
) -> None:
    """A world of one row has one stretch, and so one future: what that row's limit will do. Where
    three seconds are announced, all is known anyway."""
    lookups_cost = 0
    for _ in range(40):
        # Odd: an observation may lose a byte, and no set takes an odd number.
        limits = np.r_[RNG.integers(110, 235), RNG.integers(100, 240, size=3)] * 2 + 1
        world = one_row(limits, notice_s, reaction_s)
        policy, told, loaded = (
            Forecast(shift=0.0, caution=1.0, later=0.0),
            told_of(world),
            drawn_sets(1),
        )
        policy.reset(1, told)
        seen = observed(told, loaded)
        chosen = policy.propose(seen, np.random.default_rng(0))[0]
        front = frontier(world.quality)
        used = front.used_bytes(told.footprint, np.array([5]), np.array([5]))[0]
        sets = front.kept[forecast.worth_trying(used, limits[0])]
        costs = [float(served(world, loaded[0], kept).terms.total[0]) for kept in sets]
        assert served(world, loaded[0], chosen).terms.total[0] == pytest.approx(min(costs))
        lookups_cost += costs[0] > min(costs) + 1e-9
    assert lookups_cost > 0, "the best set now was not always the best choice"


def test_a_level_that_differs_is_added_to_a_future_as_asked() -> None:
    world = one_row(np.array([400, 300, 350, 390]))
    futures = Futures.of(world)
    past = np.full(8 * 4 + 1, 380)
    for shift, ahead in ((0.0, [300, 350, 390]), (0.5, [300, 340, 380]), (1.0, [300, 330, 370])):
        found, weight = futures.after(past, shift)
        assert found.tolist() == [ahead], "never below the lowest limit that was seen"
        assert weight.tolist() == [1.0]


def test_the_nearest_are_found_by_whole_numbers_and_ties_go_to_the_earlier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a plain loop over exact fractions; most pasts of a limit of few levels are equal."""
    monkeypatch.setattr(forecast, "NEIGHBOURS", 12)
    levels = RNG.choice([300, 301, 400], (30, 4))
    futures = Futures.of(toy_world.toy_world(toy_world.toy_rows([5] * 30, levels.tolist())))
    count, ties = futures.past.shape[1], 0
    for _ in range(20):
        past = RNG.choice([300, 301, 400], 33)
        now = [
            Fraction(int(value)) * forecast.STEPS / int(unit)
            for value, unit in zip(forecast.features(past), futures.unit, strict=True)
        ]
        apart = [
            sum((int(futures.past[i, p]) - floor(now[i])) ** 2 for i in range(6))
            for p in range(count)
        ]
        nearest = sorted(range(count), key=lambda p: (apart[p], p))[:13]
        ties += apart[nearest[11]] == apart[nearest[12]]
        ahead, weight = futures.after(past, 0.0)
        assert (ahead == futures.ahead[nearest[:12]]).all()
        farthest = apart[nearest[11]]
        plain = [1 - apart[p] / (1.01 * farthest) if farthest else 1.0 for p in nearest[:12]]
        assert weight == pytest.approx(np.array(plain) / sum(plain))
    assert ties > 3, "the last place had equals"


def test_a_deviation_is_that_of_the_numbers_and_knows_no_order() -> None:
    numbers = RNG.integers(-(1 << 45), 1 << 45, 999)
    found = forecast.deviation(numbers)
    assert found == pytest.approx(numbers.astype(float).std(), rel=1e-9)
    assert all(forecast.deviation(RNG.permutation(numbers)) == found for _ in range(5))
    assert forecast.deviation(np.full(7, 1 << 45)) == 0


def test_the_last_digit_of_a_cost_moves_no_choice(
    toy_story: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where sets cost the same: then the better one by the table is taken."""
    told, lanes = briefing(toy_story), 40
    seen = observed_at(toy_story, told, lanes)
    policy = Forecast(shift=1.0, caution=1.0, later=0.5)
    policy.reset(lanes, told)
    chosen = policy.propose(seen, np.random.default_rng(0))
    original = forecast.expected_change

    def moved(*arguments: Any) -> tuple[FloatArray, FloatArray]:
        found = original(*arguments)
        way = RNG.choice([-np.inf, np.inf], (2, len(found[0])))
        return np.nextafter(found[0], way[0]), np.nextafter(found[1], way[1])

    monkeypatch.setattr(forecast, "expected_change", moved)
    assert (policy.propose(seen, np.random.default_rng(0)) == chosen).all()

    tied = Forecast(shift=1.0, caution=0.0, later=0.0)
    tied.reset(lanes, told)
    everything = tied._remains
    way = RNG.choice([-np.inf, np.inf], everything.loss.shape)
    tied._remains = replace(everything, loss=np.nextafter(np.full(way.shape, 0.3), way))
    seen[:, told.layout.slice_of("loaded")] = 1.0  # nothing returns, so all that fits costs 0.3
    front = frontier(told.quality)
    asked = told.read(seen)
    used = front.used_bytes(told.footprint, asked.tokens, asked.prompt_tokens)
    best = front.kept[front.best_fitting(used, asked.limit_bytes)]
    assert (tied.propose(seen, np.random.default_rng(0)) == best).all()


def test_costs_that_hardly_differ_are_equal_and_the_first_wins() -> None:
    assert first_of_least(np.array([1.0, 0.5 + 5e-10, 0.5, 0.7])) == 1
    assert first_of_least(np.array([1.0, 0.5 + 5e-9, 0.5, 0.7])) == 2
    assert first_of_least(np.array([np.inf, 2.0])) == 1


def test_the_nearest_past_counts_most() -> None:
    rows = toy_world.toy_rows([5] * 40, [[400] * 4] * 20 + [[300] * 4] * 20)
    futures = Futures.of(toy_world.toy_world(rows))
    for level in (400, 300):
        ahead, weight = futures.after(np.full(33, level), 0.0)
        assert weight @ (ahead == level).mean(axis=1) > 0.9


def beside(story: Scenario, folder: Path, tenant_tokens: IntArray, **changed: Any) -> Scenario:
    """The toy scenario with these tenant tokens, int64 [T, 4]."""
    whole = toy_world.toy_series(len(tenant_tokens))
    series.write(replace(whole, tenant_tokens=tenant_tokens), folder / "beside.csv.gz")
    return replace(story, workload=str(folder / "beside"), restore_s=0.1, **changed)


def test_tuning_sees_no_rows_own_future(
    toy_story: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A tenant without memory: the past tells rows apart, and nothing else.
    drawn = np.random.default_rng(3).integers(0, 26, (240, 4))
    told = briefing(beside(toy_story, tmp_path, drawn, offsets=2))
    settings = {"shift": 0.0, "caution": 1.0, "later": 0.0}
    monkeypatch.setattr(forecast, "NEIGHBOURS", 1)  # the row's own past, where it is among them

    def cost_while_tuned(make: Callable[..., CrossFitted], *_: object) -> dict[str, float]:
        return {"cost": rollout_tuning.train_cost(lambda: make(**settings), told)}

    monkeypatch.setattr(rollout_tuning, "best_settings", cost_while_tuned)
    honest = forecast.tune(told)["cost"]
    flattered = rollout_tuning.train_cost(lambda: Forecast(**settings), told)
    assert flattered < 0.75 * honest, "looking up what comes next would pay"
    # On fresh rows it gains no less over the lookup than tuning was told.
    fresh, fresh_lookup = (
        rollout.run(policy, told.scenario, "test", told).mean_cost
        for policy in (lambda: Forecast(**settings), FrontierLookup)
    )
    assert fresh / fresh_lookup < 1.1 * honest / rollout_tuning.train_cost(FrontierLookup, told)


def test_no_stretch_of_a_fold_touches_its_rows() -> None:
    rows = 60
    unique = np.arange(1000, 1000 + rows * 4).reshape(rows, 4)  # limits that name their second
    world = toy_world.toy_world(toy_world.toy_rows([5] * rows, unique.tolist()))
    folds = forecast.folded(world, 6)
    history = 8 * 4
    for row in range(rows):
        futures = folds[row * 6 // rows]
        own = unique[row]
        assert len(futures.level) > 50
        for second in range(4):
            assert not (futures.ahead == own[second]).any()
            # Its past reaches from `level` back by the whole history.
            assert not (
                (futures.level >= own[second]) & (futures.level - history <= own[second])
            ).any()
    with pytest.raises(InvalidPolicy, match="too few rows"):
        forecast.folded(toy_world.toy_world(toy_world.toy_rows([5] * 3, [[400] * 4] * 3)), 1)


def test_without_weight_on_futures_it_is_the_lookup(toy_story: Scenario) -> None:
    story = replace(toy_story, restore_s=1e-9)
    told = briefing(story)
    one = rollout.run(lambda: Forecast(0.0, 0.0, 0.0), story, "validation-3", told)
    other = rollout.run(FrontierLookup, story, "validation-3", told)
    assert (one.proposal == other.proposal).all()
    assert {name: values[0] for name, values in forecast.SETTINGS.items()} == {
        "shift": 0.0, "caution": 0.0, "later": 0.0
    }  # fmt: skip


def observed_at(story: Scenario, told: Briefing, lanes: int) -> FloatArray:
    """What is seen at random rows of the validation split, float32 [B, O]."""
    world = worlds.world(story, "validation-3")
    at = RNG.integers(0, len(world.rows), size=(2, lanes))
    state = replace(
        toy_world.lanes_at(world, at[0].tolist(), at[1].tolist()), loaded=drawn_sets(lanes)
    )
    ages = np.arange(lanes, dtype=np.int64)
    return encoding.observe(world, told.layout, encoding.visible(world, state, ages))


def test_lanes_decide_alone_and_always_the_same(toy_story: Scenario) -> None:
    told = briefing(toy_story)
    lanes, rng = 8, np.random.default_rng(0)
    seen = observed_at(toy_story, told, lanes)
    together = Forecast(shift=1.0, caution=1.0, later=0.5)
    together.reset(lanes, told)
    found = together.propose(seen, rng)
    assert (together.propose(seen, rng) == found).all(), "nothing is carried from row to row"
    assert len(np.unique(found, axis=0)) > 1
    for lane in range(lanes):
        alone = Forecast(shift=1.0, caution=1.0, later=0.5)
        alone.reset(1, told)
        assert (alone.propose(seen[[lane]], rng) == found[lane]).all()


def test_tuning_finds_that_a_fall_in_every_row_can_be_foreseen(
    toy_story: Scenario, tmp_path: Path
) -> None:
    falls = np.tile([[0, 0, 15, 15]], (100, 1))  # a quarter of the memory, in each third second
    story = beside(toy_story, tmp_path, falls, offsets=1)
    told = briefing(story)
    found = forecast.tune(told)
    assert found == forecast.tune(told)
    assert found["caution"] > 0
    forecasting = rollout.run(lambda: Forecast(**found), story, "validation-3", told)
    lookup = rollout.run(FrontierLookup, story, "validation-3", told)
    assert lookup.emergency.sum() > 0
    assert forecasting.emergency.sum() == 0
    assert forecasting.mean_cost < lookup.mean_cost


@pytest.mark.parametrize(("notice_s", "rows"), [(0, 3), (0, 40), (1, 200), (9, 60)])
def test_compiled_outlooks_are_those_of_the_reference(
    notice_s: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(rows)
    # Limits that repeat and stay, for ties among pasts; now and then not even the floor fits.
    limits = np.repeat(rng.integers(10, 49, (rows, 2)) * 10, 2, axis=1)
    demand = rng.integers(0, 9, rows).tolist()
    world = toy_world.toy_world(
        toy_world.toy_rows(demand, limits.tolist()),
        quality=COLUMNS, restore_bytes_per_s=90.0, notice_s=notice_s, reaction_s=0.3,
    )  # fmt: skip
    told, lanes = told_of(world), 3
    settings: dict[str, Any] = {
        "shift": [0.0, 1.0, 1.0], "caution": [1.0, 0.7, 0.0], "later": [0.0, 1.0, 0.5]
    }  # fmt: skip
    row = rng.integers(0, rows, 24)
    # Lanes at one row share an outlook; the last ones do.
    for at in [*row.reshape(-1, lanes), np.repeat(row[0], lanes)]:
        state = toy_world.lanes_at(world, at.tolist())
        state = replace(state, loaded=rng.random((lanes, world.blocks)) < 0.6)
        seen = encoding.visible(world, state, np.full(lanes, rng.integers(0, 12)))
        observation = encoding.observe(world, told.layout, seen)
        found = list[list[tuple[IntArray, FloatArray]]]()
        for is_loaded in (False, True):
            monkeypatch.setattr(pace, "is_loaded", lambda is_loaded=is_loaded: is_loaded)
            policy = Forecast(**{name: np.array(each) for name, each in settings.items()})
            policy.reset(lanes, told)
            read = told.read(observation)
            found.append([policy.costs(read, lane) for lane in range(lanes)])
            best = [sets[first_of_least(cost)] for sets, cost in found[-1]]
            kept = frontier(told.quality).kept[best]
            assert (policy.propose(observation, rng) == kept).all()
        for (sets, cost), (quick_sets, quick_cost) in zip(*found, strict=True):
            assert quick_sets.tolist() == sets.tolist()
            assert quick_cost == pytest.approx(cost, rel=1e-12, abs=1e-13)
