"""Policies serve rows: the golden log, replay, answers that nobody can read, and what baselines promise."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reachable import snapshot
from toy_table import kept_without

from rapgym.arrays import FloatArray
from rapgym.baselines.keep_all import KeepAll
from rapgym.baselines.random_drop import RandomDrop
from rapgym.errors import InvalidPolicy, InvalidResult
from rapgym.guard import guard
from rapgym.model import blocks
from rapgym.policies.policy import Briefing, briefing
from rapgym.policies.reference import FrontierLookup
from rapgym.rollout import rollout
from rapgym.rollout.log import EpisodeLog
from rapgym.scenarios import worlds
from rapgym.scenarios.story import Scenario
from rapgym.world.shield import Reason

GOLDEN = Path(__file__).parents[1] / "golden" / "toy.json"


class Drawn:
    """Proposals drawn from the rng that the rollout passes in; some rows are unreadable."""

    def reset(self, batch: int, briefing: Briefing) -> None:
        self._rows = 0

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> Any:
        self._rows += 1
        proposal = rng.random((len(observation), 6)) < 0.7
        return None if self._rows % 7 == 0 else proposal


def recorded(log: EpisodeLog) -> dict[str, list[Any]]:
    """A log as text: kept sets by their keys, numbers to nine digits."""
    told: dict[str, list[Any]] = {}
    for field in fields(EpisodeLog):
        array = getattr(log, field.name)
        if array.ndim == 3:
            told[field.name] = [[blocks.key(kept) for kept in row] for row in array]
        else:
            told[field.name] = [[round(value, 9) for value in row] for row in array.tolist()]
    return told


def test_the_golden_log_replays_to_the_same_rows(toy_story: Scenario) -> None:
    """Recorded once and committed: whatever changes it moves scores, and needs a new version.

    To record it anew: python tests/golden/record.py
    """
    golden = json.loads(GOLDEN.read_text())
    made = rollout.run(Drawn, toy_story, "test", briefing(toy_story), seed=1)
    found = recorded(made)
    assert found.keys() == golden.keys()
    for name, rows in golden.items():
        for t, row in enumerate(rows):
            assert found[name][t] == pytest.approx(row, abs=1e-9) if name in (
                "nll", "quality", "stall", "emergency", "refused"
            ) else found[name][t] == row, f"{name} of row {t}"  # fmt: skip
    assert {Reason(r) for r in np.ravel(golden["reason"])} == {
        Reason.POLICY, Reason.REPAIRED, Reason.FALLBACK, Reason.REFUSED
    }, "the recording has a row of every reason"  # fmt: skip
    for term in ("quality", "stall", "emergency", "refused"):
        assert np.sum(golden[term]) > 0


@pytest.mark.parametrize("strict", [False, True])
def test_replay_reproduces_a_log_and_shows_what_was_altered(
    toy_story: Scenario, strict: bool
) -> None:
    policy: Any = Drawn()
    policy.on_misfit = "refuse" if strict else "repair"
    log = rollout.run(lambda: policy, toy_story, "test", briefing(toy_story), seed=2)
    world = worlds.world(toy_story, "test")
    again = rollout.replay(world, log, refuses_misfit=strict)
    for field in fields(EpisodeLog):
        one, other = getattr(log, field.name), getattr(again, field.name)
        assert one.tobytes() == other.tobytes(), field.name
        assert one.dtype == other.dtype, field.name
    altered = replace(log, kept=log.kept.copy(), quality=log.quality * 0.5)
    once_more = rollout.replay(world, altered, refuses_misfit=strict)
    assert once_more.quality.tobytes() == log.quality.tobytes(), "costs are computed, not copied"


def test_replay_with_test_columns_changes_nats_alone(toy_story: Scenario) -> None:
    log = rollout.run(KeepAll, toy_story, "test", briefing(toy_story))
    scored = rollout.replay(worlds.scoring_world(toy_story), log, refuses_misfit=False)
    for name in ("kept", "kept_end", "reason", "used_bytes", "stall", "emergency", "refused"):
        assert (getattr(scored, name) == getattr(log, name)).all(), name
    dropped = (~log.kept).sum(axis=2)
    assert scored.nll == pytest.approx(log.nll + 0.02 * dropped)


@pytest.mark.parametrize(
    "change", [{"row": np.full((50, 4), 50)}, {"limit_row": np.full((50, 4), -1)}, {"proposal": np.ones((50, 4, 8), bool)}]
)  # fmt: skip
def test_a_log_of_another_world_is_refused(toy_story: Scenario, change: dict[str, Any]) -> None:
    log = rollout.run(KeepAll, toy_story, "test", briefing(toy_story))
    with pytest.raises(InvalidResult, match=r"another model|does not have"):
        rollout.replay(
            worlds.world(toy_story, "test"), replace(log, **change), refuses_misfit=False
        )


def test_the_reported_cost_is_a_ratio_of_sums(toy_story: Scenario) -> None:
    log = rollout.run(KeepAll, toy_story, "test", briefing(toy_story))
    total = sum(
        float(log.cost[t, b]) * int(log.output_tokens[t, b]) for t in range(50) for b in range(4)
    )
    assert log.mean_cost == pytest.approx(total / log.output_tokens.sum())
    assert log.output_tokens.min() == 0 < log.output_tokens.max()


class Answers:
    """Answers with what it was given to answer with; an exception is raised."""

    def __init__(self, answer: Callable[[int], Any]) -> None:
        self._answer = answer

    def reset(self, batch: int, briefing: Briefing) -> None:
        """Nothing to forget."""

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> Any:
        observation[...] = np.nan  # its own copy
        return self._answer(len(observation))


def raising(error: type[BaseException]) -> Callable[[int], Any]:
    def answer(lanes: int) -> Any:
        raise error

    return answer


class Wild(np.ndarray[Any, Any]):
    """Right type, right shape, and nothing can be done with it."""

    def __array_ufunc__(self, *args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError

    def __getitem__(self, item: object) -> Any:
        raise ZeroDivisionError

    def copy(self, order: Any = "C") -> Any:
        return self


class Endless:
    """Says that it has an answer a lane, and never stops giving them."""

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes

    def __len__(self) -> int:
        return self._lanes

    def __iter__(self) -> Any:
        while True:
            yield [True] * 6


UNREADABLE: dict[str, Callable[[int], Any]] = {
    "an exception": raising(RuntimeError),
    "an exit": raising(SystemExit),
    "out of memory": raising(MemoryError),
    "nothing": lambda lanes: None,
    "one set for all": lambda lanes: np.ones(6, dtype=bool),
    "too many lanes": lambda lanes: np.ones((lanes + 1, 6), dtype=bool),
    "too few blocks": lambda lanes: np.ones((lanes, 5), dtype=bool),
    "NaN": lambda lanes: np.full((lanes, 6), np.nan),
    "halves": lambda lanes: np.full((lanes, 6), 0.5),
    "text": lambda lanes: ["111111"] * lanes,
    "generator": lambda lanes: ([True] * 6 for _ in range(lanes)),
    "objects": lambda lanes: np.full((lanes, 6), None),
    "a number": lambda lanes: 3,
}


@pytest.mark.parametrize("answer", UNREADABLE.values(), ids=UNREADABLE)
def test_the_reference_stands_in_for_what_cannot_be_read(
    toy_story: Scenario, answer: Callable[[int], Any]
) -> None:
    told = briefing(toy_story)
    log = rollout.run(lambda: Answers(answer), toy_story, "validation-3", told)
    reference = rollout.run(FrontierLookup, toy_story, "validation-3", told)
    assert (log.source == Reason.FALLBACK).all()
    assert (log.proposal == reference.proposal).all()
    assert (log.cost == reference.cost).all()
    assert {Reason(r) for r in np.unique(log.reason)} <= {Reason.FALLBACK, Reason.REFUSED}


def test_lanes_that_can_be_read_are_taken_as_they_are(toy_story: Scenario) -> None:
    def some(lanes: int) -> list[Any]:
        return [[1, 1, 1, 1, 0, 1], "?", np.ones(6), None][:lanes]

    log = rollout.run(
        lambda: Answers(some), toy_story, "validation-3", briefing(toy_story), copies=4
    )
    sources = [Reason.POLICY, Reason.FALLBACK, Reason.POLICY, Reason.FALLBACK]
    assert (log.source == sources * toy_story.offsets).all()
    assert (log.proposal[:, 0] == kept_without(4)).all()
    assert log.proposal[:, 2].all()


@pytest.mark.parametrize("answer", [
    lambda lanes: np.ones((lanes, 6), dtype=bool).view(Wild), Endless,
], ids=["a wild array", "an endless answer"])  # fmt: skip
def test_wild_answers_do_no_harm(toy_story: Scenario, answer: Callable[[int], Any]) -> None:
    log = rollout.run(lambda: Answers(answer), toy_story, "validation-3", briefing(toy_story))
    assert type(log.proposal) is np.ndarray
    lookup = rollout.run(FrontierLookup, toy_story, "validation-3", briefing(toy_story))
    assert log.proposal.all() or (log.proposal == lookup.proposal).all()


def test_an_answer_that_changes_afterwards_changes_nothing() -> None:
    answer = np.ones((2, 6), dtype=bool)
    read, _ = guard.ask(Answers(lambda lanes: answer), np.zeros((2, 3)), np.random.default_rng(), 6)
    answer[...] = False
    assert read.all()


def test_ctrl_c_still_works() -> None:
    with pytest.raises(KeyboardInterrupt):
        guard.ask(Answers(raising(KeyboardInterrupt)), np.zeros((1, 3)), np.random.default_rng(), 6)


def test_a_policy_that_declares_nonsense_is_refused(toy_story: Scenario) -> None:
    policy: Any = KeepAll()
    policy.on_misfit = "ignore"
    with pytest.raises(InvalidPolicy, match="'repair' or 'refuse'"):
        rollout.run(lambda: policy, toy_story, "validation-3", briefing(toy_story))


def test_a_run_repeats_itself_from_its_seed(toy_story: Scenario) -> None:
    told = briefing(toy_story)
    first, second, other = (
        rollout.run(RandomDrop, toy_story, "test", told, seed=seed) for seed in (1, 1, 2)
    )
    assert snapshot(first) == snapshot(second)
    assert (first.proposal != other.proposal).any()


def test_every_pairing_of_a_split_is_a_lane(toy_story: Scenario) -> None:
    log = rollout.run(KeepAll, toy_story, "test", briefing(toy_story))
    assert log.row.shape == (50, 4)
    assert log.limit_row[0].tolist() == [0, 12, 25, 37]
    assert (log.row == np.arange(50)[:, None]).all()
    assert sorted(log.limit_row[:, 3]) == list(range(50)), "each row of the tenant once"
