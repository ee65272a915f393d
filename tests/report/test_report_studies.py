"""Sections that rest on studies beside a bench: their numbers, and what is said where a study is missing or broken."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plain_records import score_of
from report_pages import LATENCY, LATENCY_CELLS, studies, write_studies

from rapgym.files import places
from rapgym.quality import harm
from rapgym.report import beside, calibration, study_figures, study_sections
from rapgym.report import sensitivity as sensitivity_report
from rapgym.scenarios import tables
from rapgym.scenarios.story import Scenario

pytest.importorskip("plotly", reason="plotly is not installed: pip install 'rapgym[report]'")
HOSTILE = "<img src=x onerror=alert(1)>"


def published(name: str) -> Any:
    return json.loads((places.RESULTS / name).read_text("utf-8"))


def test_harm_shows_each_kind_of_text_and_the_choice() -> None:
    sets = published("quality.json")["sets"]
    drawn = {trace.name: trace for trace in study_figures.harm(sets).data}
    for domain in ("books", "specs", "wiki"):
        assert [*drawn[domain].x] == [each["nll_by_domain"][domain] for each in sets]
    tail = drawn["one sequence in twenty loses more"]
    assert [*tail.x] == [each["nll_p95"] for each in sets]
    (choice,) = study_figures.choice([*sets, {"name": "not asked"}]).data
    assert [*choice.x] == pytest.approx([100 * each["accuracy_difference"] for each in sets])
    errors = [196 * each["accuracy_difference_se"] for each in sets]
    assert [*choice.error_x.array] == pytest.approx(errors), "of 95 %"
    worst = sets[5]
    assert ", the worst" in drawn[worst["worst_domain"]].hovertext[5]
    assert ", the worst" not in drawn["books"].hovertext[5]


def test_harm_is_judged_from_the_table_and_the_choice_is_of_the_same_table(
    toy_story: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "rapgym measure" in study_sections.harm_section(tmp_path, "toy").notes[0]
    monkeypatch.setattr(harm, "SAMPLE", "test")
    monkeypatch.setattr(harm, "COUNTS", ((0, 0), (1, 0), (1, 1), (9, 9)))
    table = tables.base_table(toy_story)
    judged = study_sections.text_of(table)
    assert [each["name"] for each in judged] == ["dense", "drop 1 attention, 0 FFN", "drop 1 attention, 1 FFN"]  # fmt: skip
    assert judged[1]["nll"] == pytest.approx(0.12), "attn1, and 0.02 more on test: toy_table"
    chose = {"accuracy": 0.7, "accuracy_se": 0.1, "accuracy_difference": -0.2, "accuracy_difference_se": 0.1}  # fmt: skip
    study = {
        "table": {"sha256": table.sha256},
        "choice": {"items": 12},
        "sets": [{"name": "dense"} | chose],
    }
    write_studies(tmp_path, {"quality.json": study})
    section = study_sections.harm_section(tmp_path, "toy")
    assert "12 questions" in section.paragraphs[0]
    assert [row[-1] for row in section.tables[0].rows] == ["-20.0 ± 19.6", "-", "-"]
    write_studies(tmp_path, {"quality.json": study | {"table": {"sha256": "another"}}})
    assert "questions" not in study_sections.harm_section(tmp_path, "toy").paragraphs[0]


def test_calibration_pays_after_what_the_scores_say() -> None:
    one = score_of("one", calibration_tokens=1e6, break_even_tokens=5e8)
    never = score_of("never", calibration_tokens=1e6, break_even_tokens=None)
    other = replace(one, scenario="other-v0", break_even_tokens=2e6)
    figure = calibration.figure([one, never, other], {"toy-v0": 9e7})
    points = [trace for trace in figure.data if trace.mode == "markers"]
    assert [[*trace.x] for trace in points] == [[5e8], [2e6]]
    (day,) = [trace for trace in figure.data if trace.mode == "lines"]
    assert [*day.x] == [9e7, 9e7]
    low, high = figure.layout.xaxis.range
    assert low < math.log10(9e7) < math.log10(5e8) < high
    assert figure.layout.meta["ranges"]["other-v0"][1] < 7
    section = calibration.section([one, never, other], {"toy-v0": 9e7})
    assert [row[4] for row in section.tables[-1].rows] == ["500M", "-", "2M"]
    assert [row[5] for row in section.tables[-1].rows] == ["90M", "90M", "-"]
    alone = calibration.section([never], {})
    assert not alone.pictures
    assert "save anything" in alone.notes[0]
    assert calibration.section([replace(never, calibration_tokens=None)], {}).notes


def test_sensitivity_is_the_difference_from_the_lookup() -> None:
    found = studies("toy-v0")["sensitivity.json"]
    margin, forecast = study_figures.sensitivity(found).data
    assert [*margin.x] == pytest.approx([-0.01, -0.01])
    assert [*forecast.x] == pytest.approx([0.05, 0.05])
    assert [*forecast.error_x.array] == pytest.approx([0.04, 0.04])
    assert [*forecast.error_x.arrayminus] == pytest.approx([0.03, 0.03])
    assert margin.hovertext[1].startswith("restore_s = 8<br>")


def test_a_card_is_shown_by_what_is_added_to_the_scenarios_own() -> None:
    entry = {"scenario": "chat-v0", "field": "card_gib", "value": 36}
    assert sensitivity_report.short_label(entry) == "card -4 GiB"
    assert sensitivity_report.short_label(entry | {"scenario": "mine-v0"}) == "card = 36 GiB"
    assert sensitivity_report.short_label(entry | {"field": "window_s", "value": 5}) == "W = 5 s"


def test_a_single_part_has_no_bar() -> None:
    found = studies("toy-v0")["serving.json"]
    for rule in found["scenarios"][0]["rules"].values():
        rule["low"] = rule["high"] = None
    (rules,) = study_figures.serving_costs(found).data
    assert [*rules.error_x.array] == [*rules.error_x.arrayminus] == [0, 0]


def test_machine_and_serving_show_their_studies() -> None:
    runs = published("fidelity.json")
    drawn = {trace.name: trace for trace in study_figures.fidelity(runs).data}
    for run in runs:
        errors = [100 * each["error"] for each in run["measures"].values()]
        assert [*drawn[run["run"]].x] == errors
    (rules,) = study_figures.serving_costs(studies("toy-v0")["serving.json"]).data
    assert [*rules.x] == [0.4, 0.2]
    assert [*rules.error_x.array] == pytest.approx([0.2, 0.05])


def test_serving_shows_percentiles_of_rules_that_have_them(tmp_path: Path) -> None:
    found = studies("toy-v0")
    write_studies(tmp_path, found)
    section = study_sections.serving_section(tmp_path)
    assert section
    _, latency = section.tables
    assert [*map(list, latency.rows)] == [["lookup", "toy", *LATENCY_CELLS]]
    rules = found["serving.json"]["scenarios"][0]["rules"]
    for name in LATENCY:
        rules["lookup"].pop(name)
    write_studies(tmp_path, found)
    section = study_sections.serving_section(tmp_path)
    assert section
    assert len(section.tables) == 1


SECTIONS = {
    "sensitivity.json": study_sections.sensitivity_section,
    "fidelity.json": study_sections.machine_section,
    "serving.json": study_sections.serving_section,
}


@pytest.mark.parametrize("name", SECTIONS)
def test_a_study_is_shown_where_it_lies_and_its_names_stay_text(name: str, tmp_path: Path) -> None:
    make = SECTIONS[name]
    assert make(tmp_path) is None
    assert f"`{name}` (`{beside.MADE_BY[name]}`)" in beside.left_out(tmp_path)[0]
    write_studies(tmp_path, studies(HOSTILE, HOSTILE))
    section = make(tmp_path)
    assert section
    assert not section.notes
    assert section.pictures[0].figure
    assert "<img" not in section.pictures[0].figure.to_json().replace("\\u003c", "<")
    assert not any(name in said for said in beside.left_out(tmp_path))


@pytest.mark.parametrize("name", SECTIONS)
@pytest.mark.parametrize(
    "content",
    ["", "{", "[" * 100_000, "7", "null", "[]", "[7]", "{}", '{"scenarios": 7, "entries": [{}]}', '{"entries": [], "scenarios": []}',
     '[{"run": "x", "measures": {"ttft_mean_s": {"error": "far"}}}]'],
)  # fmt: skip
def test_a_broken_study_is_a_plain_word(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    section = SECTIONS[name](tmp_path)
    assert section
    assert beside.MADE_BY[name] in section.notes[0]
    assert not section.pictures
