"""Two results files compared row by row."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain_records import about_of
from table_device import step_of
from toy_table import kept_without

from rapgym import cli
from rapgym.baselines.keep_all import KeepAll
from rapgym.bench import cells, results
from rapgym.bench.against import Tolerances, compared
from rapgym.bench.results import Cell, Results
from rapgym.policies.policy import briefing
from rapgym.rollout import rollout
from rapgym.rollout.log import EpisodeLog
from rapgym.scenarios.lanes import Lanes
from rapgym.scenarios.story import Scenario


@pytest.fixture(scope="module")
def simulated(toy_story: Scenario) -> Results:
    log = rollout.run(KeepAll, toy_story, "test", briefing(toy_story))
    about = about_of("keep-all", scenario=toy_story.id, kind="reactive")
    header: dict[str, Any] = {"scenarios": {}, "tables": {}, "workloads": {}}
    return Results(header, (cells.scored(toy_story, about, log),))


def changed(found: Results, **columns: object) -> Results:
    (cell,) = found.cells
    return Results(found.header, (replace(cell, log=replace(cell.log, **columns)),))  # type: ignore[arg-type]


def test_a_file_agrees_with_itself(simulated: Results) -> None:
    comparison = compared(simulated, simulated, Tolerances())
    assert comparison.differences == ()
    assert comparison.rows == simulated.cells[0].log.row.size


def test_another_decision_is_named_with_its_row_and_its_entry(simulated: Results) -> None:
    log = simulated.cells[0].log
    kept = log.kept.copy()
    kept[3, 1] = kept_without(2, 4)
    assert (kept != log.kept).any(), "the toy world keeps something else here"
    (said,) = compared(simulated, changed(simulated, kept=kept), Tolerances()).differences
    entry = results.row_numbers(simulated.cells)[0][3, 1] + 1
    assert f"column kept, keep-all on toy-v0, row {log.row[3, 1]}" in said
    assert f"entry {entry} " in said
    assert "drops [2, 4] (1 of" in said


@pytest.mark.parametrize(("column", "by", "within"), [
    ("nll", 0.019, True), ("nll", 0.021, False), ("quality", -0.03, False), ("stall", 0.01, True),
])  # fmt: skip
def test_nats_may_differ_by_the_tolerance(
    simulated: Results, column: str, by: float, within: bool
) -> None:
    other = changed(simulated, **{column: getattr(simulated.cells[0].log, column) + by})
    assert (compared(simulated, other, Tolerances()).differences == ()) is within


@pytest.mark.parametrize(("share", "within"), [(1.015, True), (0.97, False)])
def test_bytes_may_differ_by_a_share(simulated: Results, share: float, within: bool) -> None:
    used = (simulated.cells[0].log.used_bytes * share).astype(np.int64)
    other = changed(simulated, used_bytes=used)
    assert (compared(simulated, other, Tolerances()).differences == ()) is within


def test_a_part_of_the_rows_is_compared_with_the_whole(simulated: Results) -> None:
    def first_rows(cell: Cell, rows: int) -> Cell:
        log = {name: getattr(cell.log, name)[:rows] for name in EpisodeLog.__slots__}
        return Cell(cell.about, EpisodeLog(**log), cell.test_nll[:rows], cell.test_measured[:rows],
                    cell.test_quality[:rows])  # fmt: skip

    part = Results(simulated.header, (first_rows(simulated.cells[0], 4),))
    comparison = compared(part, simulated, Tolerances())
    assert comparison.differences == ()
    assert comparison.rows == 4 * simulated.cells[0].log.row.shape[1]


def test_files_without_a_common_row_do_not_agree(simulated: Results) -> None:
    (cell,) = simulated.cells
    other = Results(simulated.header, (replace(cell, about=replace(cell.about, policy="gsi")),))
    assert "share no row" in compared(simulated, other, Tolerances()).differences[0]


def test_a_policy_served_on_a_device_gives_a_log_that_agrees(
    simulated: Results, toy_story: Scenario
) -> None:
    (cell,) = simulated.cells
    plain = Lanes(toy_story, "test", 1)
    lanes = Lanes(toy_story, "test", 1, step=step_of(plain.world, np.ones(6, dtype=bool)))
    start = rollout.whole_split(plain.world, toy_story.offsets)[1]
    log = rollout.episode(KeepAll(), lanes, start, briefing(toy_story), [0, 1])
    served = Results(simulated.header, (cells.scored(toy_story, cell.about, log),))
    comparison = compared(served, simulated, Tolerances())
    assert comparison.differences == ()
    assert comparison.rows == len(plain.world.rows)


def test_verify_against_says_what_differs_and_fails(
    simulated: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = tmp_path / "one.csv.gz", tmp_path / "other.csv.gz"
    results.write(one, simulated)
    results.write(other, changed(simulated, nll=simulated.cells[0].log.nll + 0.5))
    assert cli.main(["verify", str(one), "--against", str(one)]) == 0
    assert "rows agree" in capsys.readouterr().out
    assert cli.main(["verify", str(one), "--against", str(other)]) == 1
    assert "column nll" in capsys.readouterr().out
    assert cli.main(["verify", str(one), "--against", str(other), "--nats-tolerance", "1"]) == 0
