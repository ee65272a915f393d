"""Counterfactual costs: those of the simulator, for any pair of a second and a demand of the record."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import stories
import toy_world
from toy_table import ALL_SETS

from rapgym.arrays import FloatArray, IntArray
from rapgym.errors import InvalidPolicy
from rapgym.learning.hindsight import counterfactual
from rapgym.learning.hindsight.counterfactual import Recorded, Remains
from rapgym.policies.policy import briefing
from rapgym.policies.reference import frontier
from rapgym.scenarios import worlds
from rapgym.scenarios.card import card_bytes
from rapgym.scenarios.story import Scenario
from rapgym.world import encoding, simulator
from rapgym.world.records import World

AT_ONCE = 1e18  # bytes a second at which blocks come back without a stall


def recorded(world: World, story: Scenario) -> Recorded:
    layout = encoding.layout(world, card_bytes=card_bytes(story))
    return Recorded.of(
        world,
        layout,
        frontier(world.quality).kept,
        seconds=400,
        demands=8,
        scales=(1.0, 1.0),
        rng=np.random.default_rng(0),
    )


def simulated(world: World, d: IntArray, at: IntArray, kept: np.ndarray) -> FloatArray:
    """What the simulator charges for row `d` at limit row `at`, nats an output token, no stalls."""
    state = world.state(d, at)
    _, outcome = simulator.step(replace(world, restore_bytes_per_s=AT_ONCE), state, kept)
    weight = np.maximum(outcome.output_tokens / world.mean_output_tokens, 1e-12)
    found: FloatArray = outcome.terms.total / weight
    return found


@pytest.mark.parametrize("made", [stories.mixed, stories.noticed, stories.code])
@pytest.mark.usefixtures("shaped")
def test_costs_are_the_simulators(made: Callable[[], Scenario]) -> None:
    """But for what the shield gives back, which few rows have and which is a block or so."""
    story = made()
    world = worlds.world(story, "learn")
    found, window_s = recorded(world, story), world.window_s
    known_s = counterfactual.known_seconds(world)
    begins = np.flatnonzero((found.second - known_s + 1) % window_s == 0)
    at_row = (found.second[begins] - known_s + 1) // window_s
    served = found.remains.kept[:, 0]
    d, at, k = (each.ravel() for each in np.meshgrid(
        np.arange(len(found.row)), np.arange(len(begins)), np.arange(len(served)), indexing="ij"
    ))  # fmt: skip
    lowest_known = world.rows.limit_bytes[at_row[at], :known_s].min(axis=1)
    fits = found.used[1, d, k, 0] <= lowest_known
    d, at, k = d[fits], at[fits], k[fits]
    assert len(d) > 1000
    right = simulated(world, found.row[d], at_row[at], served[k])
    difference = np.abs(found.cost[d, begins[at], k] - right)
    has_output = world.rows.output_tokens[found.row[d]] > 0
    difference, right = difference[has_output], right[has_output]
    assert right.std() > 0.1, "the rows differ"
    assert (difference < 1e-5).mean() > 0.9
    assert difference.mean() < 0.01 * right.mean()


def test_a_fall_by_hand() -> None:
    """Three seconds ahead: the second takes a block, so it is not served, and the third is at less."""
    used = np.array([[400, 340, 300]])
    loss = np.array([[0.0, 0.5, 1.0]])
    limits = np.array([[400, 399, 399], [400, 400, 400], [350, 310, 299]])
    cost, passed = counterfactual.costs(used, loss, limits, 4.0, pause_s=1.0)
    assert cost[:, 0].tolist() == [0.0 + 4.0 + 0.5, 0.0, 4.0 + 4.0 + 4.0]
    assert passed[:, 0].tolist() == [1, 0, 3], "3 of 3 passed: the rest of the row is refused"
    noticed, _ = counterfactual.costs(used, loss, limits, 4.0, pause_s=0.0)
    assert noticed[:, 0].tolist() == [0.0 + 0.5 + 0.5, 0.0, 0.5 + 1.0 + 4.0]
    quick, _ = counterfactual.costs(used, loss, limits, 4.0, pause_s=0.25)
    once, more = 0.25 * 4 + 0.75 * 0.5, 0.25 * 4 + 0.75 * 1.0
    assert quick[:, 0].tolist() == [0.0 + once + 0.5, 0.0, once + more + 4.0]


def test_what_returns_is_what_is_missing() -> None:
    world = toy_world.toy_world(toy_world.toy_rows([1], [[400] * 4]))
    sets = np.array([kept for kept in ALL_SETS if kept[:2].all()])
    remains = Remains.of(world, sets)
    back = remains.returning(world.footprint, sets)
    assert (back > 0).any()
    for k, j, m in np.ndindex(back.shape):
        missing = sets[m] & ~remains.kept[k, j]
        assert back[k, j, m] == world.footprint.weights[missing].sum()


@pytest.mark.usefixtures("shaped")
def test_observations_are_those_of_the_world() -> None:
    """A pair that was really served looks as it did then, the rows before and after it too."""
    story = stories.mixed()
    world = worlds.world(story, "learn")
    found = recorded(world, story)
    begins = np.flatnonzero(found.second % world.window_s == 0)
    at_row = found.second[begins] // world.window_s
    assert len(begins) > 10
    loaded = np.random.default_rng(0).random((len(begins), world.blocks)) < 0.7
    compared = 0
    for d in range(3):
        for side in counterfactual.SIDES:
            demand = np.full(len(begins), found.row[d] + side)
            state = world.state(demand, at_row + side, loaded=loaded)
            long_ago = np.full(len(begins), encoding.HISTORY)
            seen = encoding.visible(world, state, long_ago)
            right = encoding.observe(world, found.layout, seen)
            got = found.observe(side, np.full(len(begins), d), begins, loaded)
            if demand[0] >= encoding.HISTORY:
                assert (got == right).all()
                compared += 1
    assert compared >= 3


def test_few_requests_let_expect_no_less_than_no_output() -> None:
    """The line that is fitted to these rows crosses zero between one request and two."""
    batch, output = np.array([0, 1, 2, 3, 10]), np.array([0, 0, 0, 10, 90])
    rows = toy_world.toy_rows([1] * 5, [[400] * 4] * 5)
    world = toy_world.with_rows(toy_world.toy_world(rows), batch=batch, output_tokens=output)
    line = np.polyval(np.polyfit(batch, output, 1), batch)
    assert (line[:2] < 0).all()
    found = counterfactual.expected_output(world)
    assert found == pytest.approx(np.maximum(line, 0) / 20)


def test_it_knows_the_rows_it_was_given_alone(toy_story: Scenario) -> None:
    """Nothing beyond the split that is learnt from is in it: other splits may hold anything."""
    world = briefing(toy_story, "learn").train
    found = recorded(world, toy_story)
    assert found.second.max() + world.window_s < world.rows.limit_bytes.size
    assert found.row.max() + 1 < len(world.rows)


def test_too_few_rows_are_refused() -> None:
    world = toy_world.toy_world(toy_world.toy_rows([1] * 9, [[400] * 4] * 9))
    with pytest.raises(InvalidPolicy, match="too few rows"):
        recorded(world, toy_world.STORY)
