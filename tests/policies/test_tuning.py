"""Tuning: equal effort, on the briefing's own split, twice, resumable; and which settings are read."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from influence import told_of_influence

from rapgym import cli
from rapgym.arrays import FloatArray
from rapgym.baselines.frontier_margin import FrontierMargin
from rapgym.baselines.gsi import GreedyOrder
from rapgym.errors import InvalidPolicy
from rapgym.files import places
from rapgym.policies import basis, registry, tuning
from rapgym.policies.policy import Briefing, briefing
from rapgym.policies.registry import POLICIES, Entry
from rapgym.rollout import rollout
from rapgym.rollout import tuning as rollout_tuning
from rapgym.scenarios import catalogue, worlds
from rapgym.scenarios.story import Scenario
from rapgym.workload import series

TUNED = [entry for entry in POLICIES if entry.tune]
MARGIN = registry.entry("frontier-margin")


@pytest.fixture
def tuned_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of settings, empty and not the package's own."""
    path = tmp_path / places.TUNED.name

    def read() -> dict[str, Any]:
        return json.loads(path.read_text()) if path.is_file() else {}

    monkeypatch.setattr(places, "TUNED", path)
    monkeypatch.setattr(registry, "tuned", read)
    return path


@pytest.fixture(scope="module")
def margin_tuned(toy_story: Scenario, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the file holds once the margin was tuned."""
    path: Path = tmp_path_factory.mktemp("tuned") / places.TUNED.name
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "TUNED", path)
        assert len([*tuning.tune(tuning.tasks([MARGIN], [toy_story], again=True))]) == 1
    return path.read_text()


@pytest.mark.parametrize("entry", POLICIES, ids=lambda entry: entry.name)
def test_every_policy_of_the_list_can_be_loaded(entry: Entry) -> None:
    assert callable(registry._load(entry.target))
    assert (registry.tuning(entry) is None) == (not entry.tune)
    assert entry.designs, "nothing here does without the table"
    assert [one.name for one in POLICIES].count(entry.name) == 1


@pytest.mark.parametrize("entry", TUNED, ids=lambda entry: entry.name)
def test_every_method_has_the_same_budget(
    entry: Entry, toy_story: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, told = [], told_of_influence(briefing(toy_story, "fit-3"), [0.1, 0.5, 0.3])
    original = rollout_tuning.train_costs

    def counted(make: Callable[[], Any], briefing: Briefing, copies: int) -> FloatArray:
        assert briefing.split == "fit-3"
        tried.append(copies)
        return original(make, briefing, copies)

    monkeypatch.setattr(rollout_tuning, "train_costs", counted)
    find = registry.tuning(entry)
    assert find is not None
    found = find(told)
    assert sum(tried) <= tuning.TUNING_BUDGET
    registry.build(entry, json.loads(json.dumps(found))).reset(1, told)


def test_more_settings_than_the_budget_are_refused(toy_story: Scenario) -> None:
    margins = np.linspace(0, 0.3, tuning.TUNING_BUDGET + 1)
    with pytest.raises(InvalidPolicy, match="49 settings to try; a method may try 48"):
        rollout_tuning.best_settings(FrontierMargin, {"margin": margins}, briefing(toy_story))


def test_the_best_settings_cost_least_and_the_first_of_equals_wins(toy_story: Scenario) -> None:
    told = briefing(toy_story)
    margins = np.array([0.2, 0.1, 0.02, 0.02, 0.0])
    alone = [rollout_tuning.train_cost(partial(FrontierMargin, margin), told) for margin in margins]
    found = rollout_tuning.best_settings(FrontierMargin, {"margin": margins}, told)
    assert alone[int(np.argmin(alone))] == pytest.approx(
        alone[margins.tolist().index(found["margin"])]
    )
    equal = {"margin": np.array([0.1, 0.1]), "label": np.array([7, 8])}
    first = rollout_tuning.best_settings(lambda margin, label: FrontierMargin(margin), equal, told)
    assert first == {"margin": 0.1, "label": 7}


@pytest.mark.parametrize("split", ["fit-3", "train"])
def test_costs_are_of_the_briefings_own_split(split: Any, toy_story: Scenario) -> None:
    told = briefing(toy_story, split)
    assert len(told.rows) == len(worlds.world(toy_story, split).rows)
    log = rollout.run(GreedyOrder, toy_story, split, told)
    assert rollout_tuning.train_cost(GreedyOrder, told) == pytest.approx(log.mean_cost)


def test_what_is_told_before_validation_holds_no_row_of_it(toy_story: Scenario) -> None:
    fit, train = briefing(toy_story, "fit-3").rows, briefing(toy_story).rows
    validation = worlds.world(toy_story, "validation-3").rows
    assert len(fit) + len(validation) == len(train)
    assert (fit.limit_bytes == train.limit_bytes[: len(fit)]).all()
    assert fit.limit_bytes.base is None


def test_each_split_is_tuned_and_read_for_itself(toy_story: Scenario, tuned_file: Path) -> None:
    with pytest.raises(InvalidPolicy, match="was not tuned for toy-v0"):
        registry.settings(MARGIN, briefing(toy_story))
    (found,) = tuning.tune(tuning.tasks([MARGIN, registry.entry("gsi")], [toy_story]))
    find = registry.tuning(MARGIN)
    assert find is not None
    for split in tuning.TOLD:
        told = briefing(toy_story, split)
        assert find(told) == found.settings[split] == registry.settings(MARGIN, told)
    kept = json.loads(tuned_file.read_text())
    for name, word in (("table_sha256", "table"), ("world_sha256", "numbers of the world")):
        other = json.loads(tuned_file.read_text())
        other[MARGIN.name][toy_story.id][name] = "another"
        tuned_file.write_text(json.dumps(other))
        with pytest.raises(InvalidPolicy, match=f"was tuned with another {word}"):
            registry.settings(MARGIN, briefing(toy_story))
        tuned_file.write_text(json.dumps(kept))
    kept[MARGIN.name][toy_story.id] |= {"train": {"margin": 0.1}, "fit-3": {"margin": 0.2}}
    tuned_file.write_text(json.dumps(kept))
    assert registry.settings(MARGIN, briefing(toy_story)) == {"margin": 0.1}
    assert registry.settings(MARGIN, briefing(toy_story, "fit-3")) == {"margin": 0.2}


@pytest.mark.parametrize("stale", [*basis.NAMES, "fit-2"])
def test_what_is_tuned_is_left_until_its_basis_changes(
    stale: str, toy_story: Scenario, tuned_file: Path, margin_tuned: str
) -> None:
    assert len(tuning.tasks([MARGIN], [toy_story])) == 1
    tuned_file.write_text(margin_tuned)
    assert tuning.tasks([MARGIN], [toy_story]) == []
    assert len(tuning.tasks([MARGIN], [toy_story], again=True)) == 1
    kept = json.loads(tuned_file.read_text())
    del kept[MARGIN.name][toy_story.id][stale]
    tuned_file.write_text(json.dumps(kept))
    assert len(tuning.tasks([MARGIN], [toy_story])) == 1


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"card_gib": 0.5}, False),
        ({"reaction_s": 0.2}, False),
        ({"notice_s": 3}, False),
        ({"ceiling": 2.0}, False),
        ({"story": "told in other words", "claims": False}, True),
        ({"stand_in": True, "length_share": 0.5}, True),
    ],
)
def test_settings_hold_for_the_numbers_that_they_were_tuned_with(
    changes: dict[str, Any], same: bool, toy_story: Scenario, tuned_file: Path, margin_tuned: str
) -> None:
    tuned_file.write_text(margin_tuned)
    other = replace(toy_story, **changes)
    assert (basis.basis(other) == basis.basis(toy_story)) is same
    assert len(tuning.tasks([MARGIN], [other])) == (0 if same else 1)


def test_a_method_that_cannot_be_tuned_stops_no_other(
    toy_story: Scenario, tuned_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The toy table holds no block influence."""
    names = ["static-layers", "static-best", "frontier-margin"]
    ask = ["policies", "tune", *names, "--scenario", toy_story.name, "--jobs", "1", "--quiet"]
    assert cli.main(ask) == 2
    printed = capsys.readouterr()
    assert "holds no block influence" in printed.err
    assert [line.split()[0] for line in printed.out.splitlines()] == names[1:]
    kept = json.loads(tuned_file.read_text())
    assert [*kept] == sorted(names[1:])
    assert cli.main([*ask[:2], *names[1:], *ask[5:]]) == 0
    assert "nothing to tune" in capsys.readouterr().out


def test_two_processes_find_what_one_finds(tmp_path: Path, tuned_file: Path) -> None:
    """On the first rows of a real workload: processes start with nothing but the package."""
    story = catalogue.scenario("chat-beside-code")
    short = replace(story, name="short", workload=str(tmp_path / "short"), offsets=1)
    series.write(worlds.workload(story).part(np.arange(40)), tmp_path / "short.csv.gz")
    entries = [registry.entry("static-best"), MARGIN]
    list(tuning.tune(tuning.tasks(entries, [short]), jobs=2))
    together = tuned_file.read_bytes()
    tuned_file.unlink()
    list(tuning.tune(tuning.tasks(entries, [short]), jobs=1))
    assert tuned_file.read_bytes() == together
    assert {*json.loads(together)} == {"static-best", "frontier-margin"}


def test_the_progress_of_tuning_counts_what_each_method_takes(
    toy_story: Scenario, tuned_file: Path
) -> None:
    tuned = {entry.name for entry in POLICIES if entry.tune}
    assert {*tuning.EFFORT} == tuned, "measure what a new method takes"
    twice = replace(toy_story, name="twice", offsets=2 * toy_story.offsets)
    work = tuning.tasks(list(POLICIES), [toy_story, twice], again=True)
    efforts = tuning.efforts(work)
    assert len(efforts) == len(work) == 2 * len(tuned)
    for name in tuned:
        assert efforts[name, twice.id] == 2 * efforts[name, toy_story.id]
    one = efforts["frontier-margin", toy_story.id]
    assert efforts["forecast", toy_story.id] == 4 * one
