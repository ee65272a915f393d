"""Where `reaction_s` is a second, all is as it was when every emergency lost its whole second."""

from typing import Any

import numpy as np
import pytest
import whole_second

KEPT = whole_second.kept()
WHOLE = {"reaction_s": 1.0}


def assert_same(found: dict[str, Any], kept: dict[str, Any]) -> None:
    """But for the best plan, which may be better: it knows now what reloads cost after an emergency."""
    assert found["ends"] == kept["ends"]
    assert np.array(found["terms"]) == pytest.approx(np.array(kept["terms"]), abs=2e-9)
    assert found["bound"] == pytest.approx(kept["bound"], abs=2e-9)
    assert found["best_plan"] <= kept["best_plan"] + 2e-9


def test_tiny_worlds_give_what_was_kept() -> None:
    emergencies, better_plans = 0, 0
    for seed, kept in enumerate(KEPT["tiny"]):
        found = whole_second.tiny_account(seed, **WHOLE)
        assert_same(found, kept)
        emergencies += sum(row[2] > 0 for row in found["terms"])
        better_plans += found["best_plan"] < kept["best_plan"] - 2e-9
    assert emergencies > 50
    assert better_plans <= 1, "few reloads are interrupted"


@pytest.mark.parametrize("name", KEPT["shaped"])
def test_rows_of_a_scenario_give_what_was_kept(name: str) -> None:
    found = whole_second.shaped_account(KEPT["stored"][name], **WHOLE)
    assert_same(found, KEPT["shaped"][name])
    assert sum(row[2] > 0 for row in found["terms"]) > 3


@pytest.mark.parametrize("reaction_s", [0.0, 0.1, 0.5])
def test_a_shorter_reaction_costs_less_and_longer_than_a_second_is_a_second(
    reaction_s: float,
) -> None:
    for name, stored in KEPT["stored"].items():
        found = whole_second.shaped_account(stored, reaction_s=reaction_s)
        kept = KEPT["shaped"][name]
        before, now = np.array(kept["terms"]), np.array(found["terms"])
        assert now[:, 2] == pytest.approx(reaction_s * before[:, 2], abs=2e-9)
        assert (now.sum(axis=1) <= before.sum(axis=1) + 2e-9).all()
        assert sum(found["bound"]) <= sum(kept["bound"]) + 2e-9
        assert_same(whole_second.shaped_account(stored, reaction_s=2.0), kept)
