"""The map of a serving scenario: its costs are those of the study, its places change what they say."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_bench import few_settings

from rapgym import cli, heldout
from rapgym.errors import HeldOut, InvalidSpec
from rapgym.policies import serve_rules
from rapgym.report import worth
from rapgym.scenarios import serving, worlds
from rapgym.scenarios.serving import ServeScenario
from rapgym.studies import serving as study
from rapgym.worth import axes, served
from rapgym.worth import sweep as worth_sweep
from rapgym.worth.axes import Place
from rapgym.worth.point import Point


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RAPGYM_CACHE", str(tmp_path / "cache"))
    yield
    worlds.forget()


def test_costs_are_those_of_the_study(
    serving_story: ServeScenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tuned with the settings of the study, every rule costs what the study says."""
    with few_settings():
        monkeypatch.setattr(serve_rules, "coarse_settings", serve_rules.settings_of)
        found = served.played(serving_story)
        assert found.test is not None
        assert len(found.train.costs) == 6
        for way, cost in found.train.costs.items():
            entry = study.rule(serving_story, way.removeprefix("bf16-serve-"))["entry"]
            assert found.settings[way] == entry["settings"]
            assert cost == pytest.approx(entry["train_cost"], abs=1e-6)
            assert found.test.costs[way] == pytest.approx(entry["cost"], abs=1e-6)


@pytest.fixture(scope="module")
def found(serving_story: ServeScenario) -> Point:
    return served.played(serving_story)


def test_coarse_settings_are_some_of_those_of_the_study(serving_story: ServeScenario) -> None:
    from rapgym.policies.serving import serve_briefing

    told = serve_briefing(serving_story)
    for name in ("fixed", "lookup", "hysteresis", "hurry"):
        few, all_of = serve_rules.coarse_settings(name, told), serve_rules.settings_of(name, told)
        assert few.keys() == all_of.keys()
        count = len(next(iter(few.values())))
        assert 1 < count < len(next(iter(all_of.values()))) / 3


def test_pruning_is_worth_it_in_the_toy_world_and_said(found: Point) -> None:
    assert found.best.startswith("bf16-serve-")
    assert worth.label(found).lower() == "p16"
    engine, counts, pruning = worth.sentences(found)
    assert f"costs {found.test.costs['bf16-serve-engine']:.4f}" in engine  # type: ignore[union-attr]
    assert "FFN blocks dropped" in counts
    assert "Run-time pruning (bf16-serve-" in pruning
    assert found.pruning is not None
    assert (found.pieces, found.pruning.low, found.pruning.least) == (1, None, None)
    assert "undecided, for the data are too few (1 hour)" in pruning, (
        "one hour says nothing of others"
    )
    assert Point.from_json(json.loads(json.dumps(found.as_json()))) == found


def test_train_alone_opens_nothing_of_test(serving_story: ServeScenario, found: Point) -> None:
    with heldout.only("train"):
        alone = served.played(serving_story, held_out=False)
        with pytest.raises(HeldOut):
            served.played(serving_story)
    assert (alone.train, alone.test) == (found.train, None)


def test_a_place_changes_card_load_and_link(serving_story: ServeScenario) -> None:
    own = Place.own(serving_story)
    assert axes.at(serving_story, own) == serving_story
    base = serving_story.base
    other = axes.at(serving_story, Place(2 * base.card_gib, 0.5, 3.0, "bf16"))
    assert isinstance(other, ServeScenario)
    assert (other.base.card_gib, other.base.every, other.base.restore_s) == (
        2 * base.card_gib, 2 * base.every, 3.0,
    )  # fmt: skip
    assert axes.axis(serving_story, "load").values == (1 / 3, 1 / 2, 1.0)
    assert axes.axis(serving_story, "load", [0.333, 1]).values == (1 / 3, 1.0)
    with pytest.raises(InvalidSpec, match=r"its load can be 1, 0.5, 0.333, or less.*, not 2"):
        axes.axis(serving_story, "load", [2.0])


def test_another_format_keeps_the_link() -> None:
    """Of a shipped scenario: fewer bytes are back sooner over the same link."""
    story = serving.story_of("serve-chat-gqa")
    own = Place.own(story)
    assert own.format == "int8-int8-kv"
    assert axes.at(story, own) == story
    whole = axes.at(story, own.along("format", "bf16"))
    assert isinstance(whole, ServeScenario)
    assert whole.base.form.weights == "bf16"
    assert whole.base.table == "smollm2-135m"
    assert worlds.link_bytes_per_s(whole.base) == pytest.approx(worlds.link_bytes_per_s(story.base))


def test_a_map_over_card_and_restore_time(serving_story: ServeScenario, found: Point) -> None:
    own = serving_story.base
    x = axes.axis(serving_story, "card", [own.card_gib])
    y = axes.axis(serving_story, "restore", [own.restore_s, 1000 * own.restore_s])
    whole = worth_sweep.sweep(serving_story, x, y, quiet=True)
    assert whole.own == found
    slow = whole.at(own.card_gib, 1000 * own.restore_s).train.costs
    name = "bf16-serve-keep-all-drop"
    assert slow[name] != found.train.costs[name], "when blocks come back matters"
    again = worth_sweep.sweep(serving_story, x, y, quiet=True)
    assert again == whole
    assert max(map(len, worth.text(whole).splitlines())) <= worth.WIDTH


def test_the_command_refuses_traces_beside_a_serving_scenario(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["map", "serve-chat-gqa", "--card", "40"]) == 2
    assert "state what is other in a file" in capsys.readouterr().err
    assert cli.main(["map", "serve-absent"]) == 2
    assert "no serving scenario is called" in capsys.readouterr().err
