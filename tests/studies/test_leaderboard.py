"""The leaderboard: its page is what its entries give, and what does not hold is not shown."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from rapgym.bench import results
from rapgym.bench.results import Results
from rapgym.errors import RapgymError
from rapgym.policies import registry
from rapgym.scenarios import catalogue
from rapgym.studies.pages import leaderboard
from rapgym.submissions import submission
from rapgym.submissions.submission import Submission


@pytest.fixture(scope="module")
def published() -> Results:
    return results.read(leaderboard.RESULTS)


@pytest.fixture(scope="module")
def sent() -> list[Submission]:
    return [each for _, each in leaderboard.entries()]


def test_the_page_is_what_entries_and_published_results_give(
    published: Results, sent: list[Submission]
) -> None:
    assert leaderboard.PAGE.read_text() == leaderboard.page(sent, published), "make leaderboard"


def test_the_rows_of_every_entry_replay() -> None:
    """That its policy decides the same again, `make leaderboard` asks of one."""
    found = leaderboard.entries()
    assert found
    assert leaderboard.faults(found, again="") == []


def test_the_one_that_decides_again_is_the_shortest() -> None:
    found = leaderboard.entries()
    assert leaderboard.fully(found) in {each.name for _, each in found}
    assert leaderboard.fully([]) == ""


def test_every_scenario_and_method_that_was_published_is_shown(published: Results) -> None:
    page = leaderboard.page([], published)
    for story in catalogue.by_default():
        assert f"`{story.name}`" in page
    for entry in registry.POLICIES:
        scored = any(score.policy == entry.name for score in published.scores)
        assert scored == (f"\n| {entry.name} |" in page)


def lines(page: str, name: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith(f"| [**{name}**]")]


def test_who_ran_on_all_scenarios_stands_by_cost_and_others_below(
    published: Results, sent: list[Submission]
) -> None:
    (one,) = (each for each in sent if each.name == "fixed-margin")
    last = leaderboard.page([one], published).partition("\n## 16-bit")[0].rstrip().splitlines()[-1]
    assert last.startswith("| [**fixed-margin**]")
    stands = tuple(
        dataclasses.replace(one.header.scores[0], scenario=story.id, cost=0.0)
        for story in catalogue.by_default()
        if story.group == "8-bit"
    )
    best = dataclasses.replace(one, header=dataclasses.replace(one.header, scores=stands))
    page = leaderboard.page([best], published)
    first = page.partition("## 8-bit")[2].strip().splitlines()[2]
    assert first.startswith("| [**fixed-margin**]")
    assert first.count("0.0000 undecided") == len(stands)


def test_rows_that_the_reference_served_are_marked(
    published: Results, sent: list[Submission]
) -> None:
    one = sent[0]
    assert not any("!" in line for line in lines(leaderboard.page([one], published), one.name))
    cells = tuple(
        dataclasses.replace(cell, about=dataclasses.replace(cell.about, fallback=0.5))
        for cell in one.rows.cells
    )
    faltered = dataclasses.replace(one, rows=dataclasses.replace(one.rows, cells=cells))
    for line in lines(leaderboard.page([faltered], published), one.name):
        assert " ! |" in line


def test_an_entry_that_does_not_hold_is_not_shown(
    published: Results,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(results, "read", lambda path: published)
    forged = tmp_path / "entries" / "fixed-margin"
    shutil.copytree(leaderboard.ENTRIES / "fixed-margin", forged)
    header = json.loads((forged / "submission.json").read_text())
    header["scores"][0]["cost"] /= 2
    (forged / "submission.json").write_text(json.dumps(header))
    monkeypatch.setattr(leaderboard, "ENTRIES", forged.parent)
    monkeypatch.setattr(leaderboard, "PAGE", tmp_path / "README.md")
    assert leaderboard.main() == 1
    assert "fixed-margin: score cost of fixed-margin" in capsys.readouterr().err
    assert not leaderboard.PAGE.exists()


def test_an_entry_lies_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(leaderboard.ENTRIES / "fixed-margin", tmp_path / "frontier-plus")
    monkeypatch.setattr(leaderboard, "ENTRIES", tmp_path)
    with pytest.raises(RapgymError, match="rename it"):
        leaderboard.entries()


def test_what_a_header_of_rows_says_is_text_on_the_page(
    published: Results, sent: list[Submission]
) -> None:
    one = sent[0]
    rows = dataclasses.replace(one.rows, header={**one.rows.header, "date": "[x](http://y)|"})
    page = leaderboard.page([dataclasses.replace(one, rows=rows)], published)
    assert "http://y" not in page
    assert "| ? |" in page


def test_the_example_says_that_it_is_one() -> None:
    one = submission.read(leaderboard.ENTRIES / "fixed-margin")
    assert "example" in one.header.stated.note
