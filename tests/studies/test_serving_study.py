"""The study of the serving engine, on the toy world."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from serving_bench import few_settings

from rapgym.bench import origin
from rapgym.bench.serving import cells, score
from rapgym.policies.serve_rules import Fixed
from rapgym.policies.serving import serve_briefing
from rapgym.rollout import serve_search
from rapgym.rollout.serve_search import Search
from rapgym.rollout.serving import Served, play
from rapgym.scenarios import serving_worlds
from rapgym.scenarios.serving import ServeScenario
from rapgym.serving import batch
from rapgym.serving.engine import DROP
from rapgym.serving.world import Part
from rapgym.studies import serving

PART = Part(0, 0, 60)


def served(costs: list[float], tokens: list[float]) -> Served:
    """Parts that cost so much, with so many output tokens delivered."""
    record = np.zeros((len(costs), len(batch.COLUMNS)))
    record[:, batch.COST], record[:, batch.TOKENS] = costs, tokens
    return Served((PART,) * len(costs), record)


def test_an_interval_is_of_the_pooled_cost_and_of_pairs() -> None:
    one = served([1.0, 3.0, 2.0, 6.0, 1.0, 5.0, 2.0, 4.0], [10.0] * 8)
    other = replace(one, record=one.record.copy())
    other.record[:, batch.COST] += 1.0
    found = score.estimate(one)
    assert found.value == pytest.approx(24 / 80)
    assert found.low < found.value < found.high
    pairs = score.estimate(other, one)
    # Each part costs as much more: nothing is left to chance.
    assert (pairs.value, pairs.low, pairs.high) == pytest.approx((0.1, 0.1, 0.1))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One short search of one stretch, and three rules with few settings, patient ones beside them."""
    monkeypatch.setattr(serve_search, "SEARCHES", (Search(10, 5, 2, 2),))
    monkeypatch.setattr(cells, "SEARCH_PARTS", 1)
    monkeypatch.setattr(cells, "SEARCH_S", 60)
    rules = {name: cells.KINDS[name] for name in (*cells.PATIENT.values(), *cells.PATIENT)}
    monkeypatch.setattr(cells, "KINDS", rules)
    with few_settings():
        yield


@pytest.fixture
def played(short: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts that are played, by name."""
    names, part = list[str](), serving.part

    def noted(story: ServeScenario, name: str, *, searches: bool) -> serving.Entry:
        names.append(name)
        return part(story, name, searches=searches)

    monkeypatch.setattr(serving, "part", noted)
    return names


def plain(found: serving.Entry) -> serving.Entry:
    """Without the time that it took."""
    for entry in found["scenarios"]:
        for each in (*entry["rules"].values(), *entry["stretches"]["searches"].values()):
            del each["cpu_s"]
    return found


def test_a_study_that_was_stopped_goes_on(
    serving_story: ServeScenario, played: list[str], tmp_path: Path
) -> None:
    work = tmp_path / "toy.work.jsonl"
    whole = plain(serving.run([serving_story], work, quiet=True))
    names = [*cells.KINDS, "sees 10 s, holds 5 s, 2 x 2 counts"]
    assert played == names
    lines = [line for line in work.read_text().splitlines() if line]
    assert len(lines) == len(names)

    played.clear()
    work.write_text("\n".join([lines[-1], lines[0], lines[1][:100]]))
    again = plain(serving.run([serving_story], work, quiet=True))
    assert played == names[1:-1]
    assert json.dumps(again) == json.dumps(whole)


def test_what_other_code_or_settings_gave_is_played_again(
    serving_story: ServeScenario,
    played: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = tmp_path / "toy.work.jsonl"
    serving.run([serving_story], work, searches=False, quiet=True)
    rules = [*cells.KINDS]
    for story, searches in ((replace(serving_story, shed_s=2.5), False), (serving_story, True)):
        played.clear()
        serving.run([story], work, searches=searches, quiet=True)
        assert [name for name in played if name in rules] == rules
    played.clear()
    serving.run([serving_story], work, searches=False, quiet=True)
    assert not played
    monkeypatch.setattr(origin, "code_sha256", lambda: "0" * 64)
    serving.run([serving_story], work, searches=False, quiet=True)
    assert played == rules


def test_a_scenario_is_studied_as_its_parts_say(
    serving_story: ServeScenario, short: None, tmp_path: Path
) -> None:
    (entry,) = serving.run([serving_story], tmp_path / "work.jsonl", quiet=True)["scenarios"]
    world, told = serving_worlds.scoring_world(serving_story), serve_briefing(serving_story)
    engine = play(Fixed, world, world.pieces, told)
    rules = entry["rules"]
    assert rules["engine"]["cost"] == pytest.approx(engine.cost, abs=1e-6)
    assert rules["engine"]["shed"] == pytest.approx(
        engine.record[:, batch.SHED].sum() / engine.record[:, batch.ARRIVED].sum(), abs=1e-6
    )
    waits = [rules["engine"][f"ttft_p{share}_s"] for share in (50, 95, 99)]
    assert 0 < waits[0] < waits[1] < waits[2]
    against = entry["against_lookup"]["engine"]["value"]
    assert against == pytest.approx(rules["engine"]["cost"] - rules["lookup"]["cost"], abs=2e-6)
    patient = rules["keep-all-tuned"]
    waits_s = patient["settings"]["shed_s"]
    whole = replace(world, shed_s=waits_s)
    kept = play(lambda: Fixed(on_fall=DROP), whole, world.pieces, told)
    assert patient["cost"] == pytest.approx(kept.cost, abs=1e-6)
    assert entry["patient_against_lookup"]["keep-all-tuned"]["value"] == pytest.approx(
        patient["cost"] - rules["lookup-tuned"]["cost"], abs=2e-6
    )
    assert rules["lookup"]["cost"] < rules["engine"]["cost"], "pruning is worth it in the toy world"
    (search,) = entry["stretches"]["searches"].values()
    assert 0 <= search["undelivered"] <= 1
    assert entry["stretches"]["rules"].keys() == rules.keys()
