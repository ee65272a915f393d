"""Which kept sets are measured."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapgym.arrays import BoolArray
from rapgym.model import blocks
from rapgym.runtime.measure import designs
from rapgym.runtime.measure.meter import Meter

N = 20
ATTENTION, FFN = [4, 0, 8, 12, 6], [3, 19, 7, 11]  # two orders, as a search may find them


class PaperMeter:
    """A meter whose costs are made up; it counts what it is asked for."""

    def __init__(self, n: int, cost: Any) -> None:
        self.model, self.cost, self.asked = SimpleNamespace(blocks=n), cost, 0

    def measure(
        self, sets: Iterable[BoolArray], sample: str, design: str, progress: object
    ) -> dict[str, Any]:
        listed = list(sets)
        self.asked += len(listed)
        return {blocks.key(kept): SimpleNamespace(mean_nll=self.cost(kept)) for kept in listed}


def order(meter: PaperMeter, candidates: list[int], drops: int) -> list[int]:
    return designs.greedy_order(cast(Meter, meter), "order-0", "order", candidates, drops)


def dropped(kept: BoolArray) -> set[int]:
    return {int(block) for block in np.flatnonzero(~kept)}


@given(costs=st.lists(st.integers(0, 9), min_size=N, max_size=N), drops=st.integers(0, N))
@settings(deadline=None)
def test_where_costs_add_up_the_greedy_order_sorts_them(costs: list[int], drops: int) -> None:
    meter = PaperMeter(N, lambda kept: sum(costs[block] for block in dropped(kept)))
    expected = sorted(range(N), key=lambda block: (costs[block], block))
    assert order(meter, list(range(N)), drops) == expected[:drops]


def test_a_greedy_order_follows_what_was_dropped_before() -> None:
    """Block 2 is cheap alone and dear once block 0 is gone: a sort of single effects misses it."""

    def cost(kept: BoolArray) -> float:
        gone = dropped(kept)
        return (
            len(gone & {0}) * 1 + len(gone & {2}) * 2 + len(gone & {4}) * 3 + 9 * ({0, 2} <= gone)
        )

    assert order(PaperMeter(N, cost), [0, 2, 4], 3) == [0, 4, 2]


@given(layers=st.integers(2, 8), data=st.data())
@settings(deadline=None, max_examples=30)
def test_a_plan_counts_what_the_orders_ask_for(layers: int, data: st.DataObject) -> None:
    plan = designs.Plan(
        attention_drops=data.draw(st.integers(1, layers - 1)),
        ffn_drops=data.draw(st.integers(1, layers)),
    )
    n = 2 * layers
    stated = plan.evaluations(n)
    meter = PaperMeter(n, lambda kept: len(dropped(kept)))
    attention = order(meter, list(range(0, n, 2)), plan.attention_drops)
    assert meter.asked == stated["attention-order"]
    meter.asked = 0
    ffn = order(meter, list(range(1, n, 2)), plan.ffn_drops)
    assert meter.asked == stated["ffn-order"]
    meter.asked = 0
    order(meter, sorted(attention + ffn), len(attention + ffn))
    assert meter.asked == stated["joint-order"]
    assert stated["single"] == len(designs.singles(n))


def test_singles_drop_each_block_once() -> None:
    assert [dropped(kept) for kept in designs.singles(N)] == [{block} for block in range(N)]
    assert designs.dense(N).all()


def test_the_grid_crosses_every_prefix_of_both_orders() -> None:
    found = [dropped(kept) for kept in designs.grid(N, ATTENTION, FFN)]
    assert found == [{*ATTENTION[:a], *FFN[:f]} for a in range(6) for f in range(5)]


def test_a_coarse_grid_is_part_of_the_whole_one_and_has_its_corners() -> None:
    whole = [blocks.key(kept) for kept in designs.grid(N, ATTENTION, FFN)]
    coarse = designs.grid(N, ATTENTION, FFN, step=2)
    keys = [blocks.key(kept) for kept in coarse]
    assert set(keys) < set(whole)
    assert len(keys) == len(set(keys)) == 4 * 3  # 0, 2, 4, 5 and 0, 2, 4
    assert {*ATTENTION, *FFN} in [dropped(kept) for kept in coarse]
    assert designs.dense(N).tolist() in [kept.tolist() for kept in coarse]


@pytest.mark.parametrize("seed", range(3))
def test_random_sets_are_distinct_above_the_floor_and_repeatable(seed: int) -> None:
    droppable = sorted(ATTENTION + FFN)
    sets = designs.random_sets(N, droppable, 60, seed)
    keys = [blocks.key(kept) for kept in sets]
    assert len(set(keys)) == 60
    assert all(dropped(kept) <= set(droppable) and len(dropped(kept)) > 1 for kept in sets)
    assert keys == [blocks.key(kept) for kept in designs.random_sets(N, droppable, 60, seed)]
    assert keys != [blocks.key(kept) for kept in designs.random_sets(N, droppable, 60, seed + 9)]


def test_random_sets_are_spread_over_counts() -> None:
    """Numbers of dropped blocks are uniform; picking blocks by coin would bunch them in the middle."""
    sets = designs.random_sets(60, list(range(32)), 400, seed=0)
    counts = np.array([blocks.dropped_counts(kept) for kept in sets])
    for kind in range(2):
        thirds = np.histogram(counts[:, kind], bins=3, range=(0, 16))[0]
        assert thirds.min() > 0.2 * len(sets)


@pytest.mark.parametrize("seed", range(3))
def test_near_sets_stay_above_the_floor_at_counts_of_the_grid(seed: int) -> None:
    sets = designs.near_sets(N, ATTENTION, FFN, 20, seed)
    assert len({blocks.key(kept) for kept in sets}) == 20
    for kept in sets:
        assert dropped(kept) <= {*ATTENTION, *FFN}
        a, f = blocks.dropped_counts(kept)
        prefix = {*ATTENTION[:a], *FFN[:f]}
        assert len(dropped(kept) - prefix) <= 3, "at most three blocks were exchanged"
