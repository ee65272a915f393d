"""Scores as text: what a reader must see is there."""

from typing import Any

import pytest
from plain_records import score_of

from rapgym.bench.records import Score
from rapgym.report import bench as bench_report


def entry(policy: str, **more: Any) -> Score:
    scores = {"kind": "reactive", "adaptivity": 50.0, "low": -1.0}
    return score_of(policy, **(scores | more))


def test_a_row_shows_score_interval_p_terms_time_and_calibration() -> None:
    line = bench_report.table(
        [entry("mine", p_holm=0.0042, holm_tests=10, break_even_tokens=8.1249e6)]
    ).splitlines()[2]
    shown = [
        "mine",
        "50.0",
        "12.5 [-1.0, 20.0]",
        "0.004 of 10",
        "0.1000",
        "0.0400",
        "0.0500",
        "40/81",
        "464",
        "8.12M",
        "2%",
    ]
    assert all(text in line for text in shown)


def test_ties_and_policies_that_did_not_answer_are_marked() -> None:
    tied, silent = entry("tied", tied_for_best=True), entry("silent", fallback=0.5, fault="late")
    text = bench_report.table([tied, silent])
    assert "tied =" in text
    assert "silent !" in text
    assert bench_report.warnings([tied]) == ""
    assert "silent on toy-v0: 50%" in bench_report.warnings([tied, silent])
    assert "late" in bench_report.warnings([silent])


def test_champions_are_marked_and_those_of_all_kinds_twice() -> None:
    ofall = entry("best", champion=("heuristic", "all"), tied_for_best=True)
    text = bench_report.table([ofall, entry("other", champion=("reactive",))])
    assert "best ++ =" in text
    assert "other + " in text


def test_what_has_no_score_shows_none() -> None:
    oracle = entry("bound", adaptivity=None, foresight=None, decision_us_p50=None,
                   decision_us_p99=None, calibration_passes=None)  # fmt: skip
    assert bench_report.table([oracle]).splitlines()[2].split()[2:5] == ["-", "-", "-"]


@pytest.mark.parametrize(
    ("tokens", "text"),
    [(None, "-"), (0.0, "0"), (999.0, "999"), (1e3, "1k"), (8124.9, "8.12k"), (9.9996e5, "1M")],
)
def test_tokens_are_shown_to_three_digits(tokens: float | None, text: str) -> None:
    assert bench_report.shown_tokens(tokens) == text


def test_a_p_value_is_not_rounded_to_the_limit() -> None:
    assert bench_report.shown_p(0.0499) == "0.0499"
    assert bench_report.shown_p(0.0012) == "0.001"
    assert bench_report.shown_p(0.87) == "0.87"


def test_a_scenario_outside_the_headline_says_so() -> None:
    aside = entry("mine", headline=False)
    assert "toy-v0 (outside the headline)" in bench_report.table([aside])
    assert "toy-v0 (outside the headline)" in bench_report.markdown([aside])


def test_markdown_has_as_many_cells_as_titles() -> None:
    lines = [
        line for line in bench_report.markdown([entry("a"), entry("b")]).splitlines() if "|" in line
    ]
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 4
