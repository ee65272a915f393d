"""`rapgym train`, as it is typed: runs, what is there already, publishing, own recordings, mistakes."""

import json
from pathlib import Path

import pytest

from rapgym import cli
from rapgym.bench import run as bench_run
from rapgym.files import places
from rapgym.policies import registry, trained
from rapgym.policies.registry import Entry
from rapgym.scenarios.story import Scenario

SMALL = ("--set", "steps=320", "--set", "rounds=2", "--set", "lanes=4", "--set", "rollout=40",
         "--set", "batch=40", "--set", "width=8", "--jobs", "1", "--quiet")  # fmt: skip


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test publishes."""
    monkeypatch.setattr(places, "TRAINED", tmp_path / "trained")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "trained"


def train(story: Scenario, *more: str) -> int:
    return cli.main(
        ["train", "ppo_counts", "--scenario", story.name, "--seeds", "2", *SMALL, *more]
    )


def test_what_is_trained_and_published_is_what_bench_runs(
    toy_story: Scenario, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(toy_story, "--publish", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(each["told"], each["seed"]) for each in listed] == [
        ("train", 0), ("train", 1), ("fit-1", 0), ("fit-2", 0), ("fit-3", 0)
    ]  # fmt: skip
    entry = registry.entry("ppo_counts")
    assert registry.trained_seeds(entry, toy_story) == [0, 1]
    names = [task.name for task in bench_run.tasks([toy_story], ["ppo_counts"], [0])]
    assert [name for name in names if name.startswith("ppo")] == [
        "ppo_counts.0", "ppo_counts.1", "ppo_counts-untrained.0", "ppo_counts-untrained.1"
    ]  # fmt: skip
    for seed in (0, 1):
        found = trained.load(trained.place("ppo_counts", toy_story, "train", seed))
        assert found.training["opened"] == ["check", "learn"]
        assert found.training["settings"]["steps"] == 320
        assert found.training["seconds"] > 0
    curve = (
        Path("runs", "ppo_counts", toy_story.id, "train-0", "curve.csv").read_text().splitlines()
    )
    assert curve[0].startswith("share,steps,seconds,check_cost")
    assert len(curve) == 1 + 1 + 2, "a header, before learning, and a line a round"


def test_a_finished_run_is_there_the_second_time(
    toy_story: Scenario, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(toy_story, "--told", "train") == 0
    first = [p.read_bytes() for p in sorted(Path("runs").rglob("policy.npz"))]
    capsys.readouterr()
    assert train(toy_story, "--told", "train") == 0
    assert capsys.readouterr().out.count("(was there)") == 2
    assert [p.read_bytes() for p in sorted(Path("runs").rglob("policy.npz"))] == first
    assert not published.exists(), "nothing is published unless asked for"


def test_fine_tuning_begins_with_the_weights_that_it_is_given(
    toy_story: Scenario, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(toy_story, "--told", "train", "--publish") == 0
    start = trained.place("ppo_counts", toy_story, "train", 0)
    still = (
        "--told",
        "train",
        "--set",
        "learning_rate=0",
        "--from",
        start,
        "--out",
        "tuned",
        "--json",
    )
    assert train(toy_story, *still) == 0
    place = Path("tuned", "ppo_counts", toy_story.id, "train-1", "policy.npz")
    tuned, begun = trained.read(place), trained.load(start)
    assert tuned.training["start"]["name"] == start
    for name, array in begun.arrays.items():
        assert (tuned.arrays[name] == array).all(), "a rate of 0 leaves the weights as they were"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("forecast",), "'forecast' does not learn; there are dqn"),
        (("dqn", "--set", "speed=3"), "dqn has no setting speed; there are steps"),
        (("dqn", "--set", "steps=many"), "steps of dqn cannot be 'many'"),
        (("dqn", "--set", "steps"), "--set steps is not NAME=VALUE"),
        (("dqn", "--scenario", "nowhere"), "nowhere"),
        (("dqn", "--card", "24"), "--card needs --trace"),
        (("dqn", "--from", "dqn/nowhere/train-0"), "no trained policy dqn/nowhere/train-0"),
        (("dqn", "--from", "../../etc/passwd"), "is no name of a trained policy"),
    ],
)
def test_mistakes_are_named(
    words: tuple[str, ...], message: str, toy_story: Scenario, published: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    scenarios = () if "--scenario" in words or "--card" in words else ("--scenario", toy_story.name)
    assert cli.main(["train", *words, *scenarios, "--seeds", "1", "--jobs", "1", "--quiet"]) == 2
    assert message in capsys.readouterr().err


def test_every_method_that_learns_can_be_trained_and_built() -> None:
    from rapgym.learning import runs

    learned: list[Entry] = [entry for entry in registry.POLICIES if entry.train]
    assert sorted(entry.name for entry in learned) == runs.methods()
    for entry in learned:
        module = runs.module_of(entry.name)
        assert module.Agent is registry._load(entry.target)
        assert module.train is registry._load(entry.train)
