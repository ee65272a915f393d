"""Hypothesis strategies: worlds in which blocks fit to the byte, lanes in them, and policies."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rapgym.arrays import BoolArray
from rapgym.errors import MissingExtra
from rapgym.policies.policy import Policy
from rapgym.policies.reference import FrontierLookup
from rapgym.scenarios import catalogue, worlds
from rapgym.testing import hostile
from rapgym.testing import worlds as made
from rapgym.testing.hostile import Proposes
from rapgym.world.records import Rows, State, World

try:
    from hypothesis import strategies as st
except ImportError as error:  # pragma: no cover
    raise MissingExtra("hypothesis is not installed; run: pip install 'rapgym[testing]'") from error


def int_rows(low: int, high: int, rows: int) -> st.SearchStrategy[list[int]]:
    """So many whole numbers."""
    return st.lists(st.integers(low, high), min_size=rows, max_size=rows)


def limits(world: World, prompt: int, reserved: int) -> st.SearchStrategy[int]:
    """Limits around this demand: what some counts of blocks take, give or take a byte; or any."""
    layers = world.footprint.layers
    counts = st.integers(0, layers)
    exact = st.builds(
        lambda a, f, more: made.bytes_of(world, a, f, prompt, reserved) + more,
        counts, counts, st.integers(-1, 1),
    )  # fmt: skip
    dense = made.bytes_of(world, layers, layers, prompt, reserved)
    return exact | st.integers(-1, 2 * dense)


@st.composite
def tiny_worlds(draw: st.DrawFn, most_rows: int = 6, most_seconds: int = 4) -> World:
    """Worlds of two to four layers: `rapgym.testing.worlds`."""
    number = draw(st.integers(0, made.TABLES - 1))
    footprint = made.tiny_footprint(
        number,
        margin=draw(st.sampled_from(made.MARGINS)),
        activation=draw(st.sampled_from(made.ACTIVATIONS)),
        odd_bytes=draw(st.integers(0, 1)),
    )
    rows, seconds = draw(st.integers(1, most_rows)), draw(st.integers(1, most_seconds))
    prompt, reserved, output = (
        np.array(draw(int_rows(0, high, rows)), dtype=np.int64) for high in (8, 6, 20)
    )
    table = made.tiny_table(number)
    world = World(
        footprint=footprint,
        quality=table.test() if draw(st.booleans()) else table.calibration(),
        rows=Rows((prompt > 0).astype(np.int64), prompt, reserved, prompt + reserved, output,
                  np.zeros((rows, seconds), dtype=np.int64)),
        ceiling=draw(st.sampled_from([made.CEILING, 0.5])),
        restore_bytes_per_s=draw(st.sampled_from([10.0, 40.0, 100.0, 1000.0])),
        mean_output_tokens=10.0,
        notice_s=draw(st.sampled_from([0, 0, 1, 3])),
        reaction_s=draw(st.sampled_from(made.REACTIONS_S)),
    )  # fmt: skip
    limit_bytes = [
        draw(st.lists(limits(world, p, r), min_size=seconds, max_size=seconds))
        for p, r in zip(prompt.tolist(), reserved.tolist(), strict=True)
    ]
    return made.with_limits(world, np.array(limit_bytes, dtype=np.int64))


@st.composite
def hostile_worlds(draw: st.DrawFn, story: str, rows: int = 16) -> World:
    """A scenario's train rows, from a drawn one on, made hostile in one of the ways of `worlds`."""
    base = worlds.world(catalogue.story_of(story), "train")
    kind = draw(st.sampled_from([*made.HOSTILE]))
    return made.hostile(base, kind, np.random.default_rng(draw(st.integers(0, 1 << 32))), rows)


@st.composite
def states(draw: st.DrawFn, world: World, most_lanes: int = 4) -> State:
    """Lanes anywhere in a world, every block in memory."""
    rows, count = len(world.rows), draw(st.integers(1, most_lanes))
    return world.state(
        np.array(draw(int_rows(0, rows - 1, count))),
        np.array(draw(int_rows(0, rows - 1, count))),
        np.array(draw(st.lists(st.sampled_from([0.9, 1.0, 1.1]), min_size=count, max_size=count))),
    )


def kept_sets(n: int) -> st.SearchStrategy[BoolArray]:
    """Any set of n blocks, bool [n]."""
    return st.lists(st.booleans(), min_size=n, max_size=n).map(np.array)


def hostile_policies() -> st.SearchStrategy[Policy]:
    """Policies that break the protocol, mean harm, or fall over, all of `hostile`."""
    answers = {**hostile.UNREADABLE, **hostile.READABLE}
    makes: list[Callable[[], Policy]] = [*hostile.POLICIES.values()]
    makes += [lambda answer=answer: Proposes(answer) for answer in answers.values()]  # type: ignore[misc]
    return st.sampled_from(makes).map(lambda make: make())


def policies(*, fair: bool = True, unfair: bool = True) -> st.SearchStrategy[Policy]:
    """Policies of both sorts: fair ones follow the protocol, however badly they choose."""
    fair_ones: list[Callable[[], Policy]] = [
        FrontierLookup, Proposes, hostile.Thrashes, hostile.Inverted, hostile.Refuses,
        lambda: hostile.Same(True), lambda: hostile.Same(False),
    ]  # fmt: skip
    found = st.sampled_from(fair_ones).map(lambda make: make())
    if not unfair:
        return found
    return found | hostile_policies() if fair else hostile_policies()


def turned(state: State, world: World) -> State:
    """The same lanes in a world of another number of rows."""
    rows = len(world.rows)
    return replace(state, row=state.row % rows, limit_row=state.limit_row % rows)
