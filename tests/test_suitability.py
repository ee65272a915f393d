"""A scenario that is too easy or too hard is refused, by its train split alone."""

from dataclasses import replace

import numpy as np
import pytest

from rapgym import scenario, suitability
from rapgym.errors import InvalidSpec
from rapgym.scenario import GIB, Scenario


def test_a_fair_scenario_says_why(toy_story: Scenario) -> None:
    assert "above the bound" in suitability.check(toy_story)


def test_one_in_which_dense_always_fits_is_too_easy(toy_story: Scenario) -> None:
    with pytest.raises(InvalidSpec, match="too easy: dense fits in 100%"):
        suitability.check(replace(toy_story, card_gib=100_000 / GIB))


def test_one_in_which_nothing_fits_is_too_hard(toy_story: Scenario) -> None:
    with pytest.raises(InvalidSpec, match="too hard: the floor fits in 0%"):
        suitability.check(replace(toy_story, card_gib=520 / GIB))


def test_shares_of_fitting_rows_equal_a_plain_count(toy_story: Scenario) -> None:
    world = scenario.world(toy_story, "train")
    rows, footprint = world.rows, world.footprint
    fitting = 0
    for t in range(len(rows)):
        tokens = int(rows.prompt_tokens[t] + rows.reserved_tokens[t])
        used = footprint.fixed_bytes + sum(
            cost
            for kept, cost in zip(world.floor, footprint.block_bytes(np.array(tokens)), strict=True)
            if kept
        )
        fitting += all(used <= limit for limit in rows.limit_bytes[t])
    assert suitability.fitting_share(world, world.floor) == pytest.approx(fitting / len(rows))


def test_numbers_are_those_that_the_story_implies(toy_story: Scenario) -> None:
    found = suitability.numbers(replace(toy_story))
    assert found["window_s"] == toy_story.window_s
    assert found["byte_scale"] == found["token_scale"] == 1, "the toy model stands for itself"
    assert found["rows"]["train"] + found["rows"]["test"] < 200
