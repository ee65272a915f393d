"""Scores as text: what a reader must see is there."""

from typing import Any

from rapgym import report


def entry(policy: str, **more: Any) -> dict[str, Any]:
    return {
        "scenario": "toy-v0", "policy": policy, "kind": "reactive", "adaptivity": 50.0,
        "foresight": 12.5, "low": -1.0, "high": 20.0, "cost": 0.1, "quality": 0.04, "stall": 0.01,
        "emergency": 0.05, "refused": 0.0, "decision_us_p50": 40.2, "decision_us_p99": 81.0,
        "calibration_passes": 464.0, "unmeasured": 0.02, "fallback": 0.0, "fault": None,
        "tied_for_best": False,
    } | more  # fmt: skip


def test_a_row_shows_score_interval_terms_time_and_calibration() -> None:
    line = report.table([entry("mine")]).splitlines()[2]
    shown = [
        "mine",
        "50.0",
        "12.5 [-1.0, 20.0]",
        "0.1000",
        "0.0400",
        "0.0500",
        "40/81",
        "464",
        "2%",
    ]
    assert all(text in line for text in shown)


def test_ties_and_policies_that_did_not_answer_are_marked() -> None:
    tied, silent = entry("tied", tied_for_best=True), entry("silent", fallback=0.5, fault="late")
    text = report.table([tied, silent])
    assert "tied =" in text
    assert "silent !" in text
    assert report.warnings([tied]) == ""
    assert "silent on toy-v0: 50%" in report.warnings([tied, silent])
    assert "late" in report.warnings([silent])


def test_what_has_no_score_shows_none() -> None:
    oracle = entry("bound", adaptivity=None, foresight=None, decision_us_p50=None,
                   decision_us_p99=None, calibration_passes=None)  # fmt: skip
    assert report.table([oracle]).splitlines()[2].split()[2:4] == ["-", "-"]


def test_markdown_has_as_many_cells_as_titles() -> None:
    lines = [line for line in report.markdown([entry("a"), entry("b")]).splitlines() if "|" in line]
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 4
