"""Policies that steer the serving engine over parts of a split, and searches that know the future."""

from functools import partial

import numpy as np
import pytest

from rapgym.errors import InvalidPolicy
from rapgym.policies.serve_rules import Fixed, Lookup
from rapgym.policies.serving import ServeBriefing, serve_briefing
from rapgym.rollout import serve_search
from rapgym.rollout.serve_search import Planned, Search
from rapgym.rollout.serving import best_settings, play, spread
from rapgym.scenarios import serving_worlds
from rapgym.scenarios.serving import ServeScenario
from rapgym.serving import batch
from rapgym.serving.world import Part, ServeWorld

PARTS = [Part(0, 60, 90), Part(0, 500, 60), Part(0, 900, 90)]


@pytest.fixture(scope="module")
def told(serving_story: ServeScenario) -> ServeBriefing:
    return serve_briefing(serving_story)


@pytest.fixture(scope="module")
def world(serving_story: ServeScenario) -> ServeWorld:
    return serving_worlds.world(serving_story, "train")


def test_parts_side_by_side_cost_what_each_costs_alone(
    world: ServeWorld, told: ServeBriefing
) -> None:
    make = partial(Lookup, 0.0, 0.5, 1.0)
    together = play(make, world, PARTS, told)
    alone = [play(make, world, [part], told) for part in PARTS]
    assert np.array_equal(together.record, np.concatenate([each.record for each in alone]))
    pooled = sum(each.cost * each.tokens.sum() for each in alone) / together.tokens.sum()
    assert together.cost == pytest.approx(pooled)


def test_every_token_of_every_request_counts(world: ServeWorld, told: ServeBriefing) -> None:
    served = play(Fixed, world, PARTS, told)
    wanted = [int(world.requests(part).output_tokens.sum()) for part in PARTS]
    assert served.tokens.tolist() == wanted


def test_tuning_takes_what_costs_least_alone(world: ServeWorld, told: ServeBriefing) -> None:
    settings = {"attention": np.array([0, 1, 0, 1]), "ffn": np.array([0, 0, 1, 1])}
    best, cost = best_settings(Fixed, settings, told, PARTS)
    costs = [
        play(partial(Fixed, int(a), int(f)), world, PARTS, told).cost
        for a, f in zip(*settings.values(), strict=True)
    ]
    assert cost == pytest.approx(min(costs))
    assert best == {name: int(values[int(np.argmin(costs))]) for name, values in settings.items()}
    assert len({round(each, 6) for each in costs}) > 1, "the settings differ"


def test_more_settings_than_any_method_may_try_are_refused(told: ServeBriefing) -> None:
    with pytest.raises(InvalidPolicy, match="49 settings"):
        best_settings(Fixed, {"ffn": np.zeros(49, dtype=np.int64)}, told, PARTS)


def test_stretches_are_spread_over_a_world(world: ServeWorld) -> None:
    found = spread(world, 5, 60)
    starts = [part.start_s for part in found]
    assert len(found) == 5
    assert starts[0] == 0
    assert starts == sorted(starts)
    assert max(starts) + 60 > world.spans[0].seconds - 60
    assert spread(world, 5, 10**6) == [Part(0, 0, world.spans[0].seconds)]


def test_a_search_that_sees_all_and_never_changes_is_the_best_constant(
    world: ServeWorld, told: ServeBriefing
) -> None:
    part = PARTS[0]
    search = Search(part.seconds + int(batch.DRAIN_S), part.seconds, 99, 99)
    plan = serve_search.plan(world, part, search)
    found = play(lambda: Planned([plan]), world, [part], told).cost
    costs = [
        play(partial(Fixed, *decision), world, [part], told).cost
        for decision in search.candidates(world).tolist()
    ]
    assert found == pytest.approx(min(costs))
    assert max(costs) > min(costs) + 1e-3


def test_a_search_that_may_change_its_mind_does_better(
    world: ServeWorld, told: ServeBriefing
) -> None:
    part = PARTS[0]

    def cost(search: Search) -> float:
        plan = serve_search.plan(world, part, search)
        assert plan.shape == (part.seconds, 3)
        return play(lambda: Planned([plan]), world, [part], told).cost

    constant = cost(Search(part.seconds + int(batch.DRAIN_S), part.seconds, 99, 99))
    assert cost(Search(30, 3, 99, 99)) < constant
