"""What is published of days can be read, bears its scenario's name, and holds; pages say what it says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain_records import about_of, score_of

from rapgym.bench import entrants, results, verify
from rapgym.bench.results import Cell, Results
from rapgym.bench.verdicts import is_conditional
from rapgym.errors import InvalidResult
from rapgym.files import checked, places
from rapgym.report import questions
from rapgym.rollout.log import EpisodeLog
from rapgym.scenarios import catalogue, worlds
from rapgym.scenarios.story import Scenario
from rapgym.studies import days
from rapgym.studies.pages import days as page
from rapgym.world import simulator

PUBLISHED = days.files()
MOST_BYTES = 8_000_000
SAMPLED = 400  # rows of a cell

each_file = pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.name)
# The other two take a minute each to be read whole: `rapgym verify` and `make slow` do.
each_row = pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=() if "large" in path.name else pytest.mark.slow)
        for path in PUBLISHED
    ],
    ids=lambda path: path.name,
)


def story_of(path: Path) -> Scenario:
    return catalogue.scenario(path.name.removesuffix(".csv.xz"))


# What is published


@each_file
def test_a_published_file_says_what_it_is_of(path: Path) -> None:
    found, story = results.read_scores(path), story_of(path)
    assert path.stat().st_size <= MOST_BYTES
    assert [*found.header["scenarios"]] == [story.id]
    assert {entry.scenario for entry in found.scores} == {story.id}
    first = found.scores[0]
    assert (first.group, first.unit) == ("days", "hour")
    assert first.pieces in (4 * 24 - 1, 4 * 24), "windows may end before the last hour does"
    assert first.conditional, "four days hold for no other day"
    assert first.conditional == is_conditional(first.unit, first.pieces)
    assert {"frontier", "bound", "partial-admission", "best-plan"} <= {
        entry.policy for entry in found.scores
    }


def sampled_differences(cell: Cell, story: Scenario, rows: Any) -> list[str]:
    """Columns in which some rows of a cell differ when each is served again from what the one before left."""
    told, judged = worlds.world(story, "test"), worlds.scoring_world(story)
    log = cell.log
    before = np.concatenate([np.ones_like(log.kept_end[:1]), log.kept_end[:-1]])[rows, 0]
    state = told.state(log.row[rows, 0], log.limit_row[rows, 0], loaded=before)
    strict = np.full(len(rows), cell.about.refuses_misfit)
    differ = []
    for world, prefix in ((told, ""), (judged, "test_")):
        _, outcome = simulator.step(
            world, state, log.proposal[rows, 0], log.source[rows, 0], strict
        )
        whole = cell if prefix else log
        columns: dict[str, Any] = {
            "quality": outcome.seconds.loss / world.window_s,
            "nll": outcome.nll,
        }
        if not prefix:
            columns |= {"used_bytes": outcome.used_bytes, "output_tokens": outcome.output_tokens}
            for name in ("stall", "emergency", "refused"):
                lost = getattr(outcome.seconds, name) * world.ceiling / world.window_s
                columns[name] = lost
            if (log.kept_end[rows, 0] != outcome.kept_end).any():
                differ.append("kept_end")
        for name, again in columns.items():
            if np.abs(getattr(whole, prefix + name)[rows, 0] - again).max() > verify.TOLERANCE:
                differ.append(prefix + name)
    return differ


@each_file
def test_whoever_is_asked_for_was_run(path: Path) -> None:
    run = {entry.policy for entry in results.read_scores(path).scores}
    assert {*days.asked_for(story_of(path)), *entrants.ALWAYS} <= run


@each_row
def test_a_sample_of_its_rows_holds(path: Path) -> None:
    story = story_of(path)
    drawn = f"{story.workload}-{story.series_sha256[:12]}.series"
    if not (checked.cache_folder() / "workloads" / drawn).is_file():
        pytest.skip("its fourteen days were never drawn on this machine, which takes minutes")
    found, rng = results.read(path), np.random.default_rng(0)
    verify.check_origin(found, story.id)
    assert not [*verify._missing_cells(found)]
    for cell in found.cells:
        if cell.about.decides:
            rows = np.sort(rng.choice(len(cell.log), SAMPLED, replace=False))
            assert sampled_differences(cell, story, rows) == [], cell.about.policy
    told = next(cell for cell in found.cells if cell.about.policy == "frontier")
    altered = replace(told, log=replace(told.log, quality=told.log.quality + 1e-4))
    assert sampled_differences(altered, story, np.arange(9)) == ["quality"]


def test_the_study_is_of_these_files() -> None:
    known = page._studied(places.RESULTS)
    assert [entry["scenario"] for entry in known] == [story_of(path).id for path in PUBLISHED]
    for entry, path in zip(known, PUBLISHED, strict=True):
        costs = {each.policy: each for each in results.read_scores(path).scores}
        assert {*entry["days"]} == {*costs} - {"bound"}
        for policy, parts in entry["days"].items():
            if costs[policy].seeds == 1:
                assert min(parts) <= costs[policy].cost <= max(parts)


# How it is made


def test_a_results_file_gives_its_scores_without_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "some.csv.gz"
    header: dict[str, Any] = {"scenarios": {}, "tables": {}, "workloads": {}}
    results.write(path, Results(header, (), (score_of(),)))
    found = results.read_scores(path)
    assert found.scores == (score_of(),)
    assert found.cells == ()
    path.write_bytes(b"something else")
    with pytest.raises(InvalidResult, match="no results file that can be read"):
        results.read_scores(path)


def test_each_day_has_its_cost_and_the_last_one_what_is_left_over() -> None:
    """Rows of six hours make two days. A day's cost is weighted by its output."""
    rows = np.arange(8)[:, None]
    log = EpisodeLog.blank(rows, rows, 6)
    cost = np.array([[4.0, 4.0, 4.0, 0.0, 1.0, 1.0, 1.0, 1.0]]).T
    log = replace(log, output_tokens=np.array([[1, 1, 1, 5, 2, 2, 2, 2]]).T)
    made = Cell(about_of(), log, cost, cost == cost, cost)
    assert days.by_day(made, 6 * 3600) == [1.5, 1.0]
    assert days.by_day(made, 4 * 3600) == [1.25], "32 hours are a day and less than half of one"
    assert days.by_day(made, 5 * 3600) == [1.4, 1.0], "40 hours are two, the second not whole"


def test_questions_are_asked_of_days_where_no_headline_is() -> None:
    hour, day, own = (
        score_of(scenario=f"{group}-v0", group=group) for group in ("8-bit", "days", "own")
    )
    assert questions.asked_of([own, day]) == [[day]]
    assert questions.asked_of([own, day, hour]) == [[hour]]
    assert questions.asked_of([own]) == []


# What pages say


def entries() -> list[Any]:
    plain: dict[str, Any] = {
        "scenario": "days-large-v0",
        "group": "days",
        "unit": "hour",
        "pieces": 96,
    }
    costs = {
        "partial-admission": ("rival", 0.0961),
        "static-best-repaired": ("static", 0.0391),
        "frontier": ("reactive", 0.0387),
        "forecast": ("heuristic", 0.0381),
        "hindsight": ("learned", 0.0379),
        "bound": ("bound", 0.033),
        "int8": ("rival", 2.8),
    }
    more: dict[str, dict[str, Any]] = {
        "forecast": {
            "champion": ("heuristic", "all"),
            "verdict": "better",
            "champion_low": -0.0012,
            "champion_high": -0.0002,
        },
        "hindsight": {"champion": ("learned",)},
        "frontier": {"behind_bound": 0.0057},
    }
    return [
        score_of(name, kind=kind, cost=cost, **plain, **more.get(name, {}))
        for name, (kind, cost) in costs.items()
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    header: dict[str, Any] = {"scenarios": {}, "tables": {}, "workloads": {}}
    results.write(tmp_path / "days-large.csv.xz", Results(header, (), tuple(entries())))
    (tmp_path / "days.json").write_text(
        '{"scenarios": [{"scenario": "days-large-v0", "untrained": ["dqn"], "left_out": [], "days": {"frontier": [0.05, 0.03], '
        '"forecast": [0.04, 0.035]}, "questions": [{"asked": "Does it?", "hypothesis": "It does", '
        '"verdict": "confirmed", "number": "-1"}, {"asked": "And that?", "hypothesis": "", "verdict": null, '
        '"number": ""}]}]}'
    )
    return tmp_path


def test_pages_say_what_the_files_say(folder: Path) -> None:
    text = page.section(folder)
    row = next(line for line in text.splitlines() if line.startswith("| `days-large`"))
    assert [cell.strip(" |") for cell in row.split(" | ")] == [
        "`days-large`", "0.0961", "0.0391", "0.0387", "`forecast` 0.0381", "`hindsight` 0.0379", "0.0330",
        "`int8` 2.8000", "-", "96 hours: conditional on these rows",
    ]  # fmt: skip
    assert "Never trained for `days-large`, and so not run: `dqn`." in text
    assert "| `forecast` | -0.0100 | +0.0050 |" in text
    assert "what looking ahead could add is 0.0057 nats" in text
    asked = page.answers(folder)
    assert "| Does it? | `days-large` | confirmed | -1 |" in asked
    assert "| And that? | `days-large` | not asked |  |" in asked
    said = page.sentence(folder)
    assert "the lookup costs 0.0387 nats, not pruning 0.0961" in said
    assert "The champion beats it on 1 (-0.0006 [-0.0012, -0.0002]). Intervals are by hours" in said


def test_a_network_that_learned_nothing_is_called_so() -> None:
    began = score_of("hindsight-untrained", scenario="days-large-v0", seed_costs=(0.2, 0.3))
    for costs, said in (((0.2, 0.3), True), ((0.2, 0.29), False)):
        learned = replace(began, policy="hindsight", seed_costs=costs)
        assert bool(page._learned_nothing([learned, began])) == said


def test_without_files_pages_say_how_to_make_them(tmp_path: Path) -> None:
    assert page.section(tmp_path) == page.MISSING
    assert page.answers(tmp_path) == page.sentence(tmp_path) == ""
