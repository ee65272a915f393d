"""Rows that are decided all at once are those that are decided in turn, in every field of the log."""

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import pytest

from rapgym.arrays import BoolArray, FloatArray
from rapgym.baselines.forecast import CrossFitted
from rapgym.baselines.frontier_hysteresis import FrontierHysteresis
from rapgym.baselines.random_drop import RandomDrop
from rapgym.guard.guard import Guarding
from rapgym.policies import registry
from rapgym.policies.policy import Briefing, briefing
from rapgym.policies.reference import FrontierLookup
from rapgym.rollout import at_once, rollout
from rapgym.rollout.log import EpisodeLog, joined
from rapgym.scenarios.catalogue import scenario
from rapgym.scenarios.lanes import Lanes, Start
from rapgym.scenarios.story import Scenario

LAPTOP = scenario("laptop")


class Sticky(FrontierLookup):
    """Keeps what is loaded for as long as it fits: one row's set hangs on that of every row before."""

    on_misfit = "refuse"

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        seen = self._lookup.briefing.read(observation)
        used = self._lookup.briefing.footprint.used_bytes(
            seen.loaded, seen.tokens, seen.prompt_tokens
        )
        stays = used + self._lookup.briefing.footprint.margin_bytes <= seen.limit_bytes
        return np.where(stays[:, None], seen.loaded, super().propose(observation, rng))


class Bold(RandomDrop):
    """A user's, which declares what a user's may not."""

    in_step = True


class Mute(FrontierLookup):
    """Has no answer to some row."""

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> Any:
        return None if len(observation) > 1 else super().propose(observation, rng)


class Silent(FrontierLookup):
    """Has no answer at all."""

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> Any:
        return None


def declared(name: str) -> list[registry.Entry]:
    """The methods of the package that declare this, where they can be built on laptop."""
    found = []
    for entry in registry.POLICIES:
        if entry.reads and not registry.trained_seeds(entry, LAPTOP):
            continue
        made = registry.build(entry, registry.settings(entry, briefing(LAPTOP)))
        if getattr(made, name, False):
            found.append(entry)
    return found


def both(make: Callable[[], Any], story: Scenario, start: Start) -> tuple[EpisodeLog, EpisodeLog]:
    told = briefing(story)

    def lanes() -> Lanes:
        return Lanes(story, "test", 1, compiled=True)

    quick = at_once.episodes(make(), lanes(), [start], told)
    assert quick is not None
    return quick, rollout.episode(make(), lanes(), start, told, [0, 0])


def assert_same(quick: EpisodeLog, slow: EpisodeLog) -> None:
    for field in fields(EpisodeLog):
        one, other = (getattr(log, field.name) for log in (quick, slow))
        assert one.shape == other.shape
        assert (one == other).all(), field.name


@pytest.mark.parametrize("entry", declared("lanes_apart"), ids=lambda entry: entry.name)
def test_every_method_that_declares_it_is_served_alike(entry: registry.Entry) -> None:
    options = registry.settings(entry, briefing(LAPTOP))
    assert_same(*both(lambda: registry.build(entry, options), LAPTOP, Start(0, 37, 1.0, 96)))


@pytest.mark.parametrize("name", ["lanes_apart", "in_step"])
def test_pairings_that_are_served_together_are_those_that_are_served_in_turn(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, entries = briefing(LAPTOP, "fit-1"), declared(name)
    assert entries
    for entry in entries:
        make = partial(registry.build, entry, registry.settings(entry, told))
        quick = rollout.run(make, LAPTOP, "validation-1", told, 3)
        with monkeypatch.context() as patch:
            patch.setattr(at_once, "_is_own", lambda policy: False)
            assert_same(quick, rollout.run(make, LAPTOP, "validation-1", told, 3))


@pytest.mark.parametrize("start", [Start(0, 0, 1.0, 96), Start(50, 11, 1.1, 96)])
def test_rows_that_hang_on_all_before_them_are_put_right(start: Start) -> None:
    assert_same(*both(Sticky, LAPTOP, start))


def test_rows_are_asked_in_parts_that_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_once, "MOST_ASKED", 7)
    assert_same(*both(Sticky, LAPTOP, Start(0, 0, 1.0, 96)))


def test_an_answer_that_cannot_be_read_sends_the_episode_back_to_its_rows() -> None:
    lanes = Lanes(LAPTOP, "test", 1, compiled=True)
    starts, told = [Start(0, 0, 1.0, 96)], briefing(LAPTOP)
    assert at_once.episodes(Mute(), lanes, starts, told) is None
    assert at_once.in_step([Silent()], lanes, starts, told, [np.random.default_rng(0)]) is None


def test_who_remembers_draws_or_is_a_users_is_asked_row_by_row() -> None:
    """A user's would see the future, whatever it declares."""
    lanes = Lanes(LAPTOP, "test", 1, compiled=True)
    assert at_once.can_serve(FrontierLookup(), lanes)
    assert not at_once.can_serve(FrontierLookup(), Lanes(LAPTOP, "test", 1)), "nothing is compiled"
    others = (Sticky(), RandomDrop(), FrontierHysteresis(0.0, 0.0, 1))
    folds: Any = CrossFitted([], 0, 1, shift=0.0, caution=0.0, later=0.0)
    for other in (*others, folds):
        assert not at_once.can_serve(other, lanes), type(other).__name__
    assert at_once.can_serve_in_step(RandomDrop())
    for other in (Bold(), Sticky(), folds):
        assert not at_once.can_serve_in_step(other), type(other).__name__


def test_compiled_code_that_decides_in_turn_does_as_its_policy() -> None:
    """Hysteresis keeps sets that are none of the frontier's; a forecast's hangs on what is in memory."""
    told, starts = briefing(LAPTOP), rollout.whole_split(Lanes(LAPTOP, "test", 1).world, 2)
    for name in ("frontier-margin", "frontier-recent", "frontier-hysteresis", "forecast"):
        entry = registry.entry(name)
        make = partial(registry.build, entry, registry.settings(entry, told))
        lanes = Lanes(LAPTOP, "test", 1, compiled=True)
        policies = [make(), make()]
        assert all(at_once.can_tally(policy) for policy in policies)
        quick = at_once.in_turn(policies, lanes, starts, told)
        alone = [rollout.episode(make(), Lanes(LAPTOP, "test", 1, compiled=True), start, told, [0, 0])
                 for start in starts]  # fmt: skip
        assert_same(quick, joined(alone))


def test_a_run_takes_the_way_that_it_may(
    toy_story: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No deadline and no watchdog stands above rows that are decided together."""
    taken = []

    def episodes(*given: Any) -> None:
        taken.append(given)

    monkeypatch.setattr(at_once, "episodes", episodes)
    monkeypatch.setattr(at_once, "can_serve", lambda *given: True)
    told: Briefing = briefing(toy_story)
    rollout.run(FrontierLookup, toy_story, "test", told)
    assert len(taken) == 1
    rollout.run(FrontierLookup, toy_story, "test", told, copies=2)
    rollout.run(FrontierLookup, toy_story, "test", told, guarding=Guarding(deadline_ms=1000))
    assert len(taken) == 1
