"""Entries of a bench on rows whose truth is known: champions, ties, break-even, rivals, other C."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain_records import about_of, known, score_of

from rapgym.arrays import FloatArray
from rapgym.bench import contest, pieces, rankings, results, scoreboard, verdicts
from rapgym.bench.pieces import Pieces
from rapgym.bench.records import Score
from rapgym.bench.results import Cell, Results
from rapgym.bench.score import Estimate
from rapgym.model import blocks
from rapgym.policies.policy import briefing
from rapgym.policies.reference import FrontierLookup
from rapgym.policies.registry import Kind
from rapgym.quality import error as table_error
from rapgym.quality.error import SetError
from rapgym.rollout import log as rollout_log
from rapgym.rollout import rollout
from rapgym.rollout.log import EpisodeLog
from rapgym.scenarios import worlds
from rapgym.scenarios.story import Scenario

ROWS, LANES, N = 50, 4, 6  # rows of the toy scenario's test split
DENSE = np.ones(N, dtype=bool)
TURNED = np.arange(LANES) * ROWS // LANES


@pytest.fixture(autouse=True)
def _even_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten pieces of five rows, whatever the toy world's bursts are."""
    monkeypatch.setattr(
        pieces, "of_split", lambda story: Pieces("burst", np.arange(0, ROWS, 5), ROWS)
    )


def kept_without(*dropped: int) -> Any:
    kept = DENSE.copy()
    kept[[*dropped]] = False
    return kept


def log_of(quality: FloatArray, kept: Any = DENSE, **columns: Any) -> EpisodeLog:
    """Rows served from one set, whose cost is all quality unless other terms are given."""
    row = np.repeat(np.arange(ROWS)[:, None], LANES, axis=1)
    nil, whole = np.zeros((ROWS, LANES)), np.zeros((ROWS, LANES), dtype=np.int64)
    sets = np.broadcast_to(kept, (ROWS, LANES, N)).copy()
    filled: dict[str, Any] = {
        "row": row, "limit_row": (row + TURNED) % ROWS, "proposal": sets, "source": whole,
        "kept": sets, "kept_end": sets, "reason": whole, "limit_bytes": whole, "used_bytes": whole,
        "nll": nil, "measured": nil == 0, "output_tokens": whole + 10, "quality": quality,
        "stall": nil, "emergency": nil, "refused": nil,
    }  # fmt: skip
    return EpisodeLog(**(filled | columns))


def cell(
    story: Scenario,
    policy: str,
    kind: str,
    cost: FloatArray,
    log: EpisodeLog | None = None,
    **about: Any,
) -> Cell:
    """A cell that costs `cost` [T, K] on test, all of it quality."""
    timings = {"decision_us_p50": 1.0, "decision_us_p99": 2.0}
    described = about_of(policy, scenario=story.id, kind=kind, **timings, **about)
    served = log_of(cost) if log is None else log
    return Cell(described, served, served.nll, served.measured, cost)


def world_of(
    story: Scenario, policies: Mapping[str, tuple[str, float, float | None]]
) -> list[Cell]:
    """Cells of the ends of both scales, of the best static set and of `policies`: name -> kind, lead over the lookup, validation.

    Costs of all are the same rows' luck, moved by a constant and a noise of their own.
    """
    rng = np.random.default_rng(3)
    luck = 1.0 + rng.random((ROWS, LANES))

    def cost(lead: float) -> FloatArray:
        noise: FloatArray = 0.02 * rng.standard_normal((ROWS, LANES))
        return luck - lead + noise

    ends = [
        cell(story, "static-best", "static", cost(-1.0), validation_cost=2.0),
        cell(story, "frontier", "reactive", luck, validation_cost=1.0),
        cell(story, "partial-admission", "rival", luck + 1.2),
        cell(story, "bound", "bound", luck - 0.8),
        cell(story, "best-plan", "bound", luck - 0.7),
    ]
    return ends + [
        cell(story, name, kind, cost(lead), validation_cost=validation)
        for name, (kind, lead, validation) in policies.items()
    ]


def entries_of(cells: list[Cell]) -> dict[str, Score]:
    return {entry.policy: entry for entry in scoreboard.entries(Results({}, tuple(cells)))}


def test_the_champion_is_the_best_on_validation_not_on_test(toy_story: Scenario) -> None:
    found = entries_of(
        world_of(toy_story, {"lucky": ("heuristic", 0.3, 1.2), "sound": ("heuristic", 0.1, 0.9)})
    )
    assert found["lucky"].cost < found["sound"].cost
    assert found["lucky"].champion == ()
    assert found["lucky"].p_holm is None
    assert found["sound"].champion == ("heuristic", "all")
    assert found["frontier"].champion == ("reactive",)
    assert found["static-best"].champion == ("static",)


def test_what_did_not_answer_or_has_no_validation_is_no_champion(toy_story: Scenario) -> None:
    cells = world_of(
        toy_story, {"silent": ("heuristic", 0.1, 0.2), "unknown": ("learned", 0.1, None)}
    )
    cells[-2] = replace(cells[-2], about=replace(cells[-2].about, fallback=0.01))
    found = entries_of(cells)
    assert found["silent"].champion == found["unknown"].champion == ()
    assert found["bound"].champion == found["best-plan"].champion == ()


def test_a_learned_champion_stands_apart_from_those_that_do_not_learn(toy_story: Scenario) -> None:
    found = entries_of(
        world_of(toy_story, {"ppo": ("learned", 0.2, 0.5), "mine:Mine": ("heuristic", 0, 0.7)})
    )
    assert found["ppo"].champion == ("learned",)
    assert found["mine:Mine"].champion == ("heuristic", "all")


def test_equal_validation_costs_are_decided_by_name_not_by_test(toy_story: Scenario) -> None:
    found = entries_of(
        world_of(toy_story, {"b": ("heuristic", 0.3, 0.9), "a": ("heuristic", 0.1, 0.9)})
    )
    assert found["a"].champion == ("heuristic", "all")


def test_a_clear_lead_beats_the_lookup_and_chance_decides_nothing(toy_story: Scenario) -> None:
    clear = entries_of(world_of(toy_story, {"clear": ("heuristic", 0.3, 0.5)}))["clear"]
    assert clear.verdict == "better"
    assert known(clear.high) < 0, "low and high are of the difference of costs"
    assert clear.p_holm == clear.p_value, "one scenario, and the same choice in every resample"
    behind = entries_of(world_of(toy_story, {"behind": ("heuristic", -0.3, 0.5)}))["behind"]
    assert behind.verdict == "worse"
    small = entries_of(world_of(toy_story, {"small": ("heuristic", 0.002, 0.5)}))["small"]
    assert small.verdict == "equal", "some nats of a thousand, and 40 are within 5 points"
    rng = np.random.default_rng(5)
    wild = world_of(toy_story, {})
    noise = 3 * rng.standard_normal((ROWS, LANES))
    wild.append(cell(toy_story, "wild", "heuristic", wild[1].test_cost + noise))
    found = entries_of(wild)["wild"]
    assert found.verdict == "undecided"
    assert known(found.least_effect) > 0.04, "no less could have been shown"


def test_gain_lies_between_not_pruning_and_the_bound(toy_story: Scenario) -> None:
    found = entries_of(world_of(toy_story, {"mine": ("heuristic", 0.3, 0.5)}))
    assert found["bound"].gain == pytest.approx(100)
    lookup = found["frontier"]
    assert lookup.gain == pytest.approx(100 * 1.2 / 2.0), "1.2 above not pruning, of 2 in all"
    assert known(lookup.gain_low) < known(lookup.gain) < known(lookup.gain_high) + 1e-9
    assert lookup.foresight == 0
    assert lookup.verdict == "equal"
    mine = found["mine"]
    assert mine.foresight == pytest.approx(100 * (lookup.cost - mine.cost) / 0.8)
    assert known(mine.least_effect_points) == pytest.approx(known(mine.least_effect) / 0.008)


def test_without_partial_admission_there_is_no_gain(toy_story: Scenario) -> None:
    cells = [c for c in world_of(toy_story, {}) if c.about.policy != "partial-admission"]
    assert {entry.gain for entry in entries_of(cells).values()} == {None}


def test_where_next_to_nothing_can_be_won_there_are_no_points(toy_story: Scenario) -> None:
    cells = world_of(toy_story, {"mine": ("heuristic", 0.0, 0.5)})
    at = next(i for i, each in enumerate(cells) if each.about.policy == "bound")
    for room, points in ((0.0049, False), (0.0051, True)):
        cells[at] = cell(toy_story, "bound", "bound", cells[1].test_cost - room)
        found = entries_of(cells)["mine"]
        assert (found.foresight is not None) == points
        assert (found.least_effect_points is not None) == points


def test_few_pieces_make_no_claim_and_less_than_a_day_is_conditional(
    toy_story: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = world_of(toy_story, {"clear": ("heuristic", 0.3, 0.5)})
    found = entries_of(cells)["clear"]
    assert (found.unit, found.pieces, found.conditional) == ("burst", 10, True)
    for unit, count, conditional in (("burst", 5, True), ("day", 5, True), ("day", 6, False)):
        first = np.arange(count) * ROWS // count
        few = Pieces(unit, first, ROWS)  # type: ignore[arg-type]
        monkeypatch.setattr(pieces, "of_split", lambda story, few=few: few)
        entry = entries_of(cells)["clear"]
        assert (entry.pieces, entry.conditional) == (count, conditional)
        assert (entry.p_value is None) == (count < 6)
        assert entry.verdict == ("undecided" if count < 6 else "better")


def plain_entry(scenario: str, p: float | None, **more: Any) -> Score:
    """The champion of its kind and of all, better than a lookup of 0.2 by 0.1."""
    plain: dict[str, Any] = {
        "scenario": scenario, "validation_cost": 1.0, "champion": ("heuristic", "all"),
        "champion_p": (p, p), "champion_low": -0.15, "champion_high": -0.02, "verdict": "better",
    }  # fmt: skip
    return score_of(**(plain | more))


def lookup_of(scenario: str) -> Score:
    return score_of("frontier", scenario=scenario, cost=0.2, behind_bound=0.15)


def corrected(*champions: Score) -> list[Score]:
    """These, after the correction."""
    lookups = [lookup_of(name) for name in dict.fromkeys(e.scenario for e in champions)]
    return verdicts.corrected([*champions, *lookups])[: len(champions)]


def test_holm_runs_over_the_scenarios_of_one_traffic(toy_story: Scenario) -> None:
    p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    listed = [plain_entry(name, value) for name, value in p.items()]
    listed.append(plain_entry("other", 0.03, traffic="azure-code"))
    listed.append(plain_entry("aside", 0.001, group="16-bit", claims=False))
    found = {entry.scenario: entry for entry in corrected(*listed)}
    assert [found[name].p_holm for name in p] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [found[name].verdict for name in p] == ["better", "undecided", "undecided", "better"]
    assert [found[name].holm_tests for name in p] == [4] * 4
    assert (found["other"].p_holm, found["other"].verdict) == (0.03, "better"), (
        "a family of its own"
    )
    assert found["aside"].p_holm is None
    assert found["aside"].verdict == "better", "its own, in no family"


def test_families_are_corrected_apart_and_the_larger_value_stands() -> None:
    """A reactive champion of "all" in one scenario is in two families of different p-values."""
    found = corrected(
        plain_entry(
            "a", None, kind="reactive", champion=("reactive", "all"), champion_p=(0.02, 0.02)
        ),
        plain_entry("b", None, kind="reactive", champion=("reactive",), champion_p=(0.9,)),
        plain_entry("b", 0.03),
    )
    # Family "reactive": 0.02 and 0.9, so 0.04; family "all": 0.02 and 0.03, so 0.04 and 0.04.
    assert [entry.p_holm for entry in found] == pytest.approx([0.04, 0.9, 0.04])


def test_what_makes_no_claim_is_in_no_family() -> None:
    (found,) = corrected(plain_entry("a", None))
    assert (found.p_holm, found.holm_tests) == (None, None)


def test_a_difference_too_small_to_matter_is_equal_whatever_its_p_value() -> None:
    # 5 points of the 0.15 nats between lookup and bound are 0.0075; 2 % of 0.2 are 0.004.
    small = {"champion_low": -0.0074, "champion_high": -0.001, "cost": 0.196}
    assert corrected(plain_entry("a", 0.001, **small))[0].verdict == "equal"
    wider = small | {"champion_low": -0.0076}
    assert corrected(plain_entry("a", 0.001, **wider))[0].verdict == "better"
    assert corrected(plain_entry("a", 0.2, **wider))[0].verdict == "undecided"
    worse = {"champion_low": 0.01, "champion_high": 0.2, "cost": 0.3}
    assert corrected(plain_entry("a", 0.001, **worse))[0].verdict == "worse"


def test_where_next_to_nothing_can_be_won_equal_is_a_share_of_the_cost() -> None:
    assert verdicts.margin(0.2, 0.05) == pytest.approx(0.0075)
    assert verdicts.margin(0.2, 0.19) == pytest.approx(0.004)
    assert verdicts.margin(0.104, 0.1) == pytest.approx(0.00208)


@pytest.mark.parametrize("last_digit", [0.0, 2.7e-19, -1e-12])
def test_costs_that_differ_in_a_last_digit_are_equal(last_digit: float) -> None:
    """Whatever the order in which a processor adds, and also of too few pieces to say more."""
    same = Estimate(last_digit, -abs(last_digit), abs(last_digit), np.nan, np.nan)
    assert verdicts.verdict(same, 0.0) == "equal"
    other = Estimate(1e-6, 1e-7, 1e-5, np.nan, np.nan)
    assert verdicts.verdict(other, 0.0) == "undecided"


def seeded(story: Scenario, leads: Mapping[int, float], **more: Any) -> list[Cell]:
    """A world, and a policy that learned, with a seed for each of `leads` over the lookup."""
    cells = world_of(story, {})
    base = cells[1].test_cost
    for seed, lead in leads.items():
        cells.append(cell(story, "ppo", "learned", base - lead, seed=seed, **more))
    return cells


def test_seeds_count_alike_and_none_is_left_out(toy_story: Scenario) -> None:
    cells = seeded(toy_story, {0: -9.0, 1: -0.1, 2: -0.3, 3: 0.6}, validation_cost=0.3)
    found = entries_of(cells)
    assert found["ppo"].cost == pytest.approx(found["frontier"].cost + 2.2)
    assert found["ppo"].validation_cost == pytest.approx(0.3)
    assert found["ppo"].seeds == 4
    terms = sum(getattr(found["ppo"], term) for term in contest.TERMS)
    assert terms == pytest.approx(found["ppo"].cost)


def test_what_one_seed_shows_others_may_not(toy_story: Scenario) -> None:
    """The same mean: from seeds that agree a lead, from seeds that do not none."""
    agree = entries_of(seeded(toy_story, dict.fromkeys(range(4), 0.2)))["ppo"]
    differ = entries_of(seeded(toy_story, {0: 1.4, 1: -0.6, 2: 0.2, 3: -0.2}))["ppo"]
    assert agree.cost == pytest.approx(differ.cost)
    assert agree.verdict == "better"
    assert differ.verdict == "undecided"
    assert known(differ.least_effect) > 5 * known(agree.least_effect)


def test_the_choice_of_champion_is_made_again_in_every_resample(toy_story: Scenario) -> None:
    """One is good and one bad on test; what was chosen says little where validation hardly tells."""

    def champion(good: tuple[float, ...], bad: tuple[float, ...]) -> Score:
        cells = world_of(toy_story, {})
        base = cells[1].test_cost
        for name, lead, parts in (("good", 0.3, good), ("bad", -0.3, bad)):
            validation: dict[str, Any] = {"validation_cost": sum(parts), "validation_parts": parts}
            cells.append(cell(toy_story, name, "heuristic", base - lead, **validation))
        found = entries_of(cells)["good"]
        assert found.champion == ("heuristic", "all")
        return found

    sure = champion((0.2, 0.2, 0.2, 0.2), (0.3, 0.3, 0.3, 0.3))
    torn = champion((0.4, 0.0, 0.4, 0.0), (0.0, 0.41, 0.0, 0.4))
    assert sure.verdict == "better"
    assert (sure.champion_low, sure.champion_high) == (sure.low, sure.high)
    assert torn.verdict == "undecided"
    assert known(torn.champion_high) > 0.2, "where the other was chosen"
    assert (torn.low, torn.high) == (sure.low, sure.high), "of the policy itself nothing changes"


def test_a_learned_champion_is_chosen_by_the_seeds_of_each_resample(toy_story: Scenario) -> None:
    cells = world_of(toy_story, {})
    base = cells[1].test_cost
    for name, lead, costs in (("good", 0.3, (0.1, 0.9)), ("bad", -0.3, (0.6, 0.6))):
        for seed, cost in enumerate(costs):
            cells.append(
                cell(toy_story, name, "learned", base - lead, seed=seed, validation_cost=cost)
            )
    found = entries_of(cells)["good"]
    assert found.champion == ("learned",)
    assert known(found.high) < -0.2
    assert known(found.champion_high) > 0.2, "a seed of 0.9 alone loses to 0.6"
    assert known(found.behind_champion_high) > 0.2


def test_ties_for_the_best_leave_out_oracles_and_rivals(toy_story: Scenario) -> None:
    cells = world_of(
        toy_story, {"first": ("heuristic", 0.301, 1.0), "second": ("reactive", 0.3, 1.0)}
    )
    cells.append(cell(toy_story, "int4", "rival", cells[1].test_cost - 0.302))
    found = entries_of(cells)
    assert found["first"].tied_for_best
    assert found["second"].tied_for_best
    assert not found["frontier"].tied_for_best
    assert not found["int4"].tied_for_best
    assert not found["best-plan"].tied_for_best
    assert known(found["second"].behind_best_low) <= 0 <= known(found["second"].behind_best_high)


def test_a_rival_has_a_cost_and_a_place_by_cost_but_no_scores(toy_story: Scenario) -> None:
    cells = world_of(toy_story, {"mine": ("heuristic", 0.1, 0.5)})
    cells.append(cell(toy_story, "int4", "rival", cells[1].test_cost - 0.2))
    listed = scoreboard.entries(Results({}, tuple(cells)))
    order = [entry.policy for entry in listed]
    assert order == [
        "bound", "best-plan", "int4", "mine", "frontier", "static-best", "partial-admission"
    ]  # fmt: skip
    rival = listed[2]
    for name in (
        "gain",
        "foresight",
        "low",
        "high",
        "p_value",
        "p_holm",
        "verdict",
        "least_effect",
    ):
        assert getattr(rival, name) is None, name
    assert rival.champion == ()
    assert rival.cost == pytest.approx(sum(getattr(rival, term) for term in contest.TERMS))
    assert known(rival.behind_bound_low) > 0


def test_the_error_of_a_rivals_format_widens_what_is_said_of_it(toy_story: Scenario) -> None:
    cells = world_of(toy_story, {})
    base = cells[1].test_cost
    cells.append(cell(toy_story, "exact", "rival", base - 0.2))
    cells.append(cell(toy_story, "noisy", "rival", base - 0.2, quality_se=0.3))
    found = entries_of(cells)
    assert known(found["exact"].behind_best_high) < 0
    assert known(found["noisy"].behind_best_low) < -0.6
    assert known(found["noisy"].behind_best_high) > 0, "0.2 less is within two errors of 0.3"
    width = known(found["noisy"].behind_bound_high) - known(found["noisy"].behind_bound_low)
    assert width > 1.0
    assert found["noisy"].table_error == pytest.approx(
        np.hypot(known(found["exact"].table_error), 0.3)
    )


def test_break_even_by_hand(toy_story: Scenario) -> None:
    """1000 tokens at C = 4 nats, saved 0.5 nats a token: paid for after 8000."""
    cells = world_of(toy_story, {})
    base = cells[1].test_cost
    for name, cost in (("random", base), ("good", base - 0.5), ("bad", base + 0.1)):
        cells.append(cell(toy_story, name, "heuristic", cost, calibration_tokens=1000.0))
    cells.append(cell(toy_story, "unknown", "heuristic", base - 0.5))
    found = entries_of(cells)
    assert found["good"].break_even_tokens == pytest.approx(8000)
    assert found["bad"].break_even_tokens is None, "it saves nothing"
    assert found["random"].break_even_tokens is None
    assert found["unknown"].break_even_tokens is None
    without = [each for each in cells if each.about.policy != "random"]
    assert entries_of(without)["good"].break_even_tokens is None, "nothing to save against"


def shares_of(**columns: Any) -> dict[str, float]:
    """Shares by key, of rows that cost nothing but what is given."""
    found = rollout_log.served_shares(log_of(np.zeros((ROWS, LANES)), **columns), ceiling=4.0)
    return {
        blocks.key(blocks.unpacked(np.frombuffer(name, np.uint8), N)): share
        for name, share in found.items()
    }


def test_shares_are_of_tokens_that_were_served() -> None:
    two, four = np.zeros((ROWS, LANES)), np.zeros((ROWS, LANES))
    two[0], four[1] = 2.0, 4.0  # half of row 0 is stalled, all of row 1 is refused
    smaller = kept_without(2)
    later = np.broadcast_to(DENSE, (ROWS, LANES, N)).copy()
    later[2] = smaller  # in row 2 a block goes half way
    later[1] = kept_without(2, 3, 4, 5)  # what a refusal leaves serves nothing
    found = shares_of(stall=two, refused=four, kept_end=later)
    assert found == pytest.approx(
        {blocks.key(DENSE): (ROWS - 0.5 - 1 - 0.5) / ROWS, blocks.key(smaller): 0.5 / ROWS}
    )


def test_the_tables_error_of_a_difference_by_hand() -> None:
    a, b = {b"x": 0.5, b"y": 0.5}, {b"x": 0.5, b"z": 0.5}
    errors = {b"x": SetError(9.0), b"y": SetError(0.06), b"z": SetError(0.08)}
    # What both serve from alike cancels; independent errors are worse than correlated ones here.
    assert table_error.difference_error(a, b, errors) == pytest.approx(0.05)
    # Where one drops more on the whole, correlated errors add up: 0.5 x (0.06 + 0.08).
    dense = {b"d": 1.0}
    both = {b"y": 0.5, b"z": 0.5}
    assert table_error.difference_error(
        both, dense, errors | {b"d": SetError(0.0)}
    ) == pytest.approx(0.07)
    # A predictor's errors are independent of it and of each other.
    missed = {b"d": SetError(0.0), b"y": SetError(0.0, 0.06), b"z": SetError(0.0, 0.08)}
    assert table_error.difference_error(both, dense, missed) == pytest.approx(0.05)
    assert table_error.difference_error(a, a, errors) == 0


def test_errors_of_sets_come_from_the_table_or_its_predictor(toy_story: Scenario) -> None:
    columns = worlds.scoring_world(toy_story).quality
    sets = [DENSE, kept_without(2), kept_without(2, 3, 4, 5)]
    found = table_error.set_errors(blocks.raw_keys(np.array(sets)), columns, 0.2)
    measured = [SetError(float(columns.nll_se(kept))) for kept in sets]
    assert [*found.values()] == measured
    assert measured[0] == SetError(0.0)
    held_out = [{"all": {"mean_abs": 0.1}}, {"all": {"mean_abs": 0.3}}, {}]
    assert table_error.predictor_error(held_out, 4.0) == pytest.approx(0.3 * np.sqrt(np.pi / 2))
    assert table_error.predictor_error([], 4.0) == 4.0, "nothing is known"


def test_a_lead_through_sets_the_table_knows_badly_is_no_lead(
    toy_story: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same lead, from the lookup's own sets and from a set whose error it could be."""
    kept = kept_without(2, 3)
    error = float(worlds.scoring_world(toy_story).quality.nll_se(kept))
    assert error > 0
    monkeypatch.setattr(
        verdicts, "margin", lambda lookup, bound: 0.0
    )  # else it is too small a lead
    base = world_of(toy_story, {})
    cost = base[1].test_cost - 1.5 * error
    same = entries_of([*base, cell(toy_story, "mine", "heuristic", cost, validation_cost=0.1)])
    assert same["mine"].table_error == 0
    assert same["mine"].verdict == "better"
    log = log_of(cost, kept)
    other = entries_of(
        [*base, cell(toy_story, "mine", "heuristic", cost, log, validation_cost=0.1)]
    )
    assert other["mine"].table_error == pytest.approx(error)
    assert other["mine"].verdict == "undecided"
    assert known(other["mine"].p_value) > 0.05 > known(same["mine"].p_value)


class Drops:
    """Proposes to keep everything, or a set that changes from row to row."""

    def __init__(self, *, moving: bool) -> None:
        self.moving = moving

    def reset(self, batch: int, briefing: Any) -> None:
        self.row = 0

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> Any:
        self.row += 1
        kept = kept_without(*([2, 5] if self.row % 3 else [])) if self.moving else DENSE
        return np.tile(kept, (len(observation), 1))


def served_cells(story: Scenario) -> list[Cell]:
    """Cells as a bench makes them, from rows that the toy world really served."""
    told, judge, cells = briefing(story), worlds.scoring_world(story), []
    makers: dict[str, Any] = {
        "frontier": FrontierLookup,
        "all": lambda: Drops(moving=False),
        "moving": lambda: Drops(moving=True),
    }
    for name, make in makers.items():
        log = rollout.run(make, story, "test", told, 0)
        seen = rollout.replay(judge, log, refuses_misfit=False)
        about = cell(story, name, "heuristic", np.zeros((ROWS, LANES))).about
        cells.append(Cell(about, log, seen.nll, seen.measured, seen.quality))
    return cells


def test_costs_at_other_c_equal_serving_every_row_again(toy_story: Scenario) -> None:
    world, cells = worlds.scoring_world(toy_story), served_cells(toy_story)
    again = [rankings._capped(each, world.ceiling).mean() for each in cells]
    assert max(again) < 1, "else the short way is the long way"
    for ceiling in (0.05, 0.3, 1.0, 4.0, 9.0):
        there = replace(world, ceiling=ceiling)
        for each in cells:
            whole = rollout.replay(there, each.log, refuses_misfit=False).mean_cost
            assert rankings.cost_at(each, world, ceiling) == pytest.approx(whole, abs=1e-8)


def test_a_rival_moves_with_c_in_the_tokens_it_does_not_serve(toy_story: Scenario) -> None:
    flat = np.full((ROWS, LANES), 0.2)
    log = log_of(flat, refused=flat, stall=flat)
    rival = cell(toy_story, "int4", "rival", flat, log)
    world = worlds.scoring_world(toy_story)
    assert world.ceiling == 4
    assert rankings.cost_at(rival, world, 4.0) == pytest.approx(0.6)
    assert rankings.cost_at(rival, world, 1.0) == pytest.approx(0.2 + 0.4 / 4)


def test_rankings_hold_rivals_and_no_bound(toy_story: Scenario) -> None:
    flat = np.full((ROWS, LANES), 1e-4)
    cells = [*served_cells(toy_story), cell(toy_story, "int4", "rival", flat)]
    cells.append(cell(toy_story, "bound", "bound", flat))
    found = rankings.rankings(Results({}, tuple(cells)))
    assert [entry["ceiling"] for entry in found][:3] == [1.0, 2.0, 3.9]
    for entry in found:
        assert entry["costs"]["int4"] == pytest.approx(1e-4), "all of it is served"
        assert {*entry["ranking"]} == {"frontier", "all", "moving", "int4"}
        assert [entry["costs"][name] for name in entry["ranking"]] == sorted(
            entry["costs"].values()
        )


def made_of(found: Results) -> tuple[Any, Any]:
    again = scoreboard.summed_up(found)
    return again.scores, again.header["rankings"]


def test_a_file_gives_the_same_numbers_to_the_last_bit(toy_story: Scenario, tmp_path: Path) -> None:
    cells = served_cells(toy_story)
    base = cells[0]
    kinds: tuple[tuple[str, Kind], ...] = (
        ("static-best", "static"), ("bound", "bound"), ("int4", "rival"),
    )  # fmt: skip
    for name, kind in kinds:
        cells.append(replace(base, about=replace(base.about, policy=name, kind=kind)))
    cells[-2] = replace(cells[-2], test_quality=np.round(base.test_quality, 9) / 3)
    header: dict[str, Any] = {"scenarios": {}, "tables": {}, "workloads": {}}
    found = Results(header, tuple(cells))
    results.write(tmp_path / "toy.csv.gz", found)
    again = results.read(tmp_path / "toy.csv.gz")
    assert made_of(again) == made_of(found)
