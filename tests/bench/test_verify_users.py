"""What verify says of rows that a user's policy and its stand-in proposed, and of what it cannot check."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_world import tuned

from rapgym import cli
from rapgym.bench import entrants, results, scoreboard, verify
from rapgym.bench import run as bench_run
from rapgym.bench.results import Results
from rapgym.files.shown import shown, shown_lines
from rapgym.guard.foreign import Terms
from rapgym.policies import registry
from rapgym.scenarios.story import Scenario
from rapgym.world.shield import Reason

FALTERS = (
    "import numpy as np\n"
    "class Mine:\n"
    "    def reset(self, batch, briefing): self.n, self.rows = briefing.layout.blocks, 0\n"
    "    def propose(self, observation, rng):\n"
    "        self.rows += 1\n"
    "        if self.rows == 1: raise ValueError('not yet\\x1b[2J')\n"
    "        return np.ones((len(observation), self.n), dtype=bool)\n"
)
WHO = "falters:Mine"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("users")
    (path / "falters.py").write_text(FALTERS)
    return path


@pytest.fixture(scope="module")
def found(one_pairing: Scenario, folder: Path) -> Iterator[Results]:
    kept = {one_pairing.id: tuned(one_pairing, {"kept": "fc"})}
    out, terms = folder / "b.csv.gz", Terms(folders=(str(folder),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "tuned", lambda: {"static-best-repaired": kept})
        bench_run.run([one_pairing], [WHO], out, summary=scoreboard.summed_up, quiet=True, terms=terms)  # fmt: skip
        yield results.read(out)


def with_log(found: Results, who: str, **change: Any) -> Results:
    """The results with other columns in the log of one cell."""
    cells = tuple(
        dataclasses.replace(cell, log=dataclasses.replace(cell.log, **change))
        if cell.about.policy == who
        else cell
        for cell in found.cells
    )
    return Results(found.header, cells, found.scores)


def own(found: Results) -> Any:
    return next(cell for cell in found.cells if cell.about.policy == WHO)


def test_a_row_that_fell_back_holds_the_references_proposal(found: Results) -> None:
    cell = own(found)
    assert (cell.log.source[0] == Reason.FALLBACK).all()
    assert (cell.log.source[1:] == Reason.POLICY).all()
    assert "not yet" in str(cell.about.fault)
    assert list(verify.differences(found)) == []
    other = cell.log.source.copy()
    other[:5] = Reason.FALLBACK
    said = " ".join(verify.differences(with_log(found, WHO, source=other)))
    assert "would have proposed something else" in said


@pytest.mark.parametrize("source", [Reason.WATCHDOG, Reason.OVERRIDE, Reason.EMERGENCY])
@pytest.mark.parametrize("who", [WHO, "frontier", "partial-admission"])
def test_a_source_that_a_row_cannot_have_is_named(who: str, source: Reason, found: Results) -> None:
    cell = next(each for each in found.cells if each.about.policy == who)
    other = np.full_like(cell.log.source, source)
    number = results.row_numbers(found.cells)[found.cells.index(cell)]
    forged = with_log(found, who, source=other)
    (cell,) = (each for each in forged.cells if each.about.policy == who)
    entrant = entrants.entrant(who)
    assert list(verify.cell_differences(cell, number, entrant.again))


def test_what_is_taken_as_it_stands_is_said(
    found: Results, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["verify", str(folder / "b.csv.gz")]) == 0
    told = capsys.readouterr().out
    assert "checked: rows" in told
    for each in ("times of decisions", "that policies made", f"that {WHO} made these proposals"):
        assert f"not checked: {each}" in told
    assert "digest" not in told
    elsewhere = Results({**found.header, "code_sha256": "0" * 64}, found.cells, found.scores)
    assert any("digest 000000000000..." in each for each in verify.unchecked(elsewhere))
    assert not any("--again" in each for each in verify.unchecked(found, again=True))
    assert cli.main(["verify", "--json", str(folder / "b.csv.gz")]) == 0
    assert json.loads(capsys.readouterr().out)["unchecked"]


def test_a_finished_part_is_used_again_only_for_the_same_policy(
    one_pairing: Scenario, found: Results, tmp_path: Path
) -> None:
    (tmp_path / "falters.py").write_text(FALTERS)
    (tmp_path / "weights.npz").write_bytes(b"one")

    def task(**more: Any) -> bench_run.Task:
        terms = Terms(folders=(str(tmp_path),), reads=(str(tmp_path / "weights.npz"),), **more)
        return bench_run.Task(one_pairing, entrants.entrant(WHO, terms), 0)

    origin = {name: found.header[name] for name in ("scenarios", "tables", "workloads")}
    part = tmp_path / "part.csv.gz"
    results.write(part, Results({**origin, "basis": bench_run._basis(task())}, (own(found),)))
    assert bench_run._finished(part, origin, task()) is not None
    assert bench_run._finished(part, origin, task(watchdog=True)) is None
    assert bench_run._finished(part, origin, task(in_process=True)) is None
    (tmp_path / "helper.py").write_text("x = 1\n")
    assert bench_run._finished(part, origin, task()) is None, "it may import what lies beside it"
    (tmp_path / "helper.py").unlink()
    assert bench_run._finished(part, origin, task()) is not None
    (tmp_path / "weights.npz").write_bytes(b"two")
    assert bench_run._finished(part, origin, task()) is None


def test_what_does_not_print_is_shown_as_its_escape() -> None:
    assert shown("a\x1b[2Jb\nc\u202e\u00e9") == "a\\x1b[2Jb\\nc\\u202e\u00e9"
    assert shown_lines("a\x07\nb") == "a\\x07\nb"
