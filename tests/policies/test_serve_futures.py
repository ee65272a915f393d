"""Model-predictive control of the serving engine: what futures it samples, what it decides by them."""

from dataclasses import replace

import numpy as np
import pytest

from rapgym.arrays import FloatArray
from rapgym.policies import serve_futures
from rapgym.policies.serve_futures import Futures, past_of, pasts
from rapgym.policies.serve_rules import Lookup
from rapgym.policies.serving import Grid, ServeBriefing, serve_briefing
from rapgym.scenarios.serving import ServeScenario
from rapgym.serving import sight
from rapgym.serving.engine import DROP
from rapgym.serving.world import ServeWorld, Span

RNG = np.random.default_rng(0)
NONE = np.zeros(0, dtype=np.int64)


@pytest.fixture(scope="module")
def told(serving_story: ServeScenario) -> ServeBriefing:
    return serve_briefing(serving_story)


def with_limits(world: ServeWorld, *limits: list[int]) -> ServeWorld:
    """The world with spans of these limits and no requests."""
    spans = tuple(Span(NONE, NONE, NONE, np.array(each)) for each in limits)
    return replace(world, spans=spans)


def seen(
    told: ServeBriefing, limits: list[float], held: float = 0.0, prompts: float = 1.0
) -> FloatArray:
    """An observation of these limits, the newest last, and prompts over the mean, float32 [1, O]."""
    units, row = sight.units(told.train), np.zeros((1, sight.WIDTH), dtype=np.float32)
    row[0, sight.SLICES["limit"]] = np.pad(limits, (60 - len(limits), 0), mode="edge")
    row[0, sight.SLICES["limit"]] /= units[sight.CARD_BYTES]
    row[:, sight.SLICES["held"]] = held / units[sight.MOST_TOKENS]
    row[:, sight.SLICES["prompts"]] = prompts
    return row


def test_a_past_is_compared_by_what_it_is_and_how_it_came_there() -> None:
    limits = np.arange(100.0)[None]
    assert past_of(limits, 10.0).tolist() == [[9.9, 0.5, 1.5]]


def test_pasts_are_of_one_span_and_their_futures_the_lowest(told: ServeBriefing) -> None:
    rng = np.random.default_rng(1)
    limits = [rng.integers(100, 999, seconds).tolist() for seconds in (60, 20, 80)]
    world = with_limits(told.train, *limits)
    seen_there, changes = pasts(world)
    # 16 s back and 30 s ahead: 15 seconds of the first span, none of the second, 35 of the third.
    assert len(seen_there) == len(changes) == 15 + 35
    for index, (span, second) in ((0, (0, 16)), (14, (0, 30)), (15, (2, 16)), (49, (2, 50))):
        own = limits[span]
        assert seen_there[index, 0] == own[second - 1] / world.card_bytes
        assert seen_there[index, 2] == (own[second - 1] - own[second - 16]) / world.card_bytes
        lowest = [min(own[second + a : second + b]) for a, b in ((0, 5), (5, 15), (15, 30))]
        assert changes[index].tolist() == [each - own[second - 1] for each in lowest]


def test_a_world_too_short_for_a_past_goes_on_as_it_is(told: ServeBriefing) -> None:
    short = replace(told, train=with_limits(told.train, [500] * 45))
    policy = Futures(margin=0.0, demand=0.0, price=1.0, later=1.0)
    policy.reset(1, short)
    row = seen(short, [700.0])
    assert policy.futures(short.read(row)) == pytest.approx(700, rel=1e-6)


def test_where_memory_never_moves_it_is_the_lookup(told: ServeBriefing) -> None:
    still = replace(told, train=with_limits(told.train, [500] * 200))
    futures, lookup = Futures(0.01, 0.0, 0.5, 0.5), Lookup(0.01, 0.0, 0.5)
    for policy in (futures, lookup):
        policy.reset(1, still)
    for limit in (350.0, 420.0, 500.0, 800.0):
        for held in (0.0, 5.0, 20.0):
            row = seen(still, [limit], held)
            assert np.array_equal(futures.decide(row, RNG), lookup.decide(row, RNG))


def test_it_makes_room_before_a_fall_that_train_has_shown(told: ServeBriefing) -> None:
    """On train a rise to 900 is always followed by a fall to 450, ten seconds later."""
    wave = ([450] * 40 + [900] * 10) * 8
    moving = replace(told, train=with_limits(told.train, wave))
    eager, near = Futures(0.0, 0.0, 1.0, later=1.0), Futures(0.0, 0.0, 1.0, later=0.0)
    grid = Grid.of(moving.train)
    held = float(grid.room_tokens(np.array([600.0]))[0, 0, 0])  # fits beside all blocks at 600
    row = seen(moving, [450.0] * 50 + [900.0] * 3, held)
    for policy in (eager, near):
        policy.reset(1, moving)
    assert eager.futures(moving.read(row))[0, :, 1].max() == pytest.approx(450, rel=1e-6)
    assert near.decide(row, RNG)[0].tolist() == [0, 0, DROP]
    assert eager.decide(row, RNG)[0, :2].sum() > 0


def test_prompts_above_the_mean_ask_for_room(told: ServeBriefing) -> None:
    still = replace(told, train=with_limits(told.train, [500] * 200))
    grid = Grid.of(still.train)
    held = float(grid.room_tokens(np.array([500.0]))[0, 0, 0]) - 1
    heavy = 1 + 40 / told.train.means.prompt_tokens
    for demand, prompts, drops in ((1.0, heavy, True), (0.0, heavy, False), (1.0, 1.0, False)):
        policy = Futures(0.0, demand, 1.0, later=1.0)
        policy.reset(1, still)
        decided = policy.decide(seen(still, [500.0], held, prompts), RNG)
        assert (decided[0, :2].sum() > 0) == drops


def test_settings_side_by_side_are_each_alone(told: ServeBriefing) -> None:
    margins, prices = np.array([0.0, 0.05, 0.1]), np.array([1.0, 0.3, 0.6])
    rows = np.repeat(seen(told, [420.0, 500.0, 450.0], held=8.0), 3, axis=0)
    together = Futures(margins, 0.5, prices, later=np.array([0.1, 0.5, 1.0]))
    together.reset(3, told)
    found = together.decide(rows, RNG)
    for lane, later in enumerate((0.1, 0.5, 1.0)):
        alone = Futures(float(margins[lane]), 0.5, float(prices[lane]), later)
        alone.reset(1, told)
        assert np.array_equal(alone.decide(rows[:1], RNG)[0], found[lane])


def test_so_many_pasts_at_most(told: ServeBriefing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_futures, "MOST_PASTS", 7)
    assert len(pasts(with_limits(told.train, [500] * 400))[0]) == 7
