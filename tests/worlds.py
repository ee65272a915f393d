"""Hypothesis strategies: small worlds, lanes in them, and proposals."""

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st
from toy_table import ALL_SETS, kept_without, toy_table
from toy_world import FOOTPRINT, toy_world

from rapgym.arrays import BoolArray
from rapgym.model import blocks
from rapgym.quality.table import QualityTable
from rapgym.testing import worlds as made
from rapgym.world.records import Rows, State, World

# Most sets above the floor unmeasured on one text or on both, so that predictions decide.
PREFIXES = [blocks.key(kept_without(*range(2, 3 + k))) for k in range(4)]  # every table has them
SPARSE_KEYS = [
    key
    for kept in ALL_SETS
    if kept[:2].all() and (~kept).sum() > 1 and (key := blocks.key(kept)) not in PREFIXES
]
TABLES: tuple[QualityTable, ...] = (
    toy_table(),
    toy_table([key for i, key in enumerate(SPARSE_KEYS) if i % 3]),
    toy_table([key for i, key in enumerate(SPARSE_KEYS) if i % 4], split="test"),
)


@dataclass(frozen=True)
class Trial:
    """B lanes of a world and what is proposed to them in each of T rows."""

    world: World
    state: State
    proposals: BoolArray  # [T, B, N]
    strict: BoolArray  # [B]


def int_rows(low: int, high: int, rows: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(low, high), min_size=rows, max_size=rows)


@st.composite
def rows_of(draw: st.DrawFn, most_rows: int = 5, most_seconds: int = 4) -> Rows:
    rows, seconds = draw(st.integers(1, most_rows)), draw(st.integers(1, most_seconds))
    # Sizes where blocks fit to the byte: between nothing and dense, mostly multiples of a block.
    limit = st.one_of(
        st.integers(90, 620), st.sampled_from([199, 200, 219, 220, 280, 340, 400, 460, 600])
    )
    limits = draw(st.lists(st.lists(limit, min_size=seconds, max_size=seconds),
                           min_size=rows, max_size=rows))  # fmt: skip
    prompt, reserved, output = (np.array(draw(int_rows(0, high, rows))) for high in (8, 6, 20))
    return Rows((prompt > 0).astype(np.int64), prompt, reserved, prompt + reserved, output,
                np.array(limits, dtype=np.int64))  # fmt: skip


@st.composite
def worlds(
    draw: st.DrawFn, split: str | None = None, most_rows: int = 5, most_seconds: int = 4
) -> World:
    table = draw(st.sampled_from(TABLES))
    test = draw(st.booleans()) if split is None else split == "test"
    footprint = replace(
        FOOTPRINT,
        activation_bytes_per_token=draw(st.sampled_from([0.0, 1.5])),
        margin_bytes=draw(st.sampled_from([0, 7])),
    )
    return toy_world(
        draw(rows_of(most_rows, most_seconds)),
        quality=table.test() if test else table.calibration(),
        footprint=footprint,
        restore_bytes_per_s=draw(st.sampled_from([10.0, 40.0, 100.0, 1000.0])),
        notice_s=draw(st.sampled_from([0, 0, 1, 3])),
        reaction_s=draw(st.sampled_from(made.REACTIONS_S)),
    )


@st.composite
def trials(draw: st.DrawFn, most_lanes: int = 4) -> Trial:
    world = draw(worlds())
    rows, lanes = len(world.rows), draw(st.integers(1, most_lanes))
    state = world.state(
        np.array(draw(int_rows(0, rows - 1, lanes))),
        np.array(draw(int_rows(0, rows - 1, lanes))),
        np.array(draw(st.lists(st.sampled_from([0.9, 1.0, 1.1]), min_size=lanes, max_size=lanes))),
    )
    steps = draw(st.integers(1, 6))
    codes = draw(st.lists(int_rows(0, 63, lanes), min_size=steps, max_size=steps))
    strict = draw(st.lists(st.booleans(), min_size=lanes, max_size=lanes))
    return Trial(world, state, np.array(ALL_SETS)[np.array(codes)], np.array(strict))
