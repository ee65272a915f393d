"""Figures: every number in them is that of the results frame, and names stay letters."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain_records import score_of
from report_pages import toy_bench

import rapgym
from rapgym.audit import sentence as audit_sentence
from rapgym.audit import step as audit_step
from rapgym.audit.log import AuditLog
from rapgym.audit.summary import Log
from rapgym.bench.results import Results
from rapgym.errors import InvalidResult, InvalidSpec, MissingExtra
from rapgym.model import blocks
from rapgym.report import drawing, figures, roles
from rapgym.report import film as report_film
from rapgym.scenarios import worlds
from rapgym.scenarios.story import GIB, Scenario

pytest.importorskip("plotly", reason="plotly is not installed: pip install 'rapgym[report]'")


@pytest.fixture(scope="module")
def bench(
    toy_story: Scenario, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Results]]:
    out = tmp_path_factory.mktemp("figures") / "bench.csv.gz"
    with pytest.MonkeyPatch.context() as patch:
        yield out, toy_bench(toy_story, out, patch)


@pytest.fixture(scope="module")
def rows(bench: tuple[Path, Results]) -> Any:
    return rapgym.read_results(bench[0])


def test_the_module_is_offered_by_the_package() -> None:
    assert rapgym.figures is figures
    assert all(callable(getattr(figures, name)) for name in figures.__all__)


def test_a_frame_of_scores_holds_the_entries(bench: tuple[Path, Results]) -> None:
    out, found = bench
    frame = figures.read_scores(out)
    assert len(frame) == len(found.scores)
    assert figures.entries_of(frame) == list(found.scores) == figures.entries_of(found.scores)


def test_costs_are_means_over_the_rows(bench: tuple[Path, Results], rows: Any) -> None:
    figure = figures.cost_by_scenario(figures.read_scores(bench[0]))
    paid = (rows.test_cost * rows.output_tokens).groupby(rows.policy, observed=True).sum()
    mean = paid / rows.output_tokens.groupby(rows.policy, observed=True).sum()
    drawn = {trace.name: trace.customdata[0] for trace in figure.data}
    wanted = {"bound": "bound: no pruning costs less", "frontier": "frontier lookup",
              "partial-admission": "not pruning, newest requests refused"}  # fmt: skip
    for policy, name in wanted.items():
        assert drawn[name] == pytest.approx(mean[policy])
    assert [each.name for each in roles.ROLES if each.name in drawn] == list(drawn)


def test_a_cost_below_the_axis_is_an_arrow_with_its_number() -> None:
    figure = figures.cost_by_scenario(
        [score_of("frontier", cost=-0.2), score_of("bound", cost=0.3)]
    )
    trace = figure.data[0]
    assert (trace.x[0], trace.customdata[0]) == (figures.LOWEST, -0.2)
    assert trace.marker.symbol[0] == "triangle-left"
    assert "-0.2000 nats" in trace.hovertext[0]


@pytest.mark.parametrize("draw", [figures.gain, figures.foresight])
def test_intervals_are_those_of_the_entries(draw: Any, bench: tuple[Path, Results]) -> None:
    found = bench[1].scores
    lookup = next(e.cost for e in found if e.policy == "frontier")
    figure, seen = draw(found), 0
    names = figure.layout.yaxis.ticktext
    for trace in figure.data:
        for i, (value, low, high) in enumerate(trace.customdata):
            entry = next(e for e in found if e.policy == names[trace.y[i]])
            own = (entry.gain, entry.gain_low, entry.gain_high)
            wanted = own if draw is figures.gain else (entry.cost - lookup, entry.low, entry.high)
            assert (value, low, high) == wanted
            if trace.x[i] == value:
                assert value + trace.error_x.array[i] == pytest.approx(max(high, value))
                assert value - trace.error_x.arrayminus[i] == pytest.approx(min(low, value))
                seen += 1
            else:
                assert trace.marker.symbol[i].startswith("triangle-")
    assert seen >= 3
    assert not any(e.is_rival for e in found if e.policy in names)


def test_one_scenario_is_shown_at_a_time() -> None:
    figure = figures.gain([score_of(), score_of(scenario="other-v0", kind="learned")])
    assert [(trace.meta, trace.visible) for trace in figure.data] == [
        ("toy-v0", True),
        ("other-v0", False),
    ]
    assert {*figure.layout.meta["ranges"]} == {"toy-v0", "other-v0"}


def test_decision_times_are_those_of_the_entries() -> None:
    median, late = figures.decision_time([score_of(), score_of("bound", decision_us_p50=None)]).data
    assert (median.x, late.x) == ((40.2,), (81.0,))


@pytest.fixture(scope="module")
def film(rows: Any, toy_story: Scenario) -> report_film.Film:
    return report_film.filmed(rows, toy_story.id, "frontier")


@pytest.fixture(scope="module")
def own(rows: Any, film: report_film.Film) -> Any:
    own = rows[(rows.policy == "frontier") & (rows.pairing == 0)]
    assert len(film.reason) == len(own) > 10
    return own


class TestFilm:
    """The toy scenario's hour, whose bytes are counted by hand in toy_world."""

    def test_bytes_limits_and_kept_sets_are_those_of_the_rows(
        self, film: report_film.Film, own: Any
    ) -> None:
        assert film.used_bytes.tolist() == own.used_bytes.tolist()
        assert film.by_kind.sum(axis=1).tolist() == own.used_bytes.tolist()
        assert film.limit_bytes[:, 0].tolist() == own.limit_bytes.tolist()
        assert [blocks.key(kept) for kept in film.kept] == own.kept.tolist()
        assert list(film.reason) == own.reason.tolist()

    def test_lost_seconds_are_what_the_rows_paid_for(
        self, film: report_film.Film, own: Any, toy_story: Scenario
    ) -> None:
        ceiling = worlds.world(toy_story, "test").ceiling
        paid = own[["stall", "emergency", "refused"]].to_numpy()
        assert paid.sum() > 0
        np.testing.assert_allclose(film.lost_s * ceiling / film.window_s, paid)

    def test_a_sentence_is_what_the_audit_says(
        self, film: report_film.Film, toy_story: Scenario, tmp_path: Path
    ) -> None:
        with AuditLog(tmp_path / "decisions.jsonl") as log:
            audit_step.log_run(log, toy_story, "test", "frontier")
        read = Log(tmp_path / "decisions.jsonl")
        logged = [record for record in read.records() if record.second == 0][: len(film.sentence)]
        said = [
            audit_sentence.explained(read.context(record), record).sentence for record in logged
        ]
        assert [sentence.partition(": ")[2] for sentence in said] == [*film.sentence]
        assert len({*film.sentence}) > 3

    def test_the_figure_shows_the_film(self, film: report_film.Film) -> None:
        figure = report_film.drawn(film)
        traces = {trace.name: trace for trace in figure.data}
        stacked = np.array([traces[name].y[:-1] for name in report_film.KINDS]).sum(axis=0) * GIB
        np.testing.assert_allclose(stacked, film.used_bytes, rtol=1e-4)
        strip = np.array(traces["attention blocks"].z)
        assert (strip == film.kept[:, 0::2].T).all()
        marks = [trace for trace in figure.data if trace.meta == drawing.STEPS]
        assert sorted(i for trace in marks for i in trace.customdata) == list(
            range(len(film.reason))
        )
        for trace in marks:
            for i, hover in zip(trace.customdata, trace.hovertext, strict=True):
                assert hover.replace("<br>", " ") == film.sentence[i]
                assert trace.name == f"decided: {film.reason[i]}"
        assert {trace.xaxis for trace in figure.data} == {None}, "one axis: zoom is linked"

    @pytest.mark.parametrize("column", ["limit_bytes", "used_bytes", "output_tokens"])
    def test_rows_of_another_world_are_refused(
        self, rows: Any, toy_story: Scenario, column: str
    ) -> None:
        changed = rows.copy()
        changed[column] += 1
        with pytest.raises(InvalidResult, match="are not those of toy-v0 here"):
            report_film.filmed(changed, toy_story.id, "frontier")

    @pytest.mark.parametrize("row", [-1, 10**6])
    def test_rows_that_there_are_not_are_refused(
        self, rows: Any, toy_story: Scenario, row: int
    ) -> None:
        with pytest.raises(InvalidResult, match="are not those of toy-v0 here"):
            report_film.filmed(rows.assign(row=row), toy_story.id, "frontier")

    def test_what_decides_nothing_is_not_filmed(self, rows: Any, toy_story: Scenario) -> None:
        with pytest.raises(InvalidSpec, match="does not decide row by row"):
            report_film.filmed(rows, toy_story.id, "partial-admission")
        with pytest.raises(InvalidSpec, match="no rows of 'nobody'"):
            report_film.filmed(rows, toy_story.id, "nobody")

    def test_the_dearest_hour_is_chosen(
        self, rows: Any, toy_story: Scenario, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(report_film, "HOUR_S", 5 * toy_story.window_s)
        own = rows[(rows.policy == "frontier") & (rows.pairing == 0)]
        paid = (own.cost * own.output_tokens).to_numpy()
        parts = [paid[first : first + 5].sum() for first in range(0, len(paid) - 4, 5)]
        best = 5 * int(np.argmax(parts))
        film = report_film.filmed(rows, toy_story.id, "frontier")
        assert [blocks.key(kept) for kept in film.kept] == own.kept.tolist()[best : best + 5]


def test_nats_and_bytes_are_those_of_the_table(rows: Any, toy_story: Scenario) -> None:
    figure = figures.nats_against_bytes(rows, toy_story.id, "frontier")
    used = next(trace for trace in figure.data if trace.name == "used by frontier")
    own = rows[(rows.policy == "frontier") & (rows.reason != "refused")]
    by_set = own.groupby("kept", observed=True).output_tokens.sum()
    assert len(used.x) == min((by_set > 0).sum(), 60)
    assert used.customdata[0] == pytest.approx(by_set.max() / own.output_tokens.sum())
    measured = [trace for trace in figure.data if trace.name.startswith("measured")]
    points = {
        (round(x * GIB), round(y, 4))
        for trace in measured
        for x, y in zip(trace.x, trace.y, strict=True)
    }
    assert (0, 0.0) in points, "the full model frees nothing and costs nothing"
    assert (60, 0.2) in points, "ffn1 is 60 bytes and 0.20 nats: toy_table, toy_world"
    assert sum(len(trace.x) for trace in measured) == 64


def test_importance_is_that_of_the_table_for_each_text(toy_story: Scenario) -> None:
    from rapgym.scenarios import tables

    traces = {trace.name: trace for trace in figures.importance(toy_story.id).data}
    attention, ffn = traces["attention"], traces["FFN"]
    assert traces["FFN, floor"].z[0] == [0, None, None], "ffn0 is of the floor: toy_table"
    table = tables.table(toy_story)
    for place, domain in enumerate([*table.header.domains, None]):
        view = table.calibration(domain)
        for strip, kind in ((attention, 0), (ffn, 1)):
            for layer, shown in enumerate(strip.z[place]):
                block = 2 * layer + kind
                assert shown == (
                    None if view.floor[block] else pytest.approx(view.importance[block])
                )


HOSTILE = "<b onmouseover=alert(1)>x</b> &amp; %{y} \x1b[31m\u202e"


def test_a_name_stays_letters_in_a_figure() -> None:
    assert drawing.label(HOSTILE) == (
        "&lt;b onmouseover=alert(1)&gt;x&lt;/b&gt; &amp;amp; %{y} \\x1b[31m\\u202e"
    )
    figure = figures.gain([score_of(HOSTILE, scenario=HOSTILE)])
    text = figure.to_json()
    assert "<b onmouseover" not in text
    assert all(trace.hovertemplate is None for trace in figure.data)
    long = drawing.label("n" * 500, 44)
    assert len(long) == 44


def test_ticks_are_round_numbers() -> None:
    axis = drawing.log_axis([0.02, 0.3], "nats")
    assert {"0.02", "0.1", "0.5"} <= {*axis["ticktext"]}
    assert [float(text) for text in axis["ticktext"]] == pytest.approx(axis["tickvals"])
    assert axis["range"][0] < np.log10(0.02) < np.log10(0.3) < axis["range"][1]


def test_without_plotly_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("plotly", "plotly.graph_objects"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"pip install 'rapgym\[report\]'"):
        figures.gain([score_of()])


def test_an_entry_without_numbers_is_left_out() -> None:
    bare = replace(score_of("bare"), gain=None, gain_low=None, gain_high=None)
    assert [len(trace.x) for trace in figures.gain([score_of(), bare]).data] == [1]
