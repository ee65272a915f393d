"""Which card and load a serving scenario gets."""

from dataclasses import replace

import pytest

from rapgym import heldout
from rapgym.policies import serve_rules
from rapgym.policies.serving import serve_briefing
from rapgym.rollout.serving import best_settings, spread
from rapgym.scenarios import catalogue, serving_worlds
from rapgym.scenarios.serving import ServeScenario
from rapgym.scenarios.story import GIB
from rapgym.studies import serving_choice as choice


def entry(card: float, every: int, passes: bool = True) -> choice.Entry:
    return {"card_gib": card, "every": every, "why_not": None if passes else "too easy"}


def test_a_point_passes_where_there_is_something_to_decide() -> None:
    assert choice.why_not(0.2, 0.3) is None
    assert choice.why_not(0.05, 0.06) is None
    assert "too easy" in (choice.why_not(0.049, 0.3) or "")
    assert "too hard" in (choice.why_not(0.51, 3.0) or "")
    assert "15% less than keep-all" in (choice.why_not(0.2, 0.23) or "")


def test_the_load_with_most_passing_cards_is_taken_and_its_middle_card() -> None:
    some = [entry(39, 2), entry(37, 1), entry(40, 2), entry(38, 2, passes=False), entry(41, 2)]
    assert choice.chosen(some) == {"card_gib": 40, "every": 2}
    # Of equals the higher load, and the smaller of two middle cards.
    assert choice.chosen([*some, entry(38, 1), entry(39, 1)]) == {"card_gib": 38, "every": 1}
    assert choice.chosen([entry(30, 1), entry(31, 1)]) == {"card_gib": 30, "every": 1}
    assert choice.chosen([entry(30, 1, passes=False)]) is None


def test_points_lie_around_the_windows_whatever_was_chosen_since(
    serving_story: ServeScenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = replace(serving_story.base, card_gib=3.2, every=2)
    monkeypatch.setattr(catalogue, "scenario", {serving_story.base.name: windows}.__getitem__)
    chosen = replace(
        serving_story, base=replace(serving_story.base, card_gib=7, every=4), traffic_sha256="f00"
    )
    found = [
        (each.base.card_gib, each.base.every, each.traffic_sha256) for each in choice.points(chosen)
    ]
    cards = [float(card) for card in range(1, 9)]
    assert found == [
        (card, every, "f00" if every == 4 else "") for every in (2, 4, 6) for card in cards
    ]


def test_a_point_is_what_its_stretches_of_train_cost(serving_story: ServeScenario) -> None:
    with heldout.only("train") as opened:
        found = choice.tried(serving_story)
    assert opened == {"train"}
    told = serve_briefing(serving_story)
    parts = spread(told.train, choice.PARTS)
    make = serve_rules.RULES["lookup"].make
    _, cost = best_settings(make, serve_rules.COARSE["lookup"], told, parts)
    assert found["costs"]["lookup"] == pytest.approx(cost, abs=1e-6)
    assert found["costs"]["lookup"] < found["costs"]["engine"]
    assert found["card_gib"] == pytest.approx(1200 / GIB)
    assert found["why_not"] == choice.why_not(cost, found["costs"]["keep-all-drop"])
    ample = replace(serving_story, base=replace(serving_story.base, card_gib=1.0))
    assert choice.tried(ample)["costs"]["lookup"] < 0.01
    serving_worlds.forget()
