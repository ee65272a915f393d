"""A step of all lanes in one compiled pass against the reference, to the last bit, in worlds nobody chose."""

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_world import CARD_BYTES
from worlds import Trial, trials

from rapgym.envs.info import rows_info, strode_info
from rapgym.files import compiled
from rapgym.testing import strategies
from rapgym.testing import worlds as made
from rapgym.world import encoding, kernel, simulator, stride_kernel
from rapgym.world import stride as strides
from rapgym.world.records import State, World
from rapgym.world.stride import Stride


def raw(info: dict[str, Any]) -> dict[str, Any]:
    return {name: (part.dtype, part.shape, part.tobytes()) for name, part in info.items()}


def stride_at(world: World, state: State, age: np.ndarray, most: int | None = None) -> Stride:
    """Lanes at these places, asked for kept sets."""
    where = encoding.layout(world, card_bytes=CARD_BYTES)
    found = Stride(world, where, "kept-set", np.ones(state.lanes, dtype=bool), most)
    found.age[:], found.episode_rows[:] = age, 7
    found.stand(state, None)
    return found


def assert_same_steps(world: World, state: State, proposals: np.ndarray, age: np.ndarray) -> int:
    """Step by step what is said, seen and stood at; how many falls there were."""
    lanes, falls = state.lanes, 0
    stride, everyone = stride_at(world, state, age), np.ones(lanes, dtype=bool)
    mask = np.zeros((lanes, 1), dtype=np.int8)
    for proposal in proposals:
        age = age + 1
        asked = world.demand(state)
        following, outcome = simulator.step(world, state, proposal)
        actions = stride.read(proposal.astype(np.int8))
        assert actions is not None
        strode = stride.act(actions, everyone)
        wanted = rows_info(lanes, world.blocks, everyone, outcome, asked)
        assert raw(strode_info(strode, mask)) == raw(wanted | {"action_mask": mask})
        assert strode.reward.tobytes() == outcome.reward.tobytes()
        assert strode.over.tolist() == (age >= 7).tolist()
        state = following
        seen = encoding.visible(world, state, age)
        assert (
            strode.said.seen.tobytes() == encoding.observe_row(world, stride.where, seen).tobytes()
        )
        assert stride.look().said.seen.tobytes() == strode.said.seen.tobytes()
        for name in ("row", "limit_row", "token_scale", "loaded"):
            assert (getattr(stride.state(), name) == getattr(state, name)).all(), name
        falls += len(outcome.falls)
    return falls


@given(trials(most_lanes=5), st.data())
@settings(max_examples=150)
def test_a_step_is_that_of_the_reference(trial: Trial, data: st.DataObject) -> None:
    if not strides.is_worth(trial.world):
        return
    ages = np.array([data.draw(st.integers(0, 10)) for _ in range(trial.state.lanes)])
    assert_same_steps(trial.world, trial.state, trial.proposals, ages)


@given(strategies.tiny_worlds(), st.sampled_from([*made.HOSTILE]), st.integers(0, 2**32))
@settings(max_examples=100)
def test_a_step_is_that_of_the_reference_in_hostile_worlds(
    tiny: World, kind: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    world = made.hostile(tiny, kind, rng, 6)
    if not strides.is_worth(world):
        return
    rows, lanes = len(world.rows), 12
    state = world.state(
        rng.integers(0, rows, lanes), rng.integers(0, rows, lanes), rng.choice([0.9, 1.0], lanes)
    )
    proposals = rng.random((4, lanes, world.blocks)) < 0.7
    assert_same_steps(world, state, proposals, rng.integers(0, 10, lanes))


def test_what_is_compiled_on_top_of_a_file_bears_its_source_in_its_name(tmp_path: Path) -> None:
    path = tmp_path / "lower.py"

    def name(source: str, **options: bool) -> str:
        path.write_text(source, "utf-8")
        spec = importlib.util.spec_from_file_location("lower", path)
        assert spec is not None

        def upper(value: int) -> int:
            return value

        compiled.resting_on(importlib.util.module_from_spec(spec), **options)(upper)
        return upper.__qualname__

    first = name("ONE = 1\n")
    assert name("ONE = 1\n") == first
    assert len({first, name("ONE = 23\n"), name("ONE = 1\n", loose=True)}) == 3


def test_a_stride_calls_compiled_functions_of_its_own_file_and_of_the_one_it_rests_on() -> None:
    elsewhere = {
        alias.asname or alias.name: str(node.module)
        for node in ast.walk(ast.parse(Path(stride_kernel.__file__).read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("rapgym")
        for alias in node.names
    }
    functions = [
        each
        for each in vars(stride_kernel).values()
        if hasattr(each, "py_func") and each.py_func.__module__ == stride_kernel.__name__
    ]
    assert len(functions) > 8
    for function in functions:
        assert re.search("-[0-9a-f]{12}$", function.py_func.__qualname__)
        used = elsewhere.keys() & {*function.py_func.__code__.co_names}
        assert {elsewhere[name] for name in used} <= {kernel.__name__}
