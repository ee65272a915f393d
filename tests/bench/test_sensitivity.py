"""Variants change one thing each; what is said of them can be measured again."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rapgym.bench import cells, score, sensitivity
from rapgym.bench.cells import BOUND, LOOKUP
from rapgym.bench.sensitivity import Variant, variants
from rapgym.errors import InvalidSpec
from rapgym.policies import registry
from rapgym.policies.policy import briefing
from rapgym.quality.table import QualityTable
from rapgym.report import sensitivity as sensitivity_report
from rapgym.rivals import rivals
from rapgym.rollout import rollout
from rapgym.scenarios import build as workloads
from rapgym.scenarios import catalogue, tables, worlds
from rapgym.scenarios.story import Scenario
from rapgym.workload import series

STATIC = "static-best"
FIELDS = ("restore_s", "told_domain", "domain", "splits")


@pytest.fixture(scope="module")
def story(toy_story: Scenario) -> Scenario:
    """The toy scenario in one pairing: a quarter of the rows to serve."""
    return replace(toy_story, offsets=1)


def priced(story: Scenario, ceiling: float) -> Variant:
    changed = {"ceiling": ceiling, "name": f"{story.name}:{ceiling}"}
    return Variant(story.id, "ceiling", ceiling, replace(story, **changed))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def found(story: Scenario, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run over the toy scenario's variants gives."""
    work = tmp_path_factory.mktemp("sensitivity") / "toy.work.jsonl"
    return sensitivity.run(variants(story, FIELDS), work, quiet=True)


@pytest.mark.parametrize("name", sensitivity.SCENARIOS)
def test_a_variant_changes_one_thing(shaped: QualityTable, name: str) -> None:
    stated = catalogue.scenario(name)
    first, *changed = variants(stated)
    assert first.story == stated
    assert len({variant.story.id for variant in changed}) == len(changed), "each has its own name"
    for variant in changed:
        differing = {
            field.name
            for field in fields(Scenario)
            if getattr(variant.story, field.name) != getattr(stated, field.name)
        }
        own_series = {"workload"} if variant.field == "window_s" else set()
        assert differing == {"name", variant.field} | own_series
        assert getattr(variant.story, variant.field) == variant.value


def test_every_number_of_the_design_is_varied(shaped: QualityTable) -> None:
    found = variants(catalogue.scenario("chat-beside-code"))
    tried = {
        field: [v.value for v in found if v.field == field] for field in {v.field for v in found}
    }
    assert tried["ceiling"][:3] == [1.0, 2.0, 3.9]
    assert tried["ceiling"][3] == pytest.approx(np.log(49152) - 3.2, abs=0.01), "a uniform guess"
    assert tried["window_s"] == [5, 10]
    assert tried["restore_s"] == [0.1, 2.0, 8.0], "0.5 is as stated"
    assert tried["notice_s"] == [1, 3]
    assert tried["card_gib"] == [40, 42, 46, 48]
    assert tried["draw"] == [0, 1, 2]
    assert tried["told_domain"] == tried["domain"] == ["books", "specs", "wiki"]
    assert tried["splits"] == ["blocked"]


def test_only_fields_that_are_varied_can_be_asked_for(story: Scenario) -> None:
    assert {v.field for v in variants(story, ["notice_s"])} == {"", "notice_s"}
    with pytest.raises(InvalidSpec, match="story is not varied; there are ceiling"):
        variants(story, ["story"])


def test_a_run_answers_for_every_variant(story: Scenario, found: dict[str, Any]) -> None:
    wanted = [(v.field, v.value) for v in variants(story, FIELDS)]
    assert [(entry["field"], entry["value"]) for entry in found["entries"]] == wanted
    names = {entry.name for entry in sensitivity.entries()}
    assert {STATIC, LOOKUP, "frontier-margin", "keep-all", "gsi"} <= names
    for entry in found["entries"]:
        assert entry["policies"].keys() == names | {BOUND}
        bound = entry["policies"][BOUND]["cost"]
        assert all(each["cost"] >= bound - 1e-9 for each in entry["policies"].values())
    assert found["tables"] == {"toy": tables.table(story).sha256}
    assert found["workloads"].keys() == {story.workload}
    assert len(found["code_sha256"]) == 64


def test_costs_and_scores_are_those_of_the_test_split(
    story: Scenario, found: dict[str, Any]
) -> None:
    policies = found["entries"][0]["policies"]
    told = briefing(story)
    log = rollout.run(lambda: registry.build(registry.entry(LOOKUP), {}), story, "test", told)
    judged = rollout.replay(worlds.scoring_world(story), log, refuses_misfit=False)
    assert policies[LOOKUP]["cost"] == pytest.approx(judged.mean_cost)
    bound = cells.bound_cell(story)
    least = score.mean_cost(bound.test_cost, bound.log.output_tokens)
    assert policies[BOUND]["cost"] == pytest.approx(least)
    whole = cells.rival_cell(story, rivals.rival("partial-admission"))
    admitted = score.mean_cost(whole.test_cost, whole.log.output_tokens)
    margin = policies["frontier-margin"]
    assert margin["gain"] == pytest.approx(
        100 * (admitted - margin["cost"]) / (admitted - least), abs=1e-5
    )
    assert margin["gain_low"] <= margin["gain"] <= margin["gain_high"]
    assert margin["foresight"] == pytest.approx(
        100 * (judged.mean_cost - margin["cost"]) / (judged.mean_cost - least), abs=1e-5
    )
    assert margin["low"] <= margin["cost"] - judged.mean_cost <= margin["high"]


def test_parameters_are_tuned_on_the_train_part_of_the_variant(
    story: Scenario, found: dict[str, Any]
) -> None:
    assert story.offsets <= sensitivity.TUNING_PAIRINGS
    pairs = [*zip(variants(story, FIELDS), found["entries"], strict=True)]
    for variant, entry in (pairs[i] for i in (1, 8, -1)):
        told = briefing(variant.story)
        for name in (STATIC, "frontier-margin"):
            tune = registry.tuning(registry.entry(name))
            assert tune is not None
            assert entry["policies"][name]["settings"] == tune(told)


def test_policies_are_tuned_at_the_c_of_the_variant(story: Scenario, found: dict[str, Any]) -> None:
    """At 0.05 nats a refusal costs less than any block, so that dense is the best static set."""
    cheap, dear = (sensitivity.measured(priced(story, c)) for c in (0.05, 4.0))
    assert cheap["ceiling"] == 0.05
    assert cheap["policies"][STATIC]["settings"]["kept"] == "fc", "dense"
    assert dear["policies"][STATIC]["settings"]["kept"] != "fc"
    for name, each in cheap["policies"].items():
        assert each["cost"] <= 0.05 + 1e-9, f"no token of {name} costs more than C"
    assert dear["policies"] == found["entries"][0]["policies"], "the toy table's own C is 4"


def test_what_the_settings_as_stated_cost_is_measured(
    story: Scenario, found: dict[str, Any]
) -> None:
    """A margin of nothing is the lookup."""
    stated = {
        name: each.get("settings") for name, each in found["entries"][0]["policies"].items()
    } | {"frontier-margin": {"margin": 0.0}}
    variant = next(v for v in variants(story, ["restore_s"]) if v.value == 8.0)
    policies = sensitivity.measured(variant, stated)["policies"]
    assert policies["frontier-margin"]["stated_settings_cost"] == policies[LOOKUP]["cost"]
    assert policies["frontier-margin"]["cost"] != policies[LOOKUP]["cost"]
    assert "stated_settings_cost" not in policies[LOOKUP], "it has no settings"


def test_a_run_carries_over_the_settings_of_its_scenario(found: dict[str, Any]) -> None:
    stated, *changed = found["entries"]
    assert "stated_settings_cost" not in stated["policies"]["frontier-margin"]
    own = stated["policies"]["frontier-margin"]["settings"]
    for entry in changed:
        margin = entry["policies"]["frontier-margin"]
        if margin["settings"] == own:
            assert margin["stated_settings_cost"] == margin["cost"]
    assert any(
        entry["policies"]["frontier-margin"]["stated_settings_cost"]
        != entry["policies"]["frontier-margin"]["cost"]
        for entry in changed
    )


def test_a_domain_alone_moves_what_is_told_or_what_is_scored(
    story: Scenario, found: dict[str, Any]
) -> None:
    """In books each dropped block costs 0.03 more, so that the same world is dearer there."""
    bounds = {
        (entry["field"], entry["value"]): entry["policies"][BOUND]["cost"]
        for entry in found["entries"]
    }
    assert all(bounds["told_domain", d] == bounds["", None] for d in ("books", "specs", "wiki"))
    assert bounds["domain", "books"] != bounds["", None]


def test_running_again_gives_the_same_numbers(
    story: Scenario, found: dict[str, Any], tmp_path: Path
) -> None:
    wanted = variants(story, ["splits"])
    again = sensitivity.run(wanted, tmp_path / "work.jsonl", quiet=True)
    before = {(entry["field"], entry["value"]): entry for entry in found["entries"]}
    assert len(again["entries"]) == 2
    for entry in again["entries"]:
        assert json.dumps(entry) == json.dumps(before[entry["field"], entry["value"]])


def test_a_run_that_was_killed_goes_on(story: Scenario, tmp_path: Path) -> None:
    work, wanted = tmp_path / "work.jsonl", variants(story, ["notice_s"])
    whole = sensitivity.run(wanted, work, quiet=True)
    lines = [line for line in work.read_text().splitlines() if line]
    assert len(lines) == len(wanted) == 3
    assert sensitivity.run(wanted, work, quiet=True)["entries"] == whole["entries"]
    assert len([*filter(None, work.read_text().splitlines())]) == 3, "nothing is measured twice"

    work.write_text("\n".join([*lines[:2], lines[2][:100]]))
    assert sensitivity.run(wanted, work, quiet=True)["entries"] == whole["entries"]
    kept = [*filter(None, work.read_text().splitlines())]
    assert len(kept) == 4, "two whole lines, one cut off, and that one measured again"


def test_what_other_code_or_data_gave_is_not_taken(
    story: Scenario, found: dict[str, Any], tmp_path: Path
) -> None:
    work, wanted = tmp_path / "work.jsonl", variants(story, [])
    sensitivity.run(wanted, work, quiet=True)
    (line,) = filter(None, work.read_text().splitlines())
    kept = json.loads(line)
    kept["entry"]["policies"][LOOKUP]["cost"] = 17.0
    work.write_text(json.dumps(kept))
    (taken,) = sensitivity.run(wanted, work, quiet=True)["entries"]
    assert taken["policies"][LOOKUP]["cost"] == 17.0, "of the same code and data it is taken"
    here = {
        "code_sha256": found["code_sha256"],
        "table_sha256": found["tables"]["toy"],
        "workload_sha256": found["workloads"][story.workload],
    }
    for what, sha256 in here.items():
        assert kept["basis"][what] == sha256
        other = {**kept, "basis": {**kept["basis"], what: "0" * 64}}
        work.write_text(json.dumps(other))
        assert sensitivity.run(wanted, work, quiet=True)["entries"] == found["entries"][:1], what


def test_a_draw_that_the_table_lacks_is_left_out_and_named(story: Scenario, tmp_path: Path) -> None:
    found = sensitivity.run(variants(story, ["draw"]), tmp_path / "work.jsonl", quiet=True)
    assert [entry["value"] for entry in found["entries"]] == [None, 0]
    assert [each["value"] for each in found["skipped"]] == [1, 2]
    assert "orders of draw 2 (toy holds orders of 1 draws" in sensitivity_report.table(found)


def test_the_tables_say_what_was_measured(found: dict[str, Any]) -> None:
    text, marked = sensitivity_report.table(found), sensitivity_report.markdown(found)
    for entry in found["entries"]:
        cost = entry["policies"]["frontier-margin"]["cost"]
        for shown in (text, marked):
            (line,) = (
                line for line in shown.splitlines()
                if line.lstrip("| ").startswith(f"{sensitivity_report.label(entry)} ")
            )  # fmt: skip
            assert f"{cost:.4f}" in line
            assert f"{entry['policies'][BOUND]['cost']:.4f}" in line
    heads = [line for line in marked.splitlines() if line.startswith("| changed")]
    assert len(heads) == 1
    assert len({line.count("|") for line in marked.splitlines() if line.startswith("|")}) == 1


def test_sentences_count_intervals() -> None:
    ends = [(-2.0, -1.0), (1.0, 2.0), (-1.0, 1.0), (-3.0, -0.5), (None, None)]
    lines = [
        {"scenario": "toy-v0", "policies": {"frontier-margin": {"low": low, "high": high}}}
        for low, high in ends
    ]
    (said,) = sensitivity_report.sentences({"entries": lines})
    assert "better than the lookup on 2 of 4 lines, worse on 1, and undecided on 1" in said


def test_without_single_requests_gain_is_not_known(
    story: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = worlds.workload(story)
    none = np.full(len(whole), series.NOT_KEPT, dtype=object)
    monkeypatch.setattr(worlds, "workload", lambda story: replace(whole, requests=none))
    policies = sensitivity.measured(variants(story, [])[0])["policies"]
    assert {each["gain"] for each in policies.values()} == {None}
    assert policies[LOOKUP]["cost"] > 0


def same_but_for_requests(one: series.Series, other: series.Series) -> bool:
    return all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name))
        for field in fields(series.Series)
        if field.name != "requests"
    )


def test_the_series_of_other_windows_are_committed() -> None:
    stories = sensitivity.window_stories()
    assert {story.window_s for story in stories} == {5, 10}
    assert len({story.workload for story in stories}) == 2 * len(sensitivity.SCENARIOS)
    for story in stories:
        found = worlds.workload(story)
        assert found.window_s == story.window_s
        stated = worlds.workload(catalogue.scenario(story.name.partition(":")[0]))
        assert found.reserve_tokens == stated.reserve_tokens, "the same requests are train"


@pytest.mark.usefixtures("raw_data")
@pytest.mark.parametrize("story", sensitivity.window_stories(), ids=lambda story: story.workload)
def test_they_equal_what_the_raw_files_give(story: Scenario) -> None:
    assert same_but_for_requests(workloads.build(story), worlds.workload(story))
