"""Ways to win dishonestly, or to spoil what others won: what comes of each."""

import dataclasses
import json
import os
import random
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import cheats
import numpy as np
import pytest
from toy_world import tuned

from rapgym import cli
from rapgym.bench import alone, cells, entrants, results, scoreboard, suitability, verify
from rapgym.bench import run as bench_run
from rapgym.bench.results import Cell
from rapgym.errors import InvalidPolicy, InvalidResult
from rapgym.files import places
from rapgym.guard import foreign, landlock
from rapgym.guard.foreign import Foreign, Terms
from rapgym.guard.guard import Guarding
from rapgym.policies import registry
from rapgym.policies.policy import briefing
from rapgym.policies.reference import FrontierLookup
from rapgym.rollout import rollout
from rapgym.rollout.log import EpisodeLog
from rapgym.scenarios.lanes import Lanes, Start
from rapgym.scenarios.story import Scenario
from rapgym.world import reward, shield, simulator
from rapgym.world.shield import Reason

confined = pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")


def served(
    policy: Any, story: Scenario, rows: int = 12, guarding: Guarding | None = None
) -> EpisodeLog:
    start = Start(0, 0, 1.0, rows)
    return rollout.episode(
        policy, Lanes(story, "test", 1), start, briefing(story), [0, 0], guarding
    )


def won_in(log: EpisodeLog) -> dict[str, bool]:
    """Which attempts succeeded, as `cheats.Tries` tells it."""
    return {name: not row.any() for name, row in zip(cheats.ATTEMPTS, log.proposal, strict=True)}


# Looking ahead.


@pytest.fixture(scope="module")
def attempts(
    toy_story: Scenario, tmp_path_factory: pytest.TempPathFactory
) -> dict[bool, dict[str, bool]]:
    """Whether each attempt succeeds: where rows are hidden (True), and where they are not."""
    folder = tmp_path_factory.mktemp("cheats")
    found: dict[bool, dict[str, bool]] = {}
    with socket.create_server(("127.0.0.1", 0)) as listening, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAPGYM_DATA", str(folder / "mirror"))
        for hide in (True, False):
            parts, beside = folder / "out.csv.gz.parts", folder / "memory.csv"
            parts.mkdir(exist_ok=True)
            (folder / "out.csv.gz").write_bytes(b"rows ahead")
            beside.write_bytes(b"rows ahead")
            told = {
                "series": str(next(places.TRACES.glob("*.csv.gz")).resolve()),
                "table": str(next(each for each in places.TABLES.iterdir() if each.is_file())),
                "results": str(folder / "out.csv.gz"),
                "beside": str(beside),
                "parts": str(parts),
                "free": str(folder),
                "port": listening.getsockname()[1],
            }
            terms = Terms(folders=(str(folder),), hidden=(told["results"], told["parts"]))
            with foreign.process("cheats:Tries", told, terms, hide=hide) as policy:
                assert policy.hides_rows == (hide and bool(landlock.version()))
                log = served(policy, toy_story, len(cheats.ATTEMPTS))
                assert not policy.faults
            found[hide] = won_in(log)
    return found


@confined
@pytest.mark.parametrize("attempt", cheats.ATTEMPTS)
def test_what_a_policy_must_not_reach_is_out_of_reach(
    attempt: str, attempts: dict[bool, dict[str, bool]]
) -> None:
    assert not attempts[True][attempt]
    if attempt not in cheats.ELSEWHERE:
        assert attempts[False][attempt], "where nothing is hidden, the attempt succeeds"


@confined
def test_weights_are_read_where_that_is_allowed_and_what_is_hidden_is_not(
    toy_story: Scenario, tmp_path: Path
) -> None:
    (tmp_path / "weights.npz").write_bytes(b"weights!!")
    (tmp_path / "out.csv.gz").write_bytes(b"rows ahead")
    terms = Terms(reads=(str(tmp_path),), hidden=(str(tmp_path / "out.csv.gz"),))
    told = {"series": str(tmp_path / "weights.npz"), "results": str(tmp_path / "out.csv.gz")}
    with foreign.process("cheats:Tries", told, terms) as policy:
        log = served(policy, toy_story, len(cheats.ATTEMPTS))
    won = won_in(log)
    assert won["series_file"]
    assert not won["results_file"]


# Changing what others are measured by.


def test_what_a_policy_changes_is_its_own(
    toy_story: Scenario, capfd: pytest.CaptureFixture[str]
) -> None:
    here = (
        FrontierLookup.propose, reward.token_loss, simulator.step, shield.decide, cells.scored,
        os.getcwd(), os.environ.get("RAPGYM_DATA"), sys.modules["rapgym.world"],
        signal.getsignal(signal.SIGTERM), random.getstate(),
    )  # fmt: skip
    told = briefing(toy_story)
    limits, nats = told.rows.limit_bytes.copy(), told.quality.grid_nll.copy()
    honest = served(registry.build(registry.entry("keep-all"), {}), toy_story)
    with foreign.process("cheats:Vandal", {}, Terms()) as policy:
        log = served(policy, toy_story)
        assert not policy.faults
    assert here == (
        FrontierLookup.propose, reward.token_loss, simulator.step, shield.decide, cells.scored,
        os.getcwd(), os.environ.get("RAPGYM_DATA"), sys.modules["rapgym.world"],
        signal.getsignal(signal.SIGTERM), random.getstate(),
    )  # fmt: skip
    assert np.array_equal(briefing(toy_story).rows.limit_bytes, limits)
    assert np.array_equal(told.quality.grid_nll, nats)
    assert np.array_equal(log.cost, honest.cost), "it is charged as an honest one is"
    assert capfd.readouterr() == ("", "")


def test_what_is_no_proposal_is_the_references(
    toy_story: Scenario, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = len(cheats.NO_ANSWERS) + 1
    with foreign.process("cheats:Answers", {}, Terms()) as policy:
        log = served(policy, toy_story, rows)
        assert not policy.faults
    lookup = served(FrontierLookup(), toy_story, rows)
    for row, name in enumerate(cheats.NO_ANSWERS):
        assert log.source[row, 0] == Reason.FALLBACK, name
        assert (log.proposal[row] == lookup.proposal[row]).all(), name
    assert log.source[-1, 0] == Reason.POLICY
    assert capfd.readouterr() == ("", "")


def test_a_late_answer_is_the_references(toy_story: Scenario) -> None:
    terms = Terms(deadline_ms=500.0)
    with foreign.process("stray_policies:Naps", {"row": 3}, terms) as policy:
        log = served(policy, toy_story, 5, terms.guarding)
        assert not policy.faults, "in simulated time the next row waits for it"
    assert log.source[2, 0] == Reason.FALLBACK
    assert log.source[4, 0] == Reason.POLICY


# Faults. Where, and what a module holds that fails there.
BEGINS = "import os, sys, threading, time\nimport numpy as np\n"
POLICY = (
    "class Mine:\n"
    "    def __init__(self):\n        {init}\n"
    "    def reset(self, batch, briefing):\n        self.n = briefing.layout.blocks\n        {reset}\n"
    "    def propose(self, observation, rng):\n        {propose}\n"
    "        return np.ones((len(observation), self.n), dtype=bool)\n"
)
FAULTS = {
    "exit": ("sys.exit(0)", "SystemExit"),
    "end": ("os._exit(0)", "exit code 0"),
    "interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
}


def module(folder: Path, name: str, **faults: str) -> str:
    filled = {"init": "pass", "reset": "pass", "propose": "pass"} | faults
    text = BEGINS + filled.pop("load", "") + "\n" + POLICY.format(**filled)
    (folder / f"{name}.py").write_text(text)
    return f"{name}:Mine"


@pytest.mark.parametrize("stage", ["load", "init", "reset"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_policy_that_ends_before_it_begins_is_named(
    stage: str, fault: str, toy_story: Scenario, tmp_path: Path
) -> None:
    target = module(tmp_path, f"{stage}_{fault}", **{stage: FAULTS[fault][0]})
    entry, terms = registry.entry(target), Terms(folders=(str(tmp_path),))
    with pytest.raises(InvalidPolicy) as told, Foreign(entry, {}, terms) as make:
        served(make(), toy_story)
    assert target in str(told.value)
    assert FAULTS[fault][1] in str(told.value)


def test_a_policy_whose_process_ends_in_a_row_is_named(toy_story: Scenario, tmp_path: Path) -> None:
    target = module(tmp_path, "ends", propose="os._exit(0)")
    entry, terms = registry.entry(target), Terms(folders=(str(tmp_path),))
    with (
        pytest.raises(InvalidPolicy, match=f"{target} broke off at question 1: .* exit code 0"),
        Foreign(entry, {}, terms) as make,
    ):
        served(make(), toy_story)


@pytest.mark.parametrize("fault", ["exit", "interrupt"])
def test_what_a_policy_raises_in_a_row_is_told(
    fault: str, toy_story: Scenario, tmp_path: Path
) -> None:
    target = module(tmp_path, f"row_{fault}", propose=FAULTS[fault][0])
    with Foreign(registry.entry(target), {}, Terms(folders=(str(tmp_path),))) as make:
        log = served(make(), toy_story, 3)
        told = rollout.first_fault(make, toy_story, briefing(toy_story))
    assert (log.source == Reason.FALLBACK).all()
    assert FAULTS[fault][1] in str(told)


@confined
def test_a_folder_with_a_module_like_one_of_pythons_runs_nothing_before_it_is_confined(
    toy_story: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python looks into the folder where it is started, unless told otherwise."""
    left = tmp_path / "left"
    for name in ("resource", "pickle", "numpy", "socket"):
        (tmp_path / f"{name}.py").write_text(f"open({str(left)!r}, 'w')\nraise SystemExit(0)\n")
    (tmp_path / "mine.py").write_text(
        "class Mine:\n"
        "    def reset(self, batch, briefing): self.n = briefing.layout.blocks\n"
        "    def propose(self, observation, rng): return [[1] * self.n] * len(observation)\n"
    )
    monkeypatch.chdir(tmp_path)
    terms = Terms(folders=(str(tmp_path),))
    with foreign.process("mine:Mine", {}, terms) as policy:
        assert (served(policy, toy_story).source == Reason.POLICY).all()
    assert not left.exists()


# A whole bench.


@pytest.fixture
def _settings(one_pairing: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that the toy scenario's static set needs, and no check of how hard it is."""
    found = {one_pairing.id: tuned(one_pairing, {"kept": "fc"})}
    monkeypatch.setattr(registry, "tuned", lambda: {"static-best-repaired": found})


@pytest.mark.usefixtures("_settings")
def test_a_policy_that_breaks_off_costs_the_others_nothing(
    one_pairing: Scenario,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    good = module(tmp_path, "good", propose="print('[]'); os.write(1, b'[]')")
    bad = module(tmp_path, "bad", propose="os._exit(0)")
    monkeypatch.chdir(tmp_path)
    ask = ["bench", "--quiet", "--json", "--jobs", "1", "--scenario", one_pairing.name, "--out", "b.csv.gz"]  # fmt: skip
    assert cli.main([*ask, "--policy", good, "--policy", bad]) == 2
    told = capfd.readouterr()
    assert f"{bad} broke off" in told.err
    rows = {entry["policy"]: entry for entry in json.loads(told.out)}
    assert good in rows
    assert bad not in rows
    assert rows[good]["isolation"] == ("confined" if landlock.version() else "open")
    found = results.read(tmp_path / "b.csv.gz")
    assert found.header["names"] == [good]
    assert bad in found.header["failed"]
    assert list(verify.differences(found)) == []


@pytest.mark.usefixtures("_settings")
def test_a_cost_below_the_bound_is_refused(
    one_pairing: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = cells.policy_cell

    def forged(story: Scenario, entry: registry.Entry, seed: int) -> Cell:
        cell = original(story, entry, seed)
        if entry.name != "gsi":
            return cell
        none = 0 * cell.test_quality
        log = cell.log
        free = dataclasses.replace(log, stall=none, emergency=none, refused=none)
        return dataclasses.replace(cell, log=free, test_quality=none - 1)

    monkeypatch.setattr(cells, "policy_cell", forged)
    out = tmp_path / "b.csv.gz"
    found = bench_run.run([one_pairing], ["gsi"], out, quiet=True, summary=scoreboard.summed_up)
    assert "gsi" not in {cell.about.policy for cell in found.cells}
    assert {*entrants.ALWAYS} == {cell.about.policy for cell in results.read(out).cells}
    with pytest.raises(InvalidResult, match=r"gsi costs .* less than the bound"):
        bench_run.check(found)


def test_a_typo_is_told_before_anything_is_run(
    one_pairing: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suitability, "check_all", lambda *_, **__: pytest.fail("ran"))
    with pytest.raises(InvalidPolicy, match="typo:Mine cannot be loaded"):
        bench_run.run([one_pairing], ["typo:Mine"], tmp_path / "b.csv.gz", quiet=True)


def test_of_a_process_that_ran_a_users_code_only_proposals_are_taken(
    one_pairing: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where isolation was declined, a policy may write what it likes about its costs."""
    entry = entrants.entrant(module(tmp_path, "plain"), Terms(in_process=True, folders=(str(tmp_path),)))  # fmt: skip
    honest = cells.user_cell(one_pairing, entry.entry, 0, entry.terms)  # type: ignore[attr-defined]
    assert honest.about.isolation == "none"
    cheap = dataclasses.replace(
        honest.log, stall=0 * honest.log.stall, kept_end=~honest.log.kept_end
    )
    forged = dataclasses.replace(honest, log=cheap, test_quality=0 * honest.test_quality)
    monkeypatch.setattr(alone, "run", lambda order, read: forged)
    cell = entry.run(one_pairing, 0)
    assert np.array_equal(cell.test_cost, honest.test_cost)
    assert np.array_equal(cell.log.kept_end, honest.log.kept_end)
    stands_in = np.full_like(honest.log.source, Reason.FALLBACK)
    monkeypatch.setattr(
        alone,
        "run",
        lambda order, read: dataclasses.replace(
            honest, log=dataclasses.replace(cheap, source=stands_in)
        ),
    )
    with pytest.raises(InvalidPolicy, match="what the reference policy proposed"):
        entry.run(one_pairing, 0)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_process_without_isolation_that_leaves_no_cell_is_named(
    fault: str, one_pairing: Scenario, tmp_path: Path
) -> None:
    target = module(tmp_path, f"alone_{fault}", load=FAULTS[fault][0])
    terms = Terms(in_process=True, folders=(str(tmp_path),))
    with pytest.raises(InvalidPolicy) as told:
        entrants.entrant(target, terms).run(one_pairing, 0)
    assert target in str(told.value)
    assert FAULTS[fault][1] in str(told.value)
