"""Policies serve rows: the golden log, replay, answers that nobody can read, and what baselines promise."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_world
from numpy.typing import NDArray
from reachable import snapshot
from toy_table import ALL_SETS, kept_without

from rapgym import blocks, encoding, rollout, scenario, simulator
from rapgym.baselines.frontier_margin import FrontierMargin
from rapgym.baselines.gsi import GreedyOrder
from rapgym.baselines.gsi_per_byte import GreedyPerByte
from rapgym.baselines.keep_all import KeepAll
from rapgym.baselines.random_drop import RandomDrop
from rapgym.baselines.static_best import StaticBest
from rapgym.baselines.static_best import tune as tune_static
from rapgym.errors import InvalidPolicy, InvalidResult
from rapgym.policies.policy import Briefing, Policy, briefing
from rapgym.policies.reference import FrontierLookup, frontier
from rapgym.rollout import EpisodeLog
from rapgym.scenario import SCENARIOS, Scenario
from rapgym.shield import Reason
from rapgym.specs import BoolArray, FloatArray

GOLDEN = Path(__file__).parent / "golden" / "toy.json"


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
    made = rollout.run(Drawn(), toy_story, "test", briefing(toy_story), seed=1)
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
def test_replay_reproduces_a_log_and_shows_what_was_altered(toy_story: Scenario, strict: bool) -> None:
    policy: Any = Drawn()
    policy.on_misfit = "refuse" if strict else "repair"
    log = rollout.run(policy, toy_story, "test", briefing(toy_story), seed=2)
    world = scenario.world(toy_story, "test")
    again = rollout.replay(world, log, refuses_misfit=strict)
    for field in fields(EpisodeLog):
        one, other = getattr(log, field.name), getattr(again, field.name)
        assert one.tobytes() == other.tobytes() and one.dtype == other.dtype, field.name
    altered = replace(log, kept=log.kept.copy(), quality=log.quality * 0.5)
    once_more = rollout.replay(world, altered, refuses_misfit=strict)
    assert once_more.quality.tobytes() == log.quality.tobytes(), "costs are computed, not copied"


def test_replay_with_test_columns_changes_nats_alone(toy_story: Scenario) -> None:
    log = rollout.run(KeepAll(), toy_story, "test", briefing(toy_story))
    scored = rollout.replay(scenario.scoring_world(toy_story), log, refuses_misfit=False)
    for name in ("kept", "kept_end", "reason", "used_bytes", "stall", "emergency", "refused"):
        assert (getattr(scored, name) == getattr(log, name)).all(), name
    dropped = (~log.kept).sum(axis=2)
    assert scored.nll == pytest.approx(log.nll + 0.02 * dropped)


@pytest.mark.parametrize(
    "change", [{"row": np.full((50, 4), 50)}, {"limit_row": np.full((50, 4), -1)}, {"proposal": np.ones((50, 4, 8), bool)}]
)  # fmt: skip
def test_a_log_of_another_world_is_refused(toy_story: Scenario, change: dict[str, Any]) -> None:
    log = rollout.run(KeepAll(), toy_story, "test", briefing(toy_story))
    with pytest.raises(InvalidResult, match=r"another model|does not have"):
        rollout.replay(scenario.world(toy_story, "test"), replace(log, **change), refuses_misfit=False)


def test_the_reported_cost_is_a_ratio_of_sums(toy_story: Scenario) -> None:
    log = rollout.run(KeepAll(), toy_story, "test", briefing(toy_story))
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
    log = rollout.run(Answers(answer), toy_story, "validation", told)
    reference = rollout.run(FrontierLookup(), toy_story, "validation", told)
    assert (log.source == Reason.FALLBACK).all()
    assert (log.proposal == reference.proposal).all() and (log.cost == reference.cost).all()
    assert {Reason(r) for r in np.unique(log.reason)} <= {Reason.FALLBACK, Reason.REFUSED}


def test_lanes_that_can_be_read_are_taken_as_they_are(toy_story: Scenario) -> None:
    def some(lanes: int) -> list[Any]:
        return [[1, 1, 1, 1, 0, 1], "?", np.ones(6), None][:lanes]

    log = rollout.run(Answers(some), toy_story, "validation", briefing(toy_story))
    assert (log.source == [Reason.POLICY, Reason.FALLBACK, Reason.POLICY, Reason.FALLBACK]).all()
    assert (log.proposal[:, 0] == kept_without(4)).all() and log.proposal[:, 2].all()


@pytest.mark.parametrize("answer", [
    lambda lanes: np.ones((lanes, 6), dtype=bool).view(Wild), Endless,
], ids=["a wild array", "an endless answer"])  # fmt: skip
def test_wild_answers_do_no_harm(toy_story: Scenario, answer: Callable[[int], Any]) -> None:
    log = rollout.run(Answers(answer), toy_story, "validation", briefing(toy_story))
    assert type(log.proposal) is np.ndarray
    lookup = rollout.run(FrontierLookup(), toy_story, "validation", briefing(toy_story))
    assert log.proposal.all() or (log.proposal == lookup.proposal).all()


def test_an_answer_that_changes_afterwards_changes_nothing() -> None:
    answer = np.ones((2, 6), dtype=bool)
    read, _ = rollout.ask(Answers(lambda lanes: answer), np.zeros((2, 3)), np.random.default_rng(), 6)
    answer[...] = False
    assert read.all()


def test_ctrl_c_still_works() -> None:
    with pytest.raises(KeyboardInterrupt):
        rollout.ask(Answers(raising(KeyboardInterrupt)), np.zeros((1, 3)), np.random.default_rng(), 6)


def test_a_policy_that_declares_nonsense_is_refused(toy_story: Scenario) -> None:
    policy: Any = KeepAll()
    policy.on_misfit = "ignore"
    with pytest.raises(InvalidPolicy, match="'repair' or 'refuse'"):
        rollout.run(policy, toy_story, "validation", briefing(toy_story))


def test_a_run_repeats_itself_from_its_seed(toy_story: Scenario) -> None:
    told = briefing(toy_story)
    first, second, other = (
        rollout.run(RandomDrop(), toy_story, "test", told, seed=seed) for seed in (1, 1, 2)
    )
    assert snapshot(first) == snapshot(second)
    assert (first.proposal != other.proposal).any()


def test_every_pairing_of_a_split_is_a_lane(toy_story: Scenario) -> None:
    log = rollout.run(KeepAll(), toy_story, "test", briefing(toy_story))
    assert log.row.shape == (50, 4)
    assert log.limit_row[0].tolist() == [0, 12, 25, 37]
    assert (log.row == np.arange(50)[:, None]).all()
    assert sorted(log.limit_row[:, 3]) == list(range(50)), "each row of the tenant once"


# Policies that say they propose what fits now, or the floor where nothing does.
CAREFUL: dict[str, Callable[[], Policy]] = {
    "frontier lookup": FrontierLookup,
    "frontier lookup with a margin": lambda: FrontierMargin(margin=0.05),
    "greedy order": GreedyOrder,
    "greedy per byte": GreedyPerByte,
    "random": RandomDrop,
}


@pytest.mark.parametrize("make", CAREFUL.values(), ids=CAREFUL)
@pytest.mark.parametrize("name", ["toy", *(story.name for story in SCENARIOS if not story.synthetic)])
@pytest.mark.usefixtures("shaped", "toy_story")
def test_careful_policies_propose_what_fits(make: Callable[[], Policy], name: str) -> None:
    story = scenario.scenario(name)
    log = rollout.run(make(), replace(story, offsets=2), "validation", briefing(story))
    assert (log.source == Reason.POLICY).all(), "every answer could be read"
    assert {Reason(r) for r in np.unique(log.reason)} <= {Reason.POLICY, Reason.REFUSED}
    served = log.reason == Reason.POLICY
    assert served.any()
    floor = scenario.world(story, "train").floor
    assert (log.kept[served] == (log.proposal | floor)[served]).all()


def observation_of(limit: int, tokens: int = 5) -> tuple[Briefing, FloatArray]:
    """One row of the toy world as a policy sees it, dense loaded."""
    world = toy_world.toy_world(toy_world.toy_rows([tokens], [[limit] * 4]))
    where = encoding.layout(world, card_bytes=toy_world.CARD_BYTES)
    state = simulator.start(world, np.zeros(1), np.zeros(1), np.ones(1))
    seen = encoding.visible(world, state, np.zeros(1, dtype=np.int64))
    return Briefing(toy_world.STORY, world, where), encoding.observe(world, where, seen)


@pytest.mark.parametrize(
    ("make", "dropped"),
    # 5 tokens, each block 60 bytes, dense 460 (see toy_world.py). By what is missing: nothing, one
    # block (a1: 0.10), two, three, four; less than the floor.
    [
        (FrontierLookup, ["", "2", "45", "245", "2345", "2345"]),  # a2 f2 together: 0.30
        (lambda: FrontierMargin(margin=0.06), ["2", "45", "245", "2345", "2345", "2345"]),
        (GreedyOrder, ["", "2", "23", "234", "2345", "2345"]),
        # Nats of the joint order's steps a1 .10, f1 .25, a2 .30, f2 .00: f2 goes first.
        (GreedyPerByte, ["", "5", "25", "235", "2345", "2345"]),
        (KeepAll, [""] * 6),
    ],
    ids=["lookup", "margin", "order", "per byte", "keep all"],
)
def test_baselines_by_hand(make: Callable[[], Policy], dropped: list[str]) -> None:
    for limit, gone in zip((461, 459, 399, 339, 279, 219), dropped, strict=True):
        told, seen = observation_of(limit)
        policy = make()
        policy.reset(1, told)
        proposal = policy.propose(seen, np.random.default_rng(0))[0]
        assert proposal.tolist() == kept_without(*map(int, gone)).tolist(), limit


def test_per_byte_follows_the_tokens_in_flight() -> None:
    """0.10 nats for an attention block, 0.00 for f2: with KV enough attention frees more a nat."""
    told, seen = observation_of(400 + 12 * 100 - 61, tokens=100)  # 61 bytes are missing
    policy = GreedyPerByte()
    policy.reset(1, told)
    proposal = policy.propose(seen, np.random.default_rng(0))[0]
    assert proposal.tolist() == kept_without(2, 5).tolist(), "f2 costs nothing; 1 byte more is a1's"


def test_the_frontier_holds_the_best_set_for_any_memory() -> None:
    told, _ = observation_of(460)
    front = frontier(told.quality)
    everything = np.array(ALL_SETS)[[bool(kept[:2].all()) for kept in ALL_SETS]]
    nll = told.quality.nll(everything)[0]
    for tokens in (0, 5, 40):
        used = told.footprint.used_bytes(everything, np.array(tokens), np.array(tokens))
        at = np.array([tokens])
        for limit in range(190, 900, 10):
            fits = used <= limit
            chosen = front.best_fitting(front.used_bytes(told.footprint, at, at), np.array([limit]))[0]
            if fits.any():
                assert front.nll[chosen] == pytest.approx(nll[fits].min())
            else:
                assert front.kept[chosen].sum() == 2


def test_the_best_static_set_is_the_best_on_train(toy_story: Scenario) -> None:
    told = briefing(toy_story)
    found = tune_static(told)
    cost = {}
    for kept in ALL_SETS:
        if kept[:2].all():
            cost[blocks.key(kept)] = rollout.train_cost(StaticBest(blocks.key(kept)), told)
    # Of the grid and the joint order's prefixes, which in the toy world hold a best set.
    assert cost[found["kept"]] == pytest.approx(min(cost.values()))
    log = rollout.run(StaticBest(**found), toy_story, "train", told)
    assert (log.reason != Reason.REPAIRED).all(), "no run-time repair"


def test_costs_of_fixed_sets_equal_rollouts(toy_story: Scenario) -> None:
    told = briefing(toy_story)
    sets: BoolArray = np.array([kept_without(4, 5), kept_without(), kept_without(2, 3, 4, 5)])
    found = rollout.fixed_sets_cost(told.train, sets, refuses_misfit=True, offsets=toy_story.offsets)
    alone: NDArray[np.float64] = np.array(
        [rollout.train_cost(StaticBest(blocks.key(kept)), told) for kept in sets]
    )
    assert found == pytest.approx(alone)
