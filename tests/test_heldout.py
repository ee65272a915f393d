"""What is kept from training cannot be opened there, by any of the doors."""

from collections.abc import Callable
from typing import Any

import pytest

from rapgym import heldout
from rapgym.envs import env
from rapgym.errors import HeldOut
from rapgym.learning.training import PARTS
from rapgym.policies.policy import briefing, held_out
from rapgym.policies.reference import FrontierLookup
from rapgym.policies.trained import MAY_OPEN
from rapgym.rollout import rollout
from rapgym.scenarios import tables, worlds
from rapgym.scenarios.story import Scenario
from rapgym.workload import series

DOORS: dict[str, Callable[[Scenario], Any]] = {
    "rows of a world": lambda story: worlds.world(story, "test"),
    "rows of a split": lambda story: worlds.rows(story, "test"),
    "a fold's rows": lambda story: worlds.world(story, "validation-3"),
    "the rest of train": lambda story: worlds.world(story, "train"),
    "the whole workload": worlds.workload,
    "the scorer's world": lambda story: worlds.scoring_world(story, "learn"),
    "test columns": lambda story: tables.table(story).test(),
    "an environment": lambda story: env.RapEnv("counts", story.name, split="test"),
    "a rollout": lambda story: rollout.run(FrontierLookup, story, "test", briefing(story, "learn")),
    "a briefing": lambda story: briefing(story, "train"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("known_before", [False, True])
def test_training_meets_an_error_at_each_door(
    toy_story: Scenario, door: str, known_before: bool
) -> None:
    if known_before:
        DOORS[door](toy_story)  # what is remembered must not be handed out either
    with heldout.only("learn", "check"), pytest.raises(HeldOut, match="check, learn alone"):
        DOORS[door](toy_story)


def test_what_training_may_open_is_told(toy_story: Scenario) -> None:
    with heldout.only("learn", "check") as opened:
        worlds.world(toy_story, "learn")
        assert opened == {"learn"}
        rollout.run(FrontierLookup, toy_story, "check", briefing(toy_story, "learn"))
        assert opened == {"learn", "check"}
    assert len(worlds.workload(toy_story)), "afterwards all is open again"


def test_guards_inside_each_other_all_hold(toy_story: Scenario) -> None:
    with heldout.only("learn", "check"):
        with heldout.only("learn", "test"), pytest.raises(HeldOut):
            worlds.world(toy_story, "test")
        with pytest.raises(HeldOut):
            worlds.world(toy_story, "test")


@pytest.mark.parametrize("scheme", ["time", "blocked"])
@pytest.mark.parametrize("rows", [1, 10, 487, 2000])
@pytest.mark.parametrize("told", PARTS)
def test_what_is_told_opens_no_row_that_it_is_judged_on(told: Any, rows: int, scheme: Any) -> None:
    part = {name: {*series.split_rows(rows, name, scheme).tolist()} for name in series.SPLITS}
    opened = set().union(*(part[name] for name in PARTS[told]))
    assert opened == part[told]
    assert not opened & part[held_out(told)]
    assert not opened & part["test"]
    assert {*PARTS[told]} <= MAY_OPEN[told]
    for name in MAY_OPEN[told]:
        assert part[name] <= part[told], "what it may open holds no other row"
