"""Training runs: what they may open, that they repeat themselves, and go on after a kill."""

import csv
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")

from learning_worlds import METHODS, arrays_of, small_run

from rapgym.errors import HeldOut, InvalidPolicy
from rapgym.files import places
from rapgym.learning import checkpoint, runs, training
from rapgym.learning.sb3.vec_env import LeanVecEnv, RapVecEnv
from rapgym.learning.training import Training
from rapgym.policies import trained
from rapgym.policies.policy import briefing
from rapgym.policies.reference import FrontierLookup
from rapgym.rollout import rollout
from rapgym.scenarios import worlds
from rapgym.scenarios.story import Scenario


@dataclass(frozen=True)
class Patient:
    patience: int = 2


class Fixed:
    """An agent that keeps what its one array says, whatever it sees."""

    def __init__(self, kept: np.ndarray) -> None:
        self._kept = kept

    @classmethod
    def of(cls, policy: trained.TrainedPolicy) -> "Fixed":
        return cls(policy.arrays["kept"].astype(bool))

    def reset(self, batch: int, briefing: Any) -> None: ...

    def propose(self, observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.tile(self._kept, (len(observation), 1))


def kept(*dropped: int) -> dict[str, np.ndarray]:
    found = np.ones(6, dtype=np.int8)
    found[list(dropped)] = 0
    return {"kept": found}


@pytest.fixture
def task(toy_story: Scenario, tmp_path: Path) -> Iterator[Training]:
    made = Training("fixed", toy_story, "train", 0, Patient(), Fixed, tmp_path)
    yield made
    made.close()


def points(run: runs.Run) -> list[dict[str, str]]:
    """The curve without its clock."""
    with (run.folder / "curve.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_repeats_itself_and_goes_on_to_the_same_result(
    method: str, toy_story: Scenario, tmp_path: Path
) -> None:
    whole = small_run(method, toy_story, tmp_path / "whole")
    whole.do()
    expected = arrays_of(whole)

    broken = small_run(method, toy_story, tmp_path / "broken")

    def stop(share: float, note: str) -> None:
        if 0.5 < share < 0.9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken.do(stop, checkpoint_s=0.0)
    assert (broken.folder / "checkpoint.pt").is_file()
    assert not broken.path.exists()
    begun: list[float] = []
    broken.do(lambda share, note: begun.append(share))
    assert begun == [1.0] or min(begun) > 0.3, "the first rounds were not done again"
    found = arrays_of(broken)
    assert found.keys() == expected.keys()
    assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)
    assert points(broken) == points(whole)
    began = [trained.read(run.folder / runs.UNTRAINED_FILE).arrays for run in (whole, broken)]
    assert all(began[0][name].tobytes() == began[1][name].tobytes() for name in expected)
    assert not (broken.folder / "checkpoint.pt").exists(), "it has served"

    other = small_run(method, toy_story, tmp_path / "whole", seed=1)
    other.do()
    assert any((arrays_of(other)[name] != expected[name]).any() for name in expected)


def test_a_killed_process_goes_on_to_the_same_result(toy_story: Scenario, tmp_path: Path) -> None:
    whole = small_run("dqn", toy_story, tmp_path / "whole")
    whole.do()
    script = Path(__file__).parents[1].joinpath("learning_worlds.py")
    folder = Path(toy_story.workload).parent
    dead = subprocess.run(
        [sys.executable, str(script), "dqn", str(folder), str(tmp_path / "killed"), "0.6"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    killed = small_run("dqn", toy_story, tmp_path / "killed")
    assert (killed.folder / "checkpoint.pt").is_file()
    killed.do()
    expected, found = arrays_of(whole), arrays_of(killed)
    assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)
    assert points(killed) == points(whole)


@pytest.mark.parametrize("method", METHODS)
def test_training_opens_no_test_row_and_no_test_column(
    method: str, toy_story: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[str] = []
    monkeypatch.setattr(worlds, "_judged_world", lambda *_: judged.append("test columns"))
    run = small_run(method, toy_story, tmp_path, steps="200", rounds="1")
    run.do()
    found = run.finished()
    assert found is not None
    assert found.training["opened"] == ["check", "learn"]
    found.check_held_out()
    later = replace(run, told="fit-2")
    later.do()
    found = later.finished()
    assert found is not None
    assert found.training["opened"] == ["check-2", "learn-2"]
    found.check_held_out()
    assert not judged


@pytest.mark.parametrize("split", ["test", "validation-2", "train"])
def test_a_method_that_peeks_is_stopped(
    split: Any, toy_story: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = runs.module_of("ppo_counts")
    monkeypatch.setattr(module, "train", lambda task: worlds.world(task.story, split))
    with pytest.raises(HeldOut, match=split):
        small_run("ppo_counts", toy_story, tmp_path).do()
    monkeypatch.setattr(module, "train", lambda task: worlds.scoring_world(task.story))
    with pytest.raises(HeldOut, match="test columns"):
        small_run("ppo_counts", toy_story, tmp_path).do()
    assert not list(tmp_path.rglob("*.npz"))


def test_a_finished_run_is_not_run_again_unless_its_settings_change(
    toy_story: Scenario, tmp_path: Path
) -> None:
    run = small_run("ppo_counts", toy_story, tmp_path, steps="200", rounds="1")
    first, again = run.do(), run.do()
    assert (first.was_there, again.was_there) == (False, True)
    assert again.check_cost == first.check_cost
    changed = small_run("ppo_counts", toy_story, tmp_path, steps="400", rounds="1")
    assert not changed.do().was_there


def test_how_a_run_began_is_published_with_it(
    toy_story: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "TRAINED", tmp_path / "trained")
    run = small_run("ppo_counts", toy_story, tmp_path, steps="200", rounds="1")
    run.do()
    run.publish()
    began = trained.load(trained.place("ppo_counts", toy_story, "train", 0, untrained=True))
    log = rollout.run(
        lambda: runs.module_of("ppo_counts").Agent.of(began), toy_story, "check",
        briefing(toy_story, "learn"),
    )  # fmt: skip
    first, *_ = points(run)
    assert float(first["check_cost"]) == pytest.approx(log.mean_cost), "the curve's first point"
    began.check_held_out()
    (run.folder / runs.UNTRAINED_FILE).unlink()
    run.publish()


def test_what_is_written_is_what_was_judged(toy_story: Scenario, tmp_path: Path) -> None:
    run = small_run("maskable_ppo", toy_story, tmp_path)
    done, module = run.do(), runs.module_of("maskable_ppo")
    told = briefing(toy_story, "learn")
    agent = module.Agent(str(run.path))
    log = rollout.run(lambda: agent, toy_story, "check", told)
    assert done.check_cost == pytest.approx(log.mean_cost)
    costs = [float(point["check_cost"]) for point in points(run)]
    assert done.check_cost == pytest.approx(min(costs), rel=1e-6), "the best, not the last"
    found = run.finished()
    assert found is not None
    assert found.training["settings"]["width"] == 8
    assert found.training["steps"] == int(points(run)[-1]["steps"]) > 0
    assert found.training["packages"]["torch"]
    assert found.training["machine"]


def test_patience_ends_a_run_and_the_best_stays(task: Training) -> None:
    costs = [task.check(kept(*dropped)) for dropped in ((), (2,), (2, 3, 4, 5))]
    order = np.argsort(costs)[::-1]
    ways = [kept(*((), (2,), (2, 3, 4, 5))[i]) for i in order]
    assert not task.advance(0.1, ways[1])
    assert not task.advance(0.2, ways[2]), "a better one"
    assert not task.advance(0.3, ways[0])
    assert task.advance(0.4, ways[1]), "two without a better one"
    assert (task.best["kept"] == ways[2]["kept"]).all()
    assert task.check(task.best) == pytest.approx(min(costs))


def test_rounds_have_streams_of_their_own(task: Training) -> None:
    def draws() -> list[float]:
        return [float(np.random.rand()) for _ in task.rounds(3)]

    first = draws()
    task._round = -1
    assert draws() == first
    assert len(set(first)) == 3


def test_a_damaged_or_strange_checkpoint_is_no_checkpoint(
    toy_story: Scenario, tmp_path: Path
) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"half a file")
    task = Training("fixed", toy_story, "train", 0, Patient(), Fixed, tmp_path, checkpoint_s=0.0)
    assert task.saved is None
    for _ in task.rounds(1):
        task.advance(0.5, kept(2), state=lambda: {"weights": np.arange(3.0)})
    task.close()
    same = Training("fixed", toy_story, "train", 0, Patient(), Fixed, tmp_path)
    assert same.saved["weights"].tolist() == [0.0, 1.0, 2.0]
    assert list(same.rounds(2)) == [1]
    same.close()
    other = Training("fixed", toy_story, "train", 0, Patient(3), Fixed, tmp_path)
    assert other.saved is None, "of other settings"
    other.close()


def test_checkpoints_hold_what_they_were_given(tmp_path: Path) -> None:
    content = {"a": [np.arange(3), {"b": np.ones((2, 2), bool)}], "n": 3, "text": "x", "none": None}
    checkpoint.write(tmp_path / "c.pt", content)
    found = checkpoint.read(tmp_path / "c.pt")
    assert found is not None
    assert found["n"] == 3
    assert found["none"] is None
    assert found["a"][0].dtype == np.int64
    assert found["a"][1]["b"].all()


def test_a_check_costs_what_a_rollout_costs(
    toy_story: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = briefing(toy_story, "learn")
    expected = rollout.run(FrontierLookup, toy_story, "learn", told).mean_cost
    assert training.split_cost(FrontierLookup, toy_story, "learn", told) == pytest.approx(expected)
    # Stretches differ from that by what is in memory where they begin, and by no row.
    monkeypatch.setattr(training, "STRETCH_ROWS", 10)
    cut = training.split_cost(FrontierLookup, toy_story, "learn", told)
    assert cut == pytest.approx(expected, rel=0.1)
    assert cut != pytest.approx(expected)


@pytest.mark.parametrize("env_id", ["RAP-v0", "RAP-Counts-v0"])
def test_the_lean_adapter_gives_what_the_other_gives(env_id: str, toy_story: Scenario) -> None:
    lean, full = (
        kind.make(env_id, 3, scenario="toy", split="learn") for kind in (LeanVecEnv, RapVecEnv)
    )
    rng, ends = np.random.default_rng(0), 0
    for env in (lean, full):
        env.seed(5)
    assert np.array_equal(np.asarray(lean.reset()), np.asarray(full.reset()))
    for _ in range(300):
        if env_id == "RAP-v0":
            actions = np.where(rng.random(3) < 0.5, 6, rng.integers(7, size=3))
        else:
            actions = rng.integers(3, size=(3, 2))
        here, there = lean.step(actions), full.step(actions)
        for ours, theirs in zip(here[:3], there[:3], strict=True):
            assert np.array_equal(np.asarray(ours), np.asarray(theirs))
        for lane in np.flatnonzero(here[2]):
            ends += 1
            for name in ("terminal_observation", "TimeLimit.truncated"):
                assert np.array_equal(here[3][lane][name], there[3][lane][name])
    assert ends > 3


def test_settings_are_read_as_what_they_are() -> None:
    found = runs.settings_of("dqn", {"steps": "300", "learning_rate": "0.01"})
    assert (found.steps, found.learning_rate) == (300, 0.01)
    with pytest.raises(InvalidPolicy, match="no setting stepz"):
        runs.settings_of("dqn", {"stepz": "300"})
    with pytest.raises(InvalidPolicy, match="cannot be 'many'"):
        runs.settings_of("dqn", {"steps": "many"})
    with pytest.raises(InvalidPolicy, match=r"does not learn; there are .*dqn"):
        runs.settings_of("keep_all", {})
    assert set(METHODS) <= set(runs.methods())


def test_weights_of_a_policy_are_where_a_run_begins(toy_story: Scenario, tmp_path: Path) -> None:
    before = small_run("dqn", toy_story, tmp_path / "before")
    before.do()
    after = replace(before, out=tmp_path / "after", start=str(before.path))
    cost = after.do().check_cost
    first = float(points(after)[0]["check_cost"])
    assert first == pytest.approx(before.do().check_cost, rel=1e-6)
    assert cost <= first + 1e-6, "a curve has seven digits"
    found = after.finished()
    assert found is not None
    assert found.training["start"]["name"] == str(before.path)
    with pytest.raises(InvalidPolicy, match="no start for"):
        replace(small_run("ppo_counts", toy_story, tmp_path), start=str(before.path)).do()
