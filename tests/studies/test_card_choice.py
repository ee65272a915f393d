"""The rule that chooses a scenario's card: by train alone, the middle of the cards that pass."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from rapgym import heldout
from rapgym.files import places
from rapgym.model.shapes import BF16
from rapgym.policies.policy import briefing
from rapgym.policies.reference import FrontierLookup
from rapgym.quality.table import QualityTable
from rapgym.rivals import rivals
from rapgym.rollout import tuning
from rapgym.scenarios import catalogue, worlds
from rapgym.scenarios.story import GIB, Scenario
from rapgym.studies import choice


@pytest.fixture(scope="module", autouse=True)
def _formats() -> Iterator[None]:
    """The toy table does not know what formats cost: a quarter of a nat."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            QualityTable, "format_nll", lambda table, form, *place: 0.0 if form == BF16 else 0.25
        )
        yield


@pytest.fixture(scope="module")
def tried(toy_story: Scenario, _formats: None) -> tuple[dict[str, Any], set[str]]:
    """How the toy scenario's card is judged, and what that opened."""
    with heldout.only("train", heldout.WHOLE) as opened:
        found = choice.tried(toy_story)
    return found, {*opened}


def entry(card: float, why_not: str | None = None) -> dict[str, Any]:
    return {"card_gib": card, "why_not": why_not}


def test_the_middle_card_that_passes_is_taken_the_smaller_of_two() -> None:
    every = [entry(44), entry(40, "too hard"), entry(41), entry(42), entry(43)]
    assert choice.chosen(every) == 42
    assert choice.chosen([entry(41), entry(42), entry(40, "too hard")]) == 41
    assert choice.chosen([entry(40, "too hard")]) is None


def test_a_card_is_judged_by_train_alone(
    toy_story: Scenario, tried: tuple[dict[str, Any], set[str]]
) -> None:
    found, opened = tried
    assert opened == {"train", heldout.WHOLE}
    told = briefing(replace(toy_story, offsets=min(choice.PAIRINGS, toy_story.offsets)))
    lookup = tuning.train_cost(FrontierLookup, told)
    assert found["costs"]["frontier"] == pytest.approx(lookup, abs=1e-6)
    for name in ("int8-admission", "partial-admission", "int4"):
        own = rivals.log(told.scenario, rivals.rival(name), "train").mean_cost
        assert found["costs"][name] == pytest.approx(own, abs=1e-6)
    world = worlds.world(toy_story, "train")
    used = world.footprint.used_bytes(
        ~world.floor | world.floor,
        world.rows.prompt_tokens + world.rows.reserved_tokens,
        world.rows.prompt_tokens,
    )
    fits = (used[:, None] <= world.rows.limit_bytes).mean()
    assert found["full_fits_seconds"] == pytest.approx(float(fits), abs=1e-6)


def test_what_does_not_pass_says_why(
    toy_story: Scenario, tried: tuple[dict[str, Any], set[str]]
) -> None:
    ample = choice.tried(replace(toy_story, card_gib=10_000 / GIB))
    assert "too easy" in ample["why_not"]
    found, _ = tried
    cheaper = [
        name for name, cost in found["costs"].items()
        if cost <= found["costs"]["frontier"] and name not in ("frontier", "keep-all")
    ]  # fmt: skip
    if cheaper:
        assert found["why_not"] is not None
        assert all(name in found["why_not"] for name in cheaper)
    else:
        assert found["why_not"] is None


def test_the_frozen_cards_are_those_that_the_kept_command_chose() -> None:
    kept = json.loads((places.RESULTS / "choice.json").read_text())
    assert len(kept["chosen"]) == 5
    for name, card in kept["chosen"].items():
        story = catalogue.scenario(name)
        assert story.group == "8-bit"
        assert story.card_gib == card
        entries = [each for each in kept["entries"] if each["scenario"] == name]
        assert choice.chosen(entries) == card
