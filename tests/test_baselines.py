"""Baselines: what they propose by hand, and that careful ones propose what fits."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import toy_world
from numpy.typing import NDArray
from toy_table import ALL_SETS, kept_without

from rapgym import blocks, encoding, rollout, scenario
from rapgym.baselines.frontier_margin import FrontierMargin
from rapgym.baselines.gsi import GreedyOrder
from rapgym.baselines.gsi_per_byte import GreedyPerByte
from rapgym.baselines.keep_all import KeepAll
from rapgym.baselines.random_drop import RandomDrop
from rapgym.baselines.static_best import StaticBest
from rapgym.baselines.static_best import tune as tune_static
from rapgym.policies.policy import Briefing, Policy, briefing
from rapgym.policies.reference import FrontierLookup, frontier
from rapgym.scenario import SCENARIOS, Scenario
from rapgym.shield import Reason
from rapgym.specs import BoolArray, FloatArray

# Policies that say they propose what fits now, or the floor where nothing does.
CAREFUL: dict[str, Callable[[], Policy]] = {
    "frontier lookup": FrontierLookup,
    "frontier lookup with a margin": lambda: FrontierMargin(margin=0.05),
    "greedy order": GreedyOrder,
    "greedy per byte": GreedyPerByte,
    "random": RandomDrop,
}


@pytest.mark.parametrize("make", CAREFUL.values(), ids=CAREFUL)
@pytest.mark.parametrize(
    "name", ["toy", *(story.name for story in SCENARIOS if not story.synthetic)]
)
@pytest.mark.usefixtures("shaped", "toy_story")
def test_careful_policies_propose_what_fits(make: Callable[[], Policy], name: str) -> None:
    story = scenario.scenario(name)
    log = rollout.run(make, replace(story, offsets=2), "validation", briefing(story))
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
    state = toy_world.lanes_at(world, [0])
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


@pytest.mark.parametrize(("tokens", "dropped"), [(5, (2, 5, 3)), (100, (2, 4))])
def test_per_byte_follows_the_tokens_in_flight(tokens: int, dropped: tuple[int, ...]) -> None:
    """After f2 (0.00) and a1 (0.10): f1 costs 0.25 for 60 bytes, a2 0.30 for 40 + 4 a token.

    With 100 tokens a1 and a2 free 880 of the 501 that are missing, so f2 is given back.
    """
    dense, first_two = 400 + 12 * tokens, 60 + 40 + 4 * tokens
    told, seen = observation_of(dense - first_two - 1, tokens)
    policy = GreedyPerByte()
    policy.reset(1, told)
    proposal = policy.propose(seen, np.random.default_rng(0))[0]
    assert proposal.tolist() == kept_without(*dropped).tolist()


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
            chosen = front.best_fitting(
                front.used_bytes(told.footprint, at, at), np.array([limit])
            )[0]
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
            cost[blocks.key(kept)] = rollout.train_cost(partial(StaticBest, blocks.key(kept)), told)
    # Of the grid and the joint order's prefixes, which in the toy world hold a best set.
    assert cost[found["kept"]] == pytest.approx(min(cost.values()))
    log = rollout.run(partial(StaticBest, **found), toy_story, "train", told)
    assert (log.reason != Reason.REPAIRED).all(), "no run-time repair"


def test_costs_of_fixed_sets_equal_rollouts(toy_story: Scenario) -> None:
    told = briefing(toy_story)
    sets: BoolArray = np.array([kept_without(4, 5), kept_without(), kept_without(2, 3, 4, 5)])
    found = rollout.fixed_sets_cost(
        told.train, sets, refuses_misfit=True, offsets=toy_story.offsets
    )
    alone: NDArray[np.float64] = np.array(
        [rollout.train_cost(partial(StaticBest, blocks.key(kept)), told) for kept in sets]
    )
    assert found == pytest.approx(alone)
