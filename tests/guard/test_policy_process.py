"""A policy in a process of its own: whatever it does, serving goes on, and by the stated rules."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rapgym.arrays import FloatArray
from rapgym.baselines.random_drop import RandomDrop
from rapgym.errors import InvalidPolicy, InvalidSpec
from rapgym.files import places
from rapgym.guard import landlock
from rapgym.guard.child import ANSWER, HEAD
from rapgym.guard.guard import refuses_misfit
from rapgym.guard.link import LateAnswer, PolicyGone, hidden_paths, readable_paths
from rapgym.guard.process import PolicyProcess
from rapgym.policies.policy import briefing
from rapgym.policies.reference import FrontierLookup
from rapgym.rollout import rollout
from rapgym.rollout.log import EpisodeLog
from rapgym.scenarios import catalogue
from rapgym.scenarios.lanes import Lanes, Start
from rapgym.scenarios.story import Scenario
from rapgym.world.shield import Reason

ROWS, PATIENT_MS, SHORT_MS = 12, 60_000.0, 300.0


@contextmanager
def process(
    name: str, options: dict[str, Any] | None = None, **settings: Any
) -> Iterator[PolicyProcess]:
    """A stray policy; rows wait for a restart, so that no result depends on how fast this machine is."""
    settings = {"deadline_ms": PATIENT_MS, "waits_for_restart": True} | settings
    with PolicyProcess(f"stray_policies:{name}", options, **settings) as policy:
        yield policy


def served(policy: Any, story: Scenario, lanes: int = 1, rows: int = ROWS) -> EpisodeLog:
    standing = Lanes(story, "test", lanes)
    return rollout.episode(policy, standing, Start(0, 0, 1.0, rows), briefing(story), [0, 0])


def observation(story: Scenario) -> FloatArray:
    return Lanes(story, "test", 1).observe()


def fallbacks(log: EpisodeLog) -> list[int]:
    assert set(np.unique(log.source)) <= {Reason.POLICY, Reason.FALLBACK}
    return np.flatnonzero(log.source[:, 0] == Reason.FALLBACK).tolist()


def test_elsewhere_a_policy_is_told_what_the_next_block_to_go_costs() -> None:
    """Of a table that came with rapgym, whose folder is hidden from it."""
    story = catalogue.scenario("chat")
    with process("AsksForImportance", {"row": 1}) as policy:
        policy.reset(1, briefing(story))
        kept = policy.propose(observation(story), np.random.default_rng(0))
    rises = briefing(story).quality.increments.of(np.zeros(kept.shape[1], dtype=bool))
    assert kept.tolist() == [(rises < np.median(rises)).tolist()]


def test_elsewhere_a_policy_decides_as_it_does_here(toy_story: Scenario) -> None:
    """Its random numbers too; and a second episode begins anew."""
    told = briefing(toy_story)
    here = rollout.run(RandomDrop, toy_story, "test", told)
    with PolicyProcess("rapgym.baselines.random_drop:RandomDrop", deadline_ms=PATIENT_MS) as policy:
        for _ in range(2):
            there = rollout.run(lambda: policy, toy_story, "test", told)
            assert (there.proposal == here.proposal).all()
            assert (there.source == Reason.POLICY).all()
            assert not policy.faults


@pytest.mark.parametrize(
    ("name", "how"), [("Exits", "with exit code 0"), ("Crashes", "by signal 11")]
)
def test_a_process_that_dies_costs_one_row_and_is_started_again(
    toy_story: Scenario, name: str, how: str
) -> None:
    with process(name, {"row": 4}) as policy:
        log = served(policy, toy_story)
        faults = policy.faults
    assert fallbacks(log) == [3, 7, 11], "it begins anew, and dies in its fourth row again"
    lookup = rollout.episode(
        FrontierLookup(),
        Lanes(toy_story, "test", 1),
        Start(0, 0, 1.0, ROWS),
        briefing(toy_story),
        [0],
    )
    assert (log.proposal[fallbacks(log)] == lookup.proposal[fallbacks(log)]).all()
    assert faults == [f"question {row}: has ended {how}" for row in (4, 8, 12)]


def test_after_the_last_restart_every_row_falls_back(toy_story: Scenario) -> None:
    with process("Exits", {"row": 2}, restarts=1) as policy:
        log = served(policy, toy_story)
        assert fallbacks(log) == [1, *range(3, ROWS)]
        again = served(policy, toy_story)
    assert fallbacks(again) == [1, *range(3, ROWS)], "an episode has its restarts of its own"


@pytest.mark.parametrize("name", ["Hangs", "HangsDeaf"])
def test_a_process_that_hangs_is_killed_after_the_stated_rows(
    toy_story: Scenario, name: str
) -> None:
    with process(name, {"row": 3}, deadline_ms=SHORT_MS, patience_rows=2, restarts=1) as policy:
        policy.reset(1, briefing(toy_story))
        rng, seen, said = np.random.default_rng(0), observation(toy_story), []
        for _ in range(7):
            try:
                policy.propose(seen, rng)
                said.append("answered")
            except LateAnswer:
                said.append("late")
            except PolicyGone:
                said.append("killed")
    # An answer may be late on a busy machine; but a process that hangs is late once, then killed.
    assert "late killed" in " ".join(said)
    assert said.count("killed") <= 2


def test_a_late_answer_is_dropped_and_the_next_question_is_answered(toy_story: Scenario) -> None:
    """The answer that comes too late is not taken for that of a later row."""
    with process("Naps", {"row": 2}, deadline_ms=SHORT_MS) as policy:
        policy.reset(1, briefing(toy_story))
        rng, seen = np.random.default_rng(0), observation(toy_story)
        policy._deadline_s = 60.0
        assert np.array(policy.propose(seen, rng)).all()
        policy._deadline_s = SHORT_MS / 1000
        with pytest.raises(LateAnswer):
            policy.propose(seen, rng)
        policy._deadline_s = 60.0
        assert np.array(policy.propose(seen, rng)).all(), "not the floor, the answer that was late"
        assert not policy.faults


def test_prints_go_nowhere(toy_story: Scenario, capfd: pytest.CaptureFixture[str]) -> None:
    with process("Prints") as policy:
        assert not fallbacks(served(policy, toy_story))
    assert capfd.readouterr() == ("", "")


def test_memory_is_bounded(toy_story: Scenario) -> None:
    with process("Gluttonous") as policy:
        log = served(policy, toy_story)
        assert not policy.faults, "out of memory is an answer that cannot be read, not an end"
    assert fallbacks(log) == [2]


def test_lanes_that_can_be_read_are_taken(toy_story: Scenario) -> None:
    with process("SomeLanes") as policy:
        log = served(policy, toy_story, lanes=3)
    assert log.source[2].tolist() == [Reason.POLICY, Reason.FALLBACK, Reason.FALLBACK]
    assert (np.delete(log.source, 2, axis=0) == Reason.POLICY).all()


FORGED = {
    "noise": b"\x00\x17" * 64,
    "an endless answer": HEAD.pack(ANSWER, 3, 2**32 - 1),
    "another size": HEAD.pack(ANSWER, 3, 3) + b"\x01\x01\x01",
    "bytes that are no booleans": HEAD.pack(ANSWER, 3, 7) + b"\x01" + b"\x02" * 6,
    "another row's answer": HEAD.pack(ANSWER, 2, 7) + b"\x01" * 7,
    "another kind": HEAD.pack(b"Y", 3, 7) + b"\x01" * 7,
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_what_is_no_answer_ends_the_process(toy_story: Scenario, forged: bytes) -> None:
    with process("Forges", {"forged": forged}, restarts=0) as policy:
        log = served(policy, toy_story, rows=5)
        assert policy.faults == ["question 3: sends what is no answer"]
    assert fallbacks(log) == [2, 3, 4]


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_what_a_process_started_ends_with_it(toy_story: Scenario) -> None:
    with process("LeavesChildren", hide=False) as policy:
        log = served(policy, toy_story, lanes=4, rows=3)
        pid = sum(int(bit) << i for i, bit in enumerate(log.proposal[2].ravel()))
        assert _running(pid)
    for _ in range(200):
        if not _running(pid):
            break
        time.sleep(0.05)
    assert not _running(pid)


def test_why_a_policy_cannot_begin_is_told(toy_story: Scenario) -> None:
    with pytest.raises(InvalidPolicy, match="needs an argument"), process("FailsToBuild"):
        pass
    with pytest.raises(InvalidPolicy, match="cannot be loaded"), process("Missing"):
        pass
    with process("FailsToReset") as policy:
        with pytest.raises(InvalidPolicy, match="no such weights") as told:
            policy.reset(1, briefing(toy_story))
        assert "\x1b" not in str(told.value), "a stranger's text moves no cursor"


def test_it_declares_what_the_policy_declares() -> None:
    with process("Strict") as policy:
        assert refuses_misfit(policy)
    with process("Dense") as policy:
        assert not refuses_misfit(policy)


@pytest.mark.parametrize("wrong", [{"deadline_ms": 0}, {"restarts": -1}, {"patience_rows": 0}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec, match="policy process"), process("Dense", **wrong):
        pass


# Hidden data.


@pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")
def test_rows_and_columns_are_out_of_reach(
    toy_story: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "raw.csv").write_text("rows ahead")
    monkeypatch.setenv("RAPGYM_DATA", str(mirror))
    rows = next(places.TRACES.glob("*.csv.gz"))
    column = next(path for path in places.TABLES.iterdir() if path.is_file())
    hidden = [str(rows), str(rows.resolve()), str(column), str(mirror / "raw.csv")]
    can = {"read": [*hidden, json.__file__], "write": [str(tmp_path / "told")]}
    for hide, wanted in ((True, "00001000"), (False, "11111101")):
        with process("Peeks", can, hide=hide) as policy:
            assert policy.hides_rows == hide
            log = served(policy, toy_story, lanes=2, rows=4)
        told = "".join(str(int(can)) for can in log.proposal[2].ravel()[: len(wanted)])
        assert told == wanted, "hidden files, a module; a file to write; the variable; the parent"


def test_nothing_hidden_lies_beneath_what_may_be_read() -> None:
    readable = [each.path for each in readable_paths() if each.content]
    assert {"tables", "traces"} <= {path.name for path in hidden_paths()}
    for hidden in hidden_paths():
        assert not any(
            hidden.is_relative_to(path) or path.is_relative_to(hidden) for path in readable
        )
    assert any(Path(os.__file__).resolve().is_relative_to(path) for path in readable)


def test_a_path_without_what_is_hidden_in_it(tmp_path: Path) -> None:
    for name in ("open/a", "mixed/hidden/b", "mixed/open/c", "mixed/.git/d"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "mixed" / "link").symlink_to(tmp_path / "mixed" / "hidden")
    found = list(landlock.without(tmp_path, {tmp_path.resolve() / "mixed" / "hidden"}))
    whole = {str(each.path.relative_to(tmp_path.resolve())) for each in found if each.content}
    names = {str(each.path.relative_to(tmp_path.resolve())) for each in found if not each.content}
    assert whole == {"open", "mixed/open"}
    assert names == {".", "mixed"}
