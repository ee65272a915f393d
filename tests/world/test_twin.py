"""The compiled step against the reference, to the last bit, in worlds nobody chose and in one that ships."""

import ast
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_world import CARD_BYTES
from worlds import Trial, trials

from rapgym.scenarios import worlds
from rapgym.world import encoding, kernel, simulator
from rapgym.world.records import Outcome, State, World
from rapgym.world.shield import Reason
from rapgym.world.twin import Twin


def raw(value: Any) -> Any:
    """Everything that a record holds, as types, shapes and bytes."""
    if is_dataclass(value):
        return [(field.name, raw(getattr(value, field.name))) for field in fields(value)]
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    if isinstance(value, (int, float)):
        return value
    return [raw(each) for each in value]  # falls


def assert_equal(found: tuple[State, Outcome], wanted: tuple[State, Outcome]) -> None:
    for one, other in zip(found, wanted, strict=True):
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
        world = worlds.world(worlds.story_of(name), "train")
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
    world = worlds.world(worlds.story_of("laptop"), "train")
    state, proposal, strict = rows_of(world, 12, np.random.default_rng(1))
    source = np.full(12, Reason.POLICY, dtype=np.int64)
    wanted = Twin(world).step(state, proposal, source, strict)
    turned = np.asfortranarray(proposal)
    turned.setflags(write=False)
    assert_equal(Twin(world).step(state, turned, source, strict), wanted)


def test_no_lanes_are_served_too() -> None:
    world = worlds.world(worlds.story_of("laptop"), "train")
    none = np.zeros(0, dtype=np.int64)
    state, proposal = world.state(none, none), np.zeros((0, world.blocks), dtype=bool)
    strict = np.zeros(0, dtype=bool)
    wanted = simulator.step(world, state, proposal, none, strict)
    assert_equal(Twin(world).step(state, proposal, none, strict), wanted)
