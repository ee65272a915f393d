"""Baselines: what they propose by hand, and that careful ones propose what fits."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import toy_world
from influence import told_of_influence
from numpy.typing import NDArray
from toy_table import ALL_SETS, kept_without

from rapgym.arrays import BoolArray, FloatArray
from rapgym.baselines import (
    frontier_hysteresis,
    frontier_margin,
    frontier_recent,
    static_best,
    static_layers,
)
from rapgym.baselines.frontier_hysteresis import FrontierHysteresis
from rapgym.baselines.frontier_margin import FrontierMargin
from rapgym.baselines.frontier_recent import FrontierRecent
from rapgym.baselines.gsi import GreedyOrder, GreedyOrderRefused
from rapgym.baselines.gsi_per_byte import GreedyPerByte
from rapgym.baselines.keep_all import KeepAll
from rapgym.baselines.one_kind import AttentionOnly, FfnOnly
from rapgym.baselines.random_drop import RandomDrop
from rapgym.baselines.static_best import StaticBest, StaticRepaired
from rapgym.baselines.static_layers import StaticLayers
from rapgym.errors import InvalidTable
from rapgym.model import blocks
from rapgym.policies.policy import Briefing, Policy, briefing
from rapgym.policies.reference import FrontierLookup, frontier
from rapgym.rollout import rollout
from rapgym.rollout import tuning as rollout_tuning
from rapgym.scenarios import catalogue, worlds
from rapgym.scenarios.catalogue import shipped
from rapgym.scenarios.story import Scenario
from rapgym.world import encoding, simulator
from rapgym.world.shield import Reason

# Policies that say they propose what fits now, or the floor where nothing does.
CAREFUL: dict[str, Callable[[], Policy]] = {
    "frontier lookup": FrontierLookup,
    "frontier lookup with a margin": lambda: FrontierMargin(margin=0.05),
    "frontier lookup with a recent margin": lambda: FrontierRecent(margin=0.01, share=0.5),
    "frontier lookup that restores late": lambda: FrontierHysteresis(0.01, 0.02, 3),
    "greedy order": GreedyOrder,
    "greedy per byte": GreedyPerByte,
    "random": RandomDrop,
}


@pytest.mark.parametrize("make", CAREFUL.values(), ids=CAREFUL)
@pytest.mark.parametrize(
    "name", ["toy", *(story.name for story in shipped() if not story.synthetic)]
)
@pytest.mark.usefixtures("shaped", "toy_story")
def test_careful_policies_propose_what_fits(make: Callable[[], Policy], name: str) -> None:
    story = catalogue.scenario(name)
    log = rollout.run(
        make, replace(story, offsets=min(2, story.offsets)), "validation-3", briefing(story)
    )
    assert (log.source == Reason.POLICY).all(), "every answer could be read"
    assert {Reason(r) for r in np.unique(log.reason)} <= {Reason.POLICY, Reason.REFUSED}
    served = log.reason == Reason.POLICY
    assert served.any()
    floor = worlds.world(story, "train").floor
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
        # One kind ends after two blocks: the rest is the shield's.
        (AttentionOnly, ["", "2", "24", "24", "24", "24"]),
        (FfnOnly, ["", "3", "35", "35", "35", "35"]),
    ],
    ids=["lookup", "margin", "order", "per byte", "keep all", "attention", "ffn"],
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


@pytest.mark.parametrize(
    ("form", "tune", "never"),
    [(StaticBest, static_best.tune, Reason.REPAIRED),
     (StaticRepaired, static_best.tune_repaired, Reason.FALLBACK)],
    ids=["refused", "repaired"],
)  # fmt: skip
def test_the_best_static_set_is_the_best_on_train(
    form: type[StaticRepaired],
    tune: Callable[[Briefing], Any],
    never: Reason,
    one_pairing: Scenario,
) -> None:
    told = briefing(one_pairing)
    found = tune(told)
    cost = {
        blocks.key(kept): rollout_tuning.train_cost(partial(form, blocks.key(kept)), told)
        for kept in ALL_SETS
        if kept[:2].all()
    }
    # Of the grid and the joint order's prefixes, which in the toy world hold a best set.
    assert cost[found["kept"]] == pytest.approx(min(cost.values()))
    log = rollout.run(partial(form, **found), one_pairing, "train", told)
    assert (log.reason != never).all()


def test_one_static_set_is_refused_or_repaired(toy_story: Scenario) -> None:
    key = blocks.key(kept_without(2))
    refused, repaired = (
        rollout.run(partial(form, key), toy_story, "train", briefing(toy_story))
        for form in (StaticBest, StaticRepaired)
    )
    assert (refused.proposal == repaired.proposal).all()
    assert {Reason(r) for r in np.unique(refused.reason)} == {Reason.POLICY, Reason.REFUSED}
    assert (repaired.reason == Reason.REPAIRED).any()
    assert repaired.mean_cost < refused.mean_cost


def test_both_forms_of_the_greedy_order_decide_alike(toy_story: Scenario) -> None:
    repaired, refused = (
        rollout.run(form, toy_story, "train", briefing(toy_story))
        for form in (GreedyOrder, GreedyOrderRefused)
    )
    assert (repaired.proposal == refused.proposal).all()
    assert repaired.emergency.sum() > 0
    assert refused.emergency.sum() == 0
    assert refused.refused.sum() > repaired.refused.sum()


def test_layers_go_whole_by_influence_and_those_with_a_floor_block_stay(
    toy_story: Scenario,
) -> None:
    # Layer 0, the floor, has the least influence; then layer 2, then layer 1.
    told = told_of_influence(briefing(toy_story), [0.1, 0.5, 0.3])
    sets = [kept_without(), kept_without(4, 5), kept_without(2, 3, 4, 5)]
    assert static_layers.without_layers(told.quality).tolist() == [kept.tolist() for kept in sets]
    found = static_layers.tune(told)
    costs = [
        rollout_tuning.train_cost(partial(StaticBest, blocks.key(kept)), told) for kept in sets
    ]
    assert costs[found["layers"]] == min(costs)
    log = rollout.run(lambda: StaticLayers(1), toy_story, "train", told)
    assert (log.proposal == sets[1]).all()
    assert (log.reason != Reason.REPAIRED).all()


def test_a_table_without_influence_says_so(toy_story: Scenario) -> None:
    with pytest.raises(InvalidTable, match="toy holds no block influence"):
        static_layers.tune(told_of_influence(briefing(toy_story), None))


def proposals(policy: Policy, limits: list[list[int]]) -> list[list[bool]]:
    """What a policy proposes at each row of 5 tokens, in a world that executes it."""
    world = toy_world.toy_world(toy_world.toy_rows([5] * len(limits), limits))
    where = encoding.layout(world, card_bytes=toy_world.CARD_BYTES)
    policy.reset(1, Briefing(toy_world.STORY, world, where))
    state, found = toy_world.lanes_at(world, [0]), []
    for row in range(len(limits)):
        seen = encoding.visible(world, state, np.array([row]))
        observation = encoding.observe(world, where, seen)
        proposal = policy.propose(observation, np.random.default_rng(0))
        found.append(proposal[0].tolist())
        state, _ = simulator.step(world, state, proposal)
    return found


def dropping(*dropped: str) -> list[list[bool]]:
    return [kept_without(*map(int, gone)).tolist() for gone in dropped]


def test_a_recent_fall_is_left_free_and_forgotten_after_eight_rows() -> None:
    """Dense takes 460; the second row loses 60 in its middle: one block (a1) is left out for it."""
    fall, calm = [470, 470, 405, 470], [470] * 4
    limits = [calm, fall, *[calm] * 9]
    expected = dropping("", "", *["2"] * 8, "")
    assert proposals(FrontierRecent(margin=0.0, share=1.0), limits) == expected
    # A rise within a row is no fall; half the fall leaves 437; a fixed margin stands beside it.
    rise = [[470, 530, 530, 530], calm]
    assert proposals(FrontierRecent(margin=0.0, share=1.0), rise) == dropping("", "")
    assert proposals(FrontierRecent(margin=0.0, share=0.1), limits[:3]) == dropping("", "", "")
    assert proposals(FrontierRecent(margin=0.0, share=0.5), limits[:3]) == dropping("", "", "2")
    assert proposals(FrontierRecent(margin=0.02, share=0.0), [calm]) == dropping("2")


def test_late_restoring_waits_for_rows_and_headroom_and_drops_at_once() -> None:
    """Dense takes 460, without a1 400, without a2 and f2 340."""
    low, high, spare = [399] * 4, [470] * 4, [500] * 4
    limits = [high, low, high, high, high, low]
    assert proposals(FrontierHysteresis(0.0, 0.0, 1), limits) == dropping(
        "", "45", "", "", "", "45"
    )
    assert proposals(FrontierHysteresis(0.0, 0.0, 3), limits) == dropping(
        "", "45", "45", "45", "", "45"
    )
    # A low row in between starts the count anew.
    limits = [high, low, high, low, high, high]
    assert proposals(FrontierHysteresis(0.0, 0.0, 2), limits) == dropping(
        "", "45", "45", "45", "45", ""
    )
    # With 30 to spare, dense has to wait for 490 and a1 is what comes back below that.
    limits = [high, low, high, high, spare, high]
    assert proposals(FrontierHysteresis(0.0, 0.03, 1), limits) == dropping(
        "", "45", "2", "2", "", ""
    )
    assert proposals(FrontierHysteresis(0.03, 0.0, 1), limits) == dropping(
        "2", "45", "2", "2", "", "2"
    )


def test_late_restoring_keeps_what_an_emergency_has_left() -> None:
    """The shield drops a1, f1; the lookup would bring both back in the row after."""
    limits = [[470, 345, 345, 345], [470] * 4, [470] * 4]
    assert proposals(FrontierHysteresis(0.0, 0.0, 2), limits) == dropping("", "23", "")


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (FrontierMargin, {"margin": frontier_margin.MARGINS}),
        (FrontierRecent, frontier_recent.SETTINGS),
        (FrontierHysteresis, frontier_hysteresis.SETTINGS),
    ],
    ids=["margin", "recent", "hysteresis"],
)
def test_settings_tried_side_by_side_do_as_each_does_alone(
    make: Callable[..., Policy], settings: dict[str, Any], toy_story: Scenario
) -> None:
    told, count = briefing(toy_story, "fit-3"), len(next(iter(settings.values())))
    costs = rollout_tuning.train_costs(lambda: make(**settings), told, count)
    assert len(np.unique(costs.round(9))) > 3, "settings matter"
    for i in range(0, count, 7):
        one = {name: values[i].item() for name, values in settings.items()}
        policy = make(**one)  # one object for all pairings: reset forgets
        assert costs[i] == pytest.approx(rollout_tuning.train_cost(lambda p=policy: p, told)), one  # type: ignore[misc]


def test_costs_of_fixed_sets_equal_rollouts(toy_story: Scenario) -> None:
    told = briefing(toy_story)
    sets: BoolArray = np.array([kept_without(4, 5), kept_without(), kept_without(2, 3, 4, 5)])
    found = rollout_tuning.fixed_sets_cost(
        told.train, sets, refuses_misfit=True, offsets=toy_story.offsets
    )
    alone: NDArray[np.float64] = np.array(
        [rollout_tuning.train_cost(partial(StaticBest, blocks.key(kept)), told) for kept in sets]
    )
    assert found == pytest.approx(alone)
