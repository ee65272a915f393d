"""What was found, in words: nothing is said that the statistics do not bear."""

from typing import Any

import pytest

from rapgym import findings


def entry(policy: str, cost: float, **more: Any) -> dict[str, Any]:
    return {
        "scenario": "toy-v0", "headline": True, "policy": policy, "kind": "heuristic", "cost": cost,
        "adaptivity": 90.0, "adaptivity_low": 80.0, "adaptivity_high": 95.0, "foresight": 12.5,
        "low": 3.0, "high": 20.0, "p_holm": None, "verdict": None, "champion": [], "fallback": 0.0,
        "tied_for_best": False,
    } | more  # fmt: skip


def group(*more: dict[str, Any]) -> list[dict[str, Any]]:
    """One scenario: the ends of the scales, a policy with the lowest cost on test, and `more`."""
    ends = [
        entry("static-best", 0.9, kind="static"),
        entry("frontier", 0.2, kind="reactive"),
        entry("lucky", 0.12, tied_for_best=True),
        entry("bound", 0.1, kind="bound"),
    ]
    return sorted([*ends, *more], key=lambda each: float(each["cost"]))


def champion(verdict: str | None, **more: Any) -> dict[str, Any]:
    p = {"better": 0.012, "worse": 0.012, "tie": 0.34, None: None}[verdict]
    named = {"champion": ["heuristic", "all"], "verdict": verdict, "p_holm": p}
    return entry("sound", 0.15) | named | more


def said(*more: dict[str, Any]) -> str:
    (text,) = findings.sentences(group(*more))
    return text


def test_what_adapting_is_worth_comes_with_its_interval() -> None:
    assert "adapting at all is worth 90 of 100 points [80, 95]" in said(champion("better"))
    unsure = group(champion("better"))
    for each in unsure:
        each["adaptivity_low"] = -5.0
    assert "cannot be told from not adapting" in findings.adapting(unsure)


def test_the_lookup_is_beaten_only_where_the_verdict_says_so() -> None:
    assert "`sound`, which beats the lookup" in said(champion("better"))
    assert "p = 0.012" in said(champion("better"))
    for verdict in ("tie", "worse", None):
        assert "beats" not in said(champion(verdict)), verdict
    assert "a tie with the lookup" in said(champion("tie"))
    assert "is worse than the lookup" in said(champion("worse"))
    assert "outside the headline and not tested" in said(champion(None))


def test_the_best_on_test_is_named_but_makes_no_claim() -> None:
    text = said(champion("tie", tied_for_best=True))
    assert "The lowest cost on test has `lucky`, 0.120, not told apart from `sound`." in text
    assert "`lucky`, which" not in text


def test_a_learned_champion_has_a_sentence_of_its_own() -> None:
    learned = champion("better", policy="ppo", kind="learned", champion=["learned"])
    assert "Of learned policies, validation chooses `ppo`, which beats" in said(learned)
    assert "learned" not in said(champion("better"))


def test_a_champion_that_is_the_lookup_is_not_compared_with_itself() -> None:
    listed = group()
    for each in listed:
        if each["policy"] == "frontier":
            each["champion"] = ["reactive", "all"]
    assert "validation chooses `frontier`: the lookup itself." in findings.foresight(listed, "all")


def test_results_without_validation_costs_say_so() -> None:
    assert "No champion was chosen" in said()


def rival(name: str, cost: float, behind_best: Any, behind_bound: Any) -> dict[str, Any]:
    ends: dict[str, float] = {}
    for what, (low, high) in (("behind_best", behind_best), ("behind_bound", behind_bound)):
        ends |= {f"{what}_low": low, f"{what}_high": high}
    return entry(name, cost, kind="rival", adaptivity=None, foresight=None, **ends)


@pytest.mark.parametrize(
    ("behind_best", "behind_bound", "text"),
    [
        ((-0.2, -0.1), (-0.09, -0.01), "int4 makes pruning pointless here"),
        ((-0.2, -0.1), (-0.01, 0.02), "cheaper than every policy tried, and not told apart from"),
        ((-0.2, -0.1), (0.01, 0.02), "cheaper than every policy tried, but not than the bound"),
        ((-0.1, 0.1), (0.01, 0.02), "does not make pruning pointless here: `int4` ties"),
        ((0.1, 0.2), (0.11, 0.22), "does not make pruning pointless here: `int4` costs more"),
    ],
)
def test_int4_makes_pruning_pointless_only_below_the_bound(
    behind_best: Any, behind_bound: Any, text: str
) -> None:
    found = said(champion("tie"), rival("int4", 0.11, behind_best, behind_bound))
    assert text in found
    assert ("makes pruning pointless" in found) == text.startswith("int4 makes")
    assert "where the best pruning policy costs 0.120" in found


def test_other_rivals_do_not_speak_for_int4() -> None:
    found = said(champion("tie"), rival("int8", 0.01, (-1, -1), (-1, -1)))
    assert "`int8` 0.010" in found
    assert "int4" not in found


def named(scenario: str, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each | {"scenario": scenario} for each in entries]


def test_the_whole_counts_scenarios_by_verdict_and_leaves_out_those_off_the_headline() -> None:
    entries = [
        *named("one-v0", group(champion("better"))),
        *named("two-v0", group(champion("tie"))),
        *named("three-v0", [e | {"adaptivity": 60.0} for e in group(champion("worse"))]),
        *named("off-v0", [e | {"headline": False} for e in group(champion(None))]),
    ]
    adapting, foresight = findings.overall(entries)
    assert "60 to 90 of 100 points (median 90) over 3 scenarios" in adapting
    assert "beats it on 1: one (sound, 12)" in foresight
    assert "worse on 1: three" in foresight
    assert "not told apart from it on 1: two" in foresight
    assert "off" not in foresight.replace("off the", "")


@pytest.mark.parametrize(
    ("best", "bound", "says"),
    [
        ((0.1, 0.3), (0.2, 0.4), "costs more on 1"),
        ((-0.1, 0.3), (0.1, 0.4), "within error"),
        ((-0.3, -0.1), (0.1, 0.3), "not surely less than the bound"),
        ((-0.3, -0.1), (-0.2, -0.1), "is pointless there"),
    ],
)
def test_the_whole_says_what_four_bits_cost(
    best: tuple[float, float], bound: tuple[float, float], says: str
) -> None:
    rival = entry("int4", 0.11, kind="rival", adaptivity=None, foresight=None) | {
        "behind_best_low": best[0], "behind_best_high": best[1],
        "behind_bound_low": bound[0], "behind_bound_high": bound[1],
    }  # fmt: skip
    streaming = rival | {"policy": "streaming", "cost": 0.3}
    *_, four, other = findings.overall(group(champion("tie"), rival, streaming))
    for text in (four, other):
        assert says in text
        assert "toy (int4, 0.110 against 0.120)" in text
