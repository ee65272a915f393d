"""What was found, in words: nothing is said that the statistics do not bear."""

from dataclasses import replace
from typing import Any

import pytest
from plain_records import score_of

from rapgym.bench.records import Score
from rapgym.report import bench as report
from rapgym.report import findings


def entry(policy: str, cost: float, **more: Any) -> Score:
    return score_of(policy, cost=cost, **more)


def group(*more: Score) -> list[Score]:
    """One scenario: the ends of the scales, a policy with the lowest cost on test, and `more`."""
    ends = [
        entry("static-best", 0.9, kind="static"),
        entry("frontier", 0.2, kind="reactive"),
        entry("lucky", 0.12, tied_for_best=True),
        entry("bound", 0.1, kind="bound"),
    ]
    return sorted([*ends, *more], key=lambda each: each.cost)


def changed(entries: list[Score], policy: str, **more: Any) -> list[Score]:
    """The same, one policy's entry otherwise."""
    assert policy in {each.policy for each in entries}
    return [replace(each, **more) if each.policy == policy else each for each in entries]


def champion(verdict: str | None, **more: Any) -> Score:
    p = {"better": 0.012, "worse": 0.012, "equal": 0.02, "undecided": 0.34, None: None}[verdict]
    named: dict[str, Any] = {
        "champion": ("heuristic", "all"), "champion_p": (p, p), "champion_low": -0.06,
        "champion_high": -0.01, "verdict": verdict, "p_holm": p,
    }  # fmt: skip
    return replace(entry("sound", 0.15), **(named | more))


def said(*more: Score) -> str:
    (text,) = findings.sentences(group(*more))
    return text


def test_what_adapting_is_worth_comes_with_its_interval() -> None:
    admitting = rival("partial-admission", 0.95, (0.1, 0.2), (0.1, 0.2))
    text = said(champion("better"), admitting)
    assert "not pruning costs 0.950, the frontier lookup 0.200, the bound 0.100 nats" in text
    assert "adapting at all is worth 90 of 100 points of gain [80, 95]" in text
    unsure = [replace(each, gain_low=-5.0) for each in group(champion("better"), admitting)]
    assert "is not told from not pruning" in findings.adapting(unsure)
    without = [replace(each, gain=None) for each in group(champion("better"))]
    assert findings.adapting(without) == "the frontier lookup 0.200, the bound 0.100 nats a token."


def test_the_lookup_is_beaten_only_where_the_verdict_says_so() -> None:
    assert "`sound`, which beats the lookup (-0.0500 nats [-0.0600, -0.0100]" in said(
        champion("better")
    )
    assert "p = 0.012" in said(champion("better"))
    for verdict in ("equal", "undecided", "worse", None):
        assert "beats" not in said(champion(verdict)), verdict
    assert "is as good as the lookup" in said(champion("equal"))
    assert "is worse than the lookup" in said(champion("worse"))
    unsure = said(champion("undecided"))
    assert "is not told from the lookup" in unsure
    assert "; 0.0110 could have been shown)" in unsure
    assert "could have been shown" not in said(champion("equal"))
    aside = champion("better", group="16-bit", claims=False, p_holm=None)
    assert "outside the headline and in no family of tests" in said(aside)


def test_what_speaks_of_these_rows_alone_says_so_everywhere() -> None:
    assert "conditional on these rows" in said(champion("better"))
    assert "conditional on these rows" in " ".join(findings.overall(group(champion("better"))))
    days = [replace(each, conditional=False) for each in group(champion("better"))]
    assert "conditional" not in " ".join((*findings.sentences(days), *findings.overall(days)))


def test_the_best_on_test_is_named_but_makes_no_claim() -> None:
    text = said(champion("undecided", tied_for_best=True))
    assert "`lucky` has the lowest cost on test, 0.120, and ties with `sound`." in text
    assert "`lucky`, which" not in text
    third = entry("third", 0.16, tied_for_best=True)
    assert "0.120, and ties with `sound` and 1 more." in said(
        champion("undecided", tied_for_best=True), third
    )
    assert "has the lowest cost on test, 0.120, alone." in said(champion("undecided"))


def test_a_learned_champion_has_a_sentence_of_its_own() -> None:
    learned = champion("better", policy="ppo", kind="learned", champion=("learned",))
    assert "Of learned policies, validation chooses `ppo`, which beats" in said(learned)
    assert "learned" not in said(champion("better"))


def learned(behind: float, low: float, high: float, **more: Any) -> Score:
    """A learned champion that costs so much more than the other."""
    ends = {"behind_champion": behind, "behind_champion_low": low, "behind_champion_high": high}
    named: dict[str, Any] = {"kind": "learned", "champion": ("learned",), "seeds": 5, **ends}
    return entry("net", 0.15 + behind, verdict="undecided", p_holm=0.5, **(named | more))


@pytest.mark.parametrize(
    ("behind", "low", "high", "how"),
    [(-0.02, -0.03, -0.01, "costs less than"), (0.02, 0.01, 0.03, "costs more than"),
     (-0.02, -0.03, 0.001, "ties with"), (0.02, 0.0, 0.03, "ties with")],
)  # fmt: skip
def test_learning_leads_only_where_the_whole_interval_does(
    behind: float, low: float, high: float, how: str
) -> None:
    text = said(champion("undecided"), learned(behind, low, high))
    assert f"`net` (5 training seeds) {how} `sound`" in text
    # A point is a hundredth of 0.2 - 0.1: what the lookup costs above the bound.
    assert f"a lead of {-behind * 1000:.1f} points of foresight [{-high * 1000:.1f}, " in text
    over_all = " ".join(findings.overall(group(champion("undecided"), learned(behind, low, high))))
    assert f"the trained one {how.rpartition(' ')[0]} on 1 of 1 scenarios (`toy`)" in over_all


def test_no_points_are_named_where_there_is_next_to_nothing_to_win() -> None:
    listed = group(champion("undecided"), learned(0.02, -0.01, 0.03))
    at_the_bound = changed(listed, "frontier", cost=0.104)
    (text,) = findings.sentences(at_the_bound)
    assert "ties with `sound`" in text
    assert "a lead of" not in text


def test_of_learning_nothing_is_said_where_none_was_run() -> None:
    assert "learned champion" not in said(champion("undecided"))
    assert "Learning" not in " ".join(findings.overall(group(champion("undecided"))))


def test_what_knows_no_table_is_held_to_95_of_100_of_the_lookup() -> None:
    for gain, wanted in (
        (85.6, "on 1 of 1 scenarios."),
        (85.4, "on 0 of 1 scenarios; the least is 95% (`toy`)."),
    ):
        blind = entry("dqn", 0.2, kind="learned", gain=gain)
        text = " ".join(findings.overall(group(champion("undecided"), blind)))
        assert f"reaches 95% of the lookup's gain {wanted}" in text


def test_a_champion_that_is_the_lookup_is_not_compared_with_itself() -> None:
    listed = changed(group(), "frontier", champion=("reactive", "all"))
    assert "validation chooses `frontier`: the lookup itself." in findings.foresight(listed, "all")


def test_results_without_validation_costs_say_so() -> None:
    assert "No champion was chosen" in said()


CASES = [
    ((0.1, 0.2), (0.11, 0.22), "costs more than the champion"),
    ((-0.1, 0.1), (0.01, 0.02), "ties with the champion"),
    ((-0.2, -0.1), (0.01, 0.02), "costs less than the champion but more than the bound"),
    ((-0.2, -0.1), (-0.01, 0.02), "costs less than the champion and ties with the bound"),
    ((-0.2, -0.1), (-0.09, -0.01), "costs less than the bound"),
]
stands = pytest.mark.parametrize(("champion_ends", "bound_ends", "says"), CASES)


def rival(name: str, cost: float, champion_ends: Any, bound_ends: Any) -> Score:
    ends: dict[str, float] = {}
    for what, (low, high) in (("behind_champion", champion_ends), ("behind_bound", bound_ends)):
        ends |= {f"{what}_low": low, f"{what}_high": high}
    return entry(name, cost, kind="rival", gain=None, foresight=None, **ends)


@stands
def test_rivals_stand_where_their_intervals_say(
    champion_ends: Any, bound_ends: Any, says: str
) -> None:
    found = said(champion("undecided"), rival("int4", 0.11, champion_ends, bound_ends))
    assert f"The cheapest rival that prunes nothing, `int4`, {says} (" in found
    assert f"The cheapest rival that prunes nothing, of 4 bits, `int4`, {says} (" in found
    assert "(0.110 against 0.150)" in found, "the champion's cost, not that of the luckiest on test"
    others = [other for _, _, other in CASES if other != says]
    assert not any(other in found for other in others)


ON_TOP = [((0.01, 0.2), "costs more"), ((0.0, 0.0), "ties"), ((-0.1, 0.1), "ties"),
          ((-0.2, -0.01), "costs less")]  # fmt: skip


def pruned(name: str, cost: float, ends: tuple[float, float]) -> Score:
    low, high = ends
    found = rival(name, cost, (-1, -1), (-1, -1))
    return replace(found, behind_unpruned_low=low, behind_unpruned_high=high)


@pytest.mark.parametrize(("ends", "says"), ON_TOP)
def test_pruning_on_top_of_8_bits_is_told_from_the_best_without(
    ends: tuple[float, float], says: str
) -> None:
    refused = replace(rival("int8-int8-kv", 0.05, (-1, -1), (-1, -1)), refused=0.04)
    least = rival("int8-int8-kv-admission", 0.04, (-1, -1), (-1, -1))
    over = pruned("int8-int8-kv-pruned", 0.03, ends), pruned("int4-pruned", 0.02, (-1, -1))
    listed = group(champion("undecided"), refused, least, *over)
    *_, text = findings.overall(listed)
    assert f"the cheapest rival that prunes nothing, it {says} on 1 of 1 scenarios (`toy`)." in text
    assert "not corrected" in text
    assert not any(f"it {other} on" in text for _, other in ON_TOP if other != says)
    assert "fits in every second" not in text
    assert "int4" not in text, "a claim on one format, chosen before"
    listed = changed(listed, "int8-int8-kv", refused=0.0)
    assert "fits in every second of 1 (`toy`)" in findings.overall(listed)[-1]


def test_rivals_that_prune_do_not_speak_for_those_that_do_not() -> None:
    whole = rival("int8", 0.11, (0.1, 0.2), (0.01, 0.02))
    over = pruned("int4-pruned", 0.01, (-0.2, -0.01))
    found = said(champion("undecided"), whole, over)
    assert "The cheapest rival that prunes nothing, `int8`, costs more than the champion" in found
    assert (
        "the cheapest is `int4-pruned`: beside the cheapest that prunes nothing it costs less"
        in found
    )
    assert "(0.010 against 0.110)" in found
    assert "of 4 bits" not in found
    other, *_ = findings.overall(group(champion("undecided"), whole, over))
    assert "costs more than the champion on 1 of 1 scenarios (`toy`)" in other
    assert not any(
        "Pruning on top" in text for text in findings.overall(group(champion("undecided"), whole))
    )


def test_other_rivals_do_not_speak_for_int4() -> None:
    found = said(champion("undecided"), rival("int8", 0.01, (-1, -1), (-1, -1)))
    assert "`int8`" in found
    assert "4 bits" not in found


def named(scenario: str, entries: list[Score]) -> list[Score]:
    return [replace(each, scenario=scenario) for each in entries]


def test_the_whole_counts_scenarios_by_verdict_and_leaves_out_those_off_the_headline() -> None:
    entries = [
        *named("one-v0", group(champion("better"))),
        *named("two-v0", group(champion("undecided"))),
        *named("three-v0", [replace(e, gain=60.0) for e in group(champion("worse"))]),
        *named("off-v0", [replace(e, group="16-bit", claims=False) for e in group(champion(None))]),
    ]
    adapting, foresight = findings.overall(entries)
    assert "60 to 90 of 100 points of gain (median 90) over 3 scenarios" in adapting
    assert "beats it on 1 of 3 scenarios (`one`)" in foresight
    assert "is worse on 1 (`three`)" in foresight
    assert "is not told from it on 1. On 3 of 3 scenarios this is conditional" in foresight
    assert "`two`" not in foresight, "two names are enough"
    assert "off" not in foresight.replace("off the", "")


def test_a_trimmed_set_stands_beside_the_lookup_by_its_verdict() -> None:
    def with_sets(scenario: str, verdict: str, cost: float, whole: float) -> list[Score]:
        sets = [entry("static-best-repaired", cost, verdict=verdict), entry("keep-all", whole)]
        return named(scenario, group(*sets))

    groups = [
        with_sets("one-v0", "worse", 0.3, 0.4),
        with_sets("two-v0", "undecided", 0.21, 0.21),
        with_sets("three-v0", "undecided", 0.25, 0.25),
    ]
    text = findings.trimmed(groups)
    assert "costs more than the lookup on 1 of 3 scenarios (`one`)" in text
    assert (
        "is not told from it on 2. It is the full model on 2 of 3 scenarios (`two`, `three`)."
        in text
    )
    assert text in findings.overall([each for found in groups for each in found])
    assert findings.trimmed([named("four-v0", group())]) == ""


@stands
def test_the_whole_says_what_rivals_cost(champion_ends: Any, bound_ends: Any, says: str) -> None:
    int4 = rival("int4", 0.11, champion_ends, bound_ends)
    streaming = rival("streaming", 0.3, champion_ends, bound_ends)
    other, *_, four = findings.overall(group(champion("undecided"), int4, streaming))
    for text in (four, other):
        assert f" {says} on 1 of 1 scenarios (`toy`)." in text
        assert ("has no point" in text) == (says == findings.BELOW_BOUND)


def test_the_median_of_an_even_number_lies_between() -> None:
    entries = [
        *named("one-v0", group(champion("undecided"))),
        *named("two-v0", [replace(e, gain=60.0) for e in group(champion("undecided"))]),
    ]
    assert "(median 75) over 2 scenarios" in findings.overall(entries)[0]


def test_scenarios_are_counted_and_named_only_where_they_are_one_or_two() -> None:
    names = ("one", "two", "three", "four")
    entries = [each for name in names for each in named(f"{name}-v0", group(champion("undecided")))]
    _, foresight = findings.overall([*entries, *named("last-v0", group(champion("better")))])
    assert "beats it on 1 of 5 scenarios (`last`) and is not told from it on 4." in foresight
    assert not any(name in foresight for name in names[:2])


def test_a_list_of_three_ends_in_and() -> None:
    said = {"wins": ["a"], "ties": ["b", "c", "d"], "never": [], "loses": ["e", "f"]}
    assert report.counted(said) == "wins on 1 of 6 scenarios (`a`), ties on 3 and loses on 2"
    assert report.counted({}) == ""
