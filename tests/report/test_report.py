"""Scores as text: what a reader must see is there."""

import io
import re
from typing import Any

import pytest
from plain_records import score_of

from rapgym.bench.records import Score
from rapgym.report import bench as bench_report
from rapgym.report import terminal


def entry(policy: str, **more: Any) -> Score:
    scores = {"kind": "reactive", "gain": 50.0, "verdict": "undecided"}
    return score_of(policy, **(scores | more))


def test_a_row_shows_what_decides() -> None:
    title, head, line, *_ = terminal.table([entry("mine")]).splitlines()
    assert head.split("  ")[1].strip() == "policy"
    assert line.split() == ["mine", "0.1000", "0.0000", "50.0", "[-0.0200,", "-0.0030]", "undecided"]  # fmt: skip
    assert title == "toy-v0 (8 bursts: conditional on these rows)"
    claimed = terminal.table([entry("mine", unit="day", pieces=6, conditional=False)])
    assert claimed.splitlines()[0] == "toy-v0 (6 days)"


def test_wide_shows_every_column_and_what_it_means() -> None:
    text = terminal.table([entry("mine")], wide=True)
    line = text.splitlines()[2]
    assert line.split()[:10] == [
        "mine", "0.1000", "0.0400", "0.0100", "0.0500", "0.0000", "50.0", "12.5", "undecided",
        "0.0110",
    ]  # fmt: skip
    assert all(name in text.splitlines()[1] for name in (*bench_report.COLUMNS, *bench_report.MORE))
    assert text.endswith(bench_report.LEGEND)


def test_the_table_fits_a_terminal_and_its_legend_takes_three_lines() -> None:
    names = ("static-best-repaired", "my_package.of_some_length.policies:AnEvenLongerClassName")
    marked = {"champion": ("all",), "tied_for_best": True, "isolation": "none"}
    listed = [entry(name, low=-10.25, high=10.25, cost=123.4567, **marked) for name in names]
    text = terminal.table(listed)
    assert max(map(len, text.splitlines())) <= terminal.WIDTH == 100
    assert "…" in text
    assert "ClassName" in terminal.table([entry(names[1])]), "the class is told"
    assert len(text.partition("\n\n")[2].splitlines()) == 3
    assert names[1] in terminal.table(listed, wide=True)


def test_top_says_how_many_it_leaves_out() -> None:
    listed = [entry("one", cost=0.1), entry("two", cost=0.2), entry("three", cost=0.3)]
    text = terminal.table(listed, top=1)
    assert "one" in text
    assert "two" not in text
    assert "... and 2 more" in text
    assert "more, each" not in terminal.table(listed, top=3)


def test_colours_are_of_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    assert terminal.is_coloured(Terminal())
    assert not terminal.is_coloured(io.StringIO()), "a pipe"
    monkeypatch.setenv("NO_COLOR", "1")
    assert not terminal.is_coloured(Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not terminal.is_coloured(Terminal())
    listed = [entry("mine", verdict="better", champion=("all",)), entry("other", verdict="worse")]
    plain, coloured = terminal.table(listed), terminal.table(listed, colour=True)
    assert "\x1b[32m better\x1b[0m" in coloured
    assert "\x1b[31m" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain


def test_a_name_moves_no_cursor() -> None:
    assert "\x1b" not in terminal.table([entry("\x1b[2Jmine")])
    assert "\\x1b[2Jmine" in terminal.table([entry("\x1b[2Jmine")])


def test_the_answer_is_plain_text_in_lines() -> None:
    text = terminal.sentences([entry("mine")])
    assert not {"*", "`"} & {*text}
    assert max(map(len, text.splitlines())) <= terminal.WIDTH


def test_pages_show_intervals_p_time_and_calibration_too() -> None:
    found = entry("mine", p_holm=0.0042, holm_tests=10, break_even_tokens=8.1249e6)
    line = bench_report.markdown([found]).splitlines()[4]
    shown = [
        "50.0 [80.0, 95.0]",
        "[-0.0200, -0.0030]",
        "0.004 of 10",
        "40/81",
        "464",
        "8.12M",
        "2%",
    ]
    assert all(f" {text} |" in line for text in shown)


@pytest.mark.parametrize(("bits", "first"), [(16, "int8-int8-kv"), (8, "mine"), (4, "mine")])
def test_rivals_of_8_bits_come_first_where_weights_have_16(bits: int, first: str) -> None:
    listed = [
        entry("mine", cost=0.1, bits=bits),
        entry("int4-int8-kv", cost=0.15, kind="rival", bits=bits),
        entry("int8-int8-kv", cost=0.2, kind="rival", bits=bits),
    ]
    assert terminal.table(listed).splitlines()[2].split()[0] == first
    assert [e.policy for e in bench_report.in_order(listed)][-1] != "mine"


def test_ties_and_policies_that_did_not_answer_are_marked() -> None:
    tied, silent = entry("tied", tied_for_best=True), entry("silent", fallback=0.5, fault="late")
    text = terminal.table([tied, silent])
    assert "tied =" in text
    assert "silent !" in text
    assert bench_report.warnings([tied]) == ""
    assert "silent on toy-v0: 50%" in bench_report.warnings([tied, silent])
    assert "late" in bench_report.warnings([silent])


def test_champions_are_marked_and_those_of_all_kinds_twice() -> None:
    ofall = entry("best", champion=("heuristic", "all"), tied_for_best=True)
    text = terminal.table([ofall, entry("other", champion=("reactive",))])
    assert "best ++ =" in text
    assert "other + " in text
    assert "other ++" not in text


def test_what_has_no_score_shows_none() -> None:
    oracle = entry("bound", gain=None, foresight=None, verdict=None, least_effect=None)
    assert terminal.table([oracle], wide=True).splitlines()[2].split()[6:10] == ["-", "-", "-", "-"]
    assert terminal.table([oracle]).splitlines()[2].split()[3] == "-"


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
    aside = entry("mine", group="16-bit", claims=False)
    assert "toy-v0 (outside the headline; 8 bursts: " in terminal.table([aside])
    assert "toy-v0 (outside the headline; 8 bursts: " in bench_report.markdown([aside])


def test_markdown_has_as_many_cells_as_titles() -> None:
    lines = [
        line for line in bench_report.markdown([entry("a"), entry("b")]).splitlines() if "|" in line
    ]
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 4
