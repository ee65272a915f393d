"""The study of the serving engine, on the toy world."""

from dataclasses import replace

import numpy as np
import pytest
from serving_bench import few_settings

from rapgym.bench.serving import cells, score
from rapgym.policies.serve_rules import Fixed
from rapgym.policies.serving import serve_briefing
from rapgym.rollout import serve_search
from rapgym.rollout.serve_search import Search
from rapgym.rollout.serving import Served, play
from rapgym.scenarios import serving_worlds
from rapgym.scenarios.serving import ServeScenario
from rapgym.serving import batch
from rapgym.serving.world import Part
from rapgym.studies import serving

PART = Part(0, 0, 60)


def served(costs: list[float], tokens: list[float]) -> Served:
    """Parts that cost so much, with so many output tokens delivered."""
    record = np.zeros((len(costs), len(batch.COLUMNS)))
    record[:, batch.COST], record[:, batch.TOKENS] = costs, tokens
    return Served((PART,) * len(costs), record)


def test_an_interval_is_of_the_pooled_cost_and_of_pairs() -> None:
    one = served([1.0, 3.0, 2.0, 6.0, 1.0, 5.0, 2.0, 4.0], [10.0] * 8)
    other = replace(one, record=one.record.copy())
    other.record[:, batch.COST] += 1.0
    found = score.estimate(one)
    assert found.value == pytest.approx(24 / 80)
    assert found.low < found.value < found.high
    pairs = score.estimate(other, one)
    # Each part costs as much more: nothing is left to chance.
    assert (pairs.value, pairs.low, pairs.high) == pytest.approx((0.1, 0.1, 0.1))


def test_a_scenario_is_studied_as_its_parts_say(
    serving_story: ServeScenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_search, "SEARCHES", (Search(10, 5, 2, 2),))
    monkeypatch.setattr(cells, "SEARCH_PARTS", 1)
    monkeypatch.setattr(cells, "SEARCH_S", 60)
    with few_settings():
        entry = serving.studied(serving_story, searches=True)
    world, told = serving_worlds.scoring_world(serving_story), serve_briefing(serving_story)
    engine = play(Fixed, world, world.pieces, told)
    rules = entry["rules"]
    assert rules["engine"]["cost"] == pytest.approx(engine.cost, abs=1e-6)
    assert rules["engine"]["shed"] == pytest.approx(
        engine.record[:, batch.SHED].sum() / engine.record[:, batch.ARRIVED].sum(), abs=1e-6
    )
    against = entry["against_lookup"]["engine"]["value"]
    assert against == pytest.approx(rules["engine"]["cost"] - rules["lookup"]["cost"], abs=2e-6)
    assert rules["lookup"]["cost"] < rules["engine"]["cost"], "pruning is worth it in the toy world"
    (search,) = entry["stretches"]["searches"].values()
    assert 0 <= search["undelivered"] <= 1
    assert entry["stretches"]["rules"].keys() == rules.keys()
