"""The compiled step against the reference, to the last bit, in worlds nobody chose and in one that ships."""

import ast
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_world import CARD_BYTES, FOOTPRINT, toy_rows, toy_world
from worlds import Trial, trials

from rapgym.model import blocks
from rapgym.quality import predictor, sets
from rapgym.quality.columns import QualityColumns
from rapgym.scenarios import worlds
from rapgym.scenarios.catalogue import story_of
from rapgym.testing import strategies
from rapgym.testing import worlds as made
from rapgym.world import encoding, kernel, lookup, pace, plan, simulator
from rapgym.world.records import Outcome, State, World
from rapgym.world.shield import Reason
from rapgym.world.twin import Twin
from rapgym.world.twin import step as twin_step


def raw(value: Any) -> Any:
    """Everything that a record holds, as types, shapes and bytes."""
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, raw(getattr(value, field.name))) for field in fields(value)]
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    if isinstance(value, (int, float)):
        return value
    return [raw(each) for each in value]  # falls


def assert_equal(found: tuple[State, Outcome], wanted: tuple[State, Outcome]) -> None:
    pairs: list[tuple[Any, Any]] = [*zip(found, wanted, strict=True)]
    for one, other in pairs:
        for field in fields(other):
            name = field.name
            assert raw(getattr(one, name)) == raw(getattr(other, name)), name
    assert found[1].reward.tobytes() == wanted[1].reward.tobytes()


@given(trials(most_lanes=5), st.data())
@settings(max_examples=150)
def test_the_twin_sees_what_the_reference_does(trial: Trial, data: st.DataObject) -> None:
    world, state = trial.world, trial.state
    card = data.draw(st.sampled_from([3, 700, CARD_BYTES, 10**9]))
    where = encoding.layout(world, card_bytes=card, small_steps=data.draw(st.booleans()))
    ages = [data.draw(st.integers(0, 10)) for _ in range(state.lanes)]
    state = replace(state, loaded=trial.proposals[-1])
    seen = encoding.visible(world, state, np.array(ages))
    found, asked = Twin(world).observe(where, state, np.array(ages))
    assert raw(found) == raw(encoding.observe_row(world, where, seen))
    assert raw(asked) == raw(seen.demand)


def test_compiled_code_rests_on_its_own_file_alone() -> None:
    """Numba keeps it until that file changes: what it takes from others would go stale."""
    source = Path(kernel.__file__).read_text("utf-8")
    elsewhere = {
        alias.asname or alias.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("rapgym")
        for alias in node.names
    }
    compiled = [each for each in vars(kernel).values() if hasattr(each, "py_func")]
    assert len(compiled) > 8
    for function in compiled:
        assert function.py_func.__module__ == kernel.__name__
        assert not elsewhere & {*function.py_func.__code__.co_names}


def test_the_kernel_names_reasons_as_the_shield_does() -> None:
    assert Reason.POLICY == kernel.POLICY
    assert Reason.REPAIRED == kernel.REPAIRED
    assert Reason.REFUSED == kernel.REFUSED


@given(trials(most_lanes=6), st.data())
@settings(max_examples=400)
def test_the_twin_equals_the_reference(trial: Trial, data: st.DataObject) -> None:
    world, state = trial.world, trial.state
    twin = Twin(world)
    whose = st.sampled_from([Reason.POLICY, Reason.FALLBACK, Reason.WATCHDOG, Reason.OVERRIDE])
    source = np.array([data.draw(whose) for _ in range(state.lanes)], dtype=np.int64)
    for proposal in trial.proposals:
        wanted = simulator.step(world, state, proposal, source, trial.strict)
        assert_equal(twin.step(state, proposal, source, trial.strict), wanted)
        state = wanted[0]


def wide_columns(layers: int) -> QualityColumns:
    """Columns of more blocks than a word has bits: 16 of them may be dropped, from all over."""
    rng, n = np.random.default_rng(3), 2 * layers
    attention = 2 * rng.choice(layers, 10, replace=False)
    ffn = 2 * rng.choice(layers, 6, replace=False) + 1
    order = rng.permutation(np.concatenate([attention, ffn])).astype(np.int64)
    floor = blocks.floor_of(order, n)
    drawn = np.unique((rng.random((60, n)) < 0.6) | floor, axis=0)
    kept = np.concatenate([np.ones((1, n), dtype=bool), drawn])
    cost = np.round((~kept) @ rng.gamma(2.0, 0.05, n), 6)
    many, text = len(kept), ("order-0",) * len(kept)
    measured = sets.MeasuredSets(kept, cost, np.full(many, 0.01), cost, cost, text, text,
                                 np.ones(many, dtype=bool))  # fmt: skip
    best = sets.best_at_counts(measured, floor)
    return QualityColumns(
        "wide", "calib", None, measured, floor, order, attention, ffn, best,
        sets.best_sets(measured, floor, attention, ffn), np.ones(best.shape, dtype=bool),
        np.full(n, 0.1), np.full(n, 0.1), 4.0, predictor.Settings(),
    )  # fmt: skip


@pytest.mark.parametrize("layers", [31, 32, 33, 70])
def test_models_of_any_number_of_blocks_are_served(layers: int) -> None:
    foot = replace(FOOTPRINT, layers=layers, activation_bytes_per_token=0.7, margin_bytes=5)
    rng = np.random.default_rng(layers)
    dense = 100 + layers * 100
    limits = rng.integers(dense // 2, 2 * dense, (9, 3))
    world = toy_world(toy_rows(rng.integers(0, 9, 9).tolist(), limits.tolist()),
                      quality=wide_columns(layers), footprint=foot)  # fmt: skip
    twin, own = Twin(world), Twin(world)
    where, falls = encoding.layout(world, card_bytes=3 * dense), 0
    for _ in range(3):
        state, proposal, strict = rows_of(world, 120, rng)
        source = np.full(120, Reason.POLICY, dtype=np.int64)
        wanted = simulator.step(world, state, proposal, source, strict)
        assert_equal(twin.step(state, proposal, source, strict), wanted)
        age = rng.integers(0, 12, 120)
        found, _ = own.observe(where, state, age)
        assert raw(found) == raw(
            encoding.observe_row(world, where, encoding.visible(world, state, age))
        )
        falls += len(wanted[1].falls)
    assert falls


@given(strategies.tiny_worlds(), st.sampled_from([*made.HOSTILE]), st.integers(0, 2**32))
@settings(max_examples=250)
def test_the_twin_equals_the_reference_in_hostile_worlds(tiny: World, kind: str, seed: int) -> None:
    """Among them worlds whose limits are what counts take to the byte."""
    rng = np.random.default_rng(seed)
    world = made.hostile(tiny, kind, rng, 6)
    for _ in range(3):
        state, proposal, strict = rows_of(world, 20, rng)
        state = replace(state, token_scale=rng.choice([0.9, 1.0, 1.0, 1.1], 20))
        source = np.full(20, Reason.POLICY, dtype=np.int64)
        wanted = simulator.step(world, state, proposal, source, strict)
        assert_equal(Twin(world).step(state, proposal, source, strict), wanted)


@pytest.mark.parametrize("words", [1, 2, 3])
def test_sets_that_differ_in_one_word_alone_have_their_own_places(words: int) -> None:
    entries = kernel.Entries(
        np.zeros((512, words), dtype=np.uint64), np.zeros(512, dtype=bool), np.full(512, np.nan),
        np.zeros(512, dtype=bool), np.zeros(1, dtype=np.int64),
    )  # fmt: skip
    each = 80
    kept = np.zeros((each * words, 64 * words), dtype=bool)
    for word in range(words):
        drawn = np.arange(each)[:, None] >> np.arange(7) & 1
        kept[each * word : each * (word + 1), 64 * word : 64 * word + 7] = drawn
    key, found = np.zeros(words, dtype=np.uint64), np.zeros(len(kept), dtype=np.int64)
    assert kernel.places_of(entries, kept, key, found)
    assert len({*found.tolist()}) == len({row.tobytes() for row in kept})
    assert (lookup.kept_of(entries.keys[found], 64 * words) == kept).all()
    more = np.random.default_rng(0).random((300, 64 * words)) < 0.5
    room = np.zeros(300, dtype=np.int64)
    assert not kernel.places_of(entries, more, key, room), "half of the places are taken"


def test_a_lane_outside_the_rows_is_said_so() -> None:
    world = worlds.world(story_of("laptop"), "train")
    where = encoding.layout(world, card_bytes=10**9)
    for row in (-1, len(world.rows)):
        for place in ("row", "limit_row"):
            state = replace(world.state(np.array([0]), np.array([0])), **{place: np.array([row])})
            with pytest.raises(IndexError, match="outside the"):
                twin_step(world, state, np.ones((1, world.blocks), dtype=bool))
            with pytest.raises(IndexError, match="outside the"):
                Twin(world).observe(where, state, np.zeros(1, dtype=np.int64))


def known(entries: kernel.Entries, blocks: int) -> dict[bytes, tuple[float, bool]]:
    """What a table knows of each set."""
    where = np.flatnonzero(entries.taken)
    names = [row.tobytes() for row in lookup.kept_of(entries.keys[where], blocks)]
    values = zip(entries.nll[where].tolist(), entries.measured[where].tolist(), strict=True)
    return dict(zip(names, values, strict=True))


def test_the_look_up_grows_and_starts_anew_without_a_wrong_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lookup, "MEMO_SETS", 700)
    world = replace(
        worlds.world(story_of("laptop"), "train"),
        quality=replace(worlds.world(story_of("laptop"), "train").quality),
    )
    twin, rng, sizes = Twin(world), np.random.default_rng(2), []
    table = lookup.lookup_of(world.quality)
    for _ in range(12):
        state, _, strict = rows_of(world, 300, rng)
        proposal = rng.random((300, world.blocks)) < 0.8
        source = np.full(300, Reason.POLICY, dtype=np.int64)
        _, outcome = twin.step(state, proposal, source, strict)
        nll, measured = world.quality.nll(outcome.kept)
        assert (outcome.nll == nll).all()
        served_alone = np.array([not any(lane in fall.lanes for fall in outcome.falls)
                                 for lane in range(300)])  # fmt: skip
        assert ((outcome.measured == (measured | outcome.refused)) | ~served_alone).all()
        sizes.append(int(table.entries.used[0]))
    assert (np.diff(sizes) < 0).any(), "it started anew"
    assert (np.diff(sizes) > 100).any()
    assert np.count_nonzero(table.entries.taken) == sizes[-1]
    before, places = known(table.entries, world.blocks), len(table.entries.taken)
    monkeypatch.setattr(lookup, "MEMO_SETS", 1 << 18)
    table.make_room(3 * places)
    assert len(table.entries.taken) > places
    assert known(table.entries, world.blocks) == before, "what was predicted stays known"


def rows_of(world: World, lanes: int, rng: np.random.Generator) -> tuple[State, Any, Any]:
    """Lanes anywhere, with anything in memory, and proposals of all kinds."""
    rows = len(world.rows)
    grid = world.quality.grid_kept.reshape(-1, world.blocks)
    state = world.state(
        rng.integers(rows, size=lanes),
        rng.integers(rows, size=lanes),
        rng.uniform(0.9, 1.1, lanes),
        grid[rng.integers(len(grid), size=lanes)] & (rng.random((lanes, 1)) < 0.9),
    )
    near = grid[rng.integers(len(grid), size=lanes)]
    anything = rng.random((lanes, world.blocks)) < rng.uniform(0.5, 1.0, (lanes, 1))
    proposal = np.where(rng.random((lanes, 1)) < 0.7, near, anything)
    return state, proposal, rng.random(lanes) < 0.3


def test_the_twin_equals_the_reference_on_recorded_rows() -> None:
    """Where memory falls in mid-row, floors do not fit and most sets are predicted."""
    for name in ("laptop", "chat-beside-code"):
        world = worlds.world(story_of(name), "train")
        twin, rng = Twin(world), np.random.default_rng(5)
        seen = {"falls": 0, "refused": 0, "repaired": 0, "predicted": 0}
        for _ in range(4):
            state, proposal, strict = rows_of(world, 300, rng)
            source = np.full(300, Reason.POLICY, dtype=np.int64)
            wanted = simulator.step(world, state, proposal, source, strict)
            assert_equal(twin.step(state, proposal, source, strict), wanted)
            assert_equal(twin.step(state, proposal, source, strict), wanted)  # now remembered
            outcome = wanted[1]
            seen["falls"] += len(outcome.falls)
            seen["refused"] += int(outcome.refused.sum())
            seen["repaired"] += int((outcome.reason == Reason.REPAIRED).sum())
            seen["predicted"] += int((~outcome.measured).sum())
        assert all(seen.values()), seen


def test_lanes_of_other_memory_orders_and_read_only_arrays_are_taken() -> None:
    world = worlds.world(story_of("laptop"), "train")
    state, proposal, strict = rows_of(world, 12, np.random.default_rng(1))
    source = np.full(12, Reason.POLICY, dtype=np.int64)
    wanted = Twin(world).step(state, proposal, source, strict)
    turned = np.asfortranarray(proposal)
    turned.setflags(write=False)
    assert_equal(Twin(world).step(state, turned, source, strict), wanted)


def test_no_lanes_are_served_too() -> None:
    world = worlds.world(story_of("laptop"), "train")
    none = np.zeros(0, dtype=np.int64)
    state, proposal = world.state(none, none), np.zeros((0, world.blocks), dtype=bool)
    strict = np.zeros(0, dtype=bool)
    wanted = simulator.step(world, state, proposal, none, strict)
    assert_equal(Twin(world).step(state, proposal, none, strict), wanted)


@given(trials(most_lanes=6), st.data())
@settings(max_examples=150)
def test_the_shield_of_the_twin_is_that_of_a_row(trial: Trial, data: st.DataObject) -> None:
    world, state, twin = trial.world, trial.state, Twin(trial.world)
    whose = st.sampled_from([Reason.POLICY, Reason.FALLBACK, Reason.WATCHDOG, Reason.OVERRIDE])
    source = np.array([data.draw(whose) for _ in range(state.lanes)], dtype=np.int64)
    for proposal in trial.proposals:
        wanted = simulator.Row(world, state, proposal, source, trial.strict).decision
        assert raw(twin.shield(state, proposal, source, trial.strict)) == raw(wanted)


@given(trials(most_lanes=4), st.integers(0, 2**32))
@settings(max_examples=60)
def test_the_plan_is_that_of_the_reference(trial: Trial, seed: int) -> None:
    world, rng = trial.world, np.random.default_rng(seed)
    candidates = np.unique((rng.random((9, world.blocks)) < 0.7) | world.floor, axis=0)
    found = list[Any]()
    for least in (0, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pace, "REFERENCE_ROWS", least)
            found.append(plan.best_plan(world, candidates, trial.state, 4).tolist())
    assert found[0] == found[1]


@given(trials(most_lanes=4))
def test_the_account_of_a_row_is_what_the_world_says(trial: Trial) -> None:
    world, state, twin = trial.world, trial.state, Twin(trial.world)
    for proposal in trial.proposals:
        row = simulator.Row(world, state, proposal)
        following, outcome = simulator.step(world, state, proposal)
        asked, budget, cost = twin.account(state, outcome.seconds)
        assert raw(asked) == raw(row.demand)
        assert budget.tolist() == row.budgets[:, 0].tolist()
        seconds = outcome.seconds
        lost = [
            world.ceiling * part for part in (seconds.stall, seconds.emergency, seconds.refused)
        ]
        wanted = np.column_stack([seconds.loss, *lost]) / world.window_s
        assert cost.tolist() == wanted.tolist()
        state = following
