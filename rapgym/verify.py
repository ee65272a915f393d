"""Run a results file again: every row replayed, every score computed anew."""

import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from rapgym import cells, datafiles, results, rivals, rollout, scenario, scoreboard, series
from rapgym.episode_log import EpisodeLog
from rapgym.errors import InvalidResult
from rapgym.results import Cell, Results
from rapgym.scenario import Scenario
from rapgym.specs import IntArray

REPLAYED = tuple(
    field.name
    for field in fields(EpisodeLog)
    if field.name not in ("row", "limit_row", "proposal", "source")
)
JUDGED = ("test_nll", "test_quality", "test_measured")
TOLERANCE = 1e-6  # of costs and scores: far below any interval, above another processor's rounding


def differences(found: Results) -> Iterator[str]:
    """What does not hold in a results file, one sentence each, rows in order.

    Raises:
        InvalidResult: it was made with another table, workload or scenario than those here.
    """
    for name in found.header["scenarios"]:
        _check_origin(found, name)
    undeclared = {cell.about["scenario"] for cell in found.cells} - found.header["scenarios"].keys()
    if undeclared:
        raise InvalidResult(f"cells of {', '.join(sorted(undeclared))} are not in the header")
    for cell, numbers in zip(found.cells, results.row_numbers(found.cells), strict=True):
        yield from _cell_differences(cell, numbers)
    yield from _entry_differences(found)


def _check_origin(found: Results, name: str) -> None:
    story = scenario.scenario(name)
    table = scenario.table(story)
    here = {
        f"table {story.table}": (found.header["tables"].get(story.table), table.sha256),
        f"workload {story.workload}": (
            found.header["workloads"].get(story.workload),
            datafiles.sha256_of(series.FOLDER / f"{story.workload}.csv.gz"),
        ),
    }
    if found.header["scenarios"][name] != json.loads(json.dumps(asdict(story))):
        raise InvalidResult(f"{name} is another scenario here: the results cannot be replayed")
    for what, (recorded, present) in here.items():
        if recorded != present:
            raise InvalidResult(
                f"the results were made with another {what} (sha256 {str(recorded)[:12]}..., here "
                f"{present[:12]}...): they cannot be replayed"
            )


def _cell_differences(cell: Cell, numbers: IntArray) -> Iterator[str]:
    story = scenario.scenario(cell.about["scenario"])
    who = f"{cell.about['policy']} on {cell.about['scenario']}"
    start = cells.test_start(scenario.scoring_world(story), story)
    rows = len(scenario.scoring_world(story).rows)
    steps = np.arange(rows)[:, None]
    if cell.log.row.shape != (rows, story.offsets):
        yield f"{who} has {cell.log.row.shape} rows, not {(rows, story.offsets)}"
        return
    places = {
        "row": (cell.log.row, (start.row + steps) % rows),
        "limit_row": (cell.log.limit_row, (start.limit_row + steps) % rows),
    }
    misplaced = list(_array_differences(places, numbers, who))
    if misplaced:
        yield from misplaced
        return
    again = _again(story, cell)
    columns = {name: (getattr(cell.log, name), getattr(again.log, name)) for name in REPLAYED}
    columns |= {name: (getattr(cell, name), getattr(again, name)) for name in JUDGED}
    yield from _array_differences(columns, numbers, who)


def _again(story: Scenario, cell: Cell) -> Cell:
    """The cell as its proposals, or its rule, give it here."""
    if cell.about["policy"] == cells.BOUND:
        return cells.bound_cell(story)
    if cell.about["kind"] == "rival":
        return cells.rival_cell(story, rivals.rival(cell.about["policy"]))
    strict = cell.about["on_misfit"] == "refuse"
    told = rollout.replay(scenario.world(story, "test"), cell.log, refuses_misfit=strict)
    return cells.scored(story, cell.about, told)


def _array_differences(
    columns: dict[str, tuple[Any, Any]], numbers: IntArray, who: str
) -> Iterator[str]:
    for column, (recorded, again) in columns.items():
        if recorded.ndim == 3:
            differs = (recorded != again).any(axis=2)
        else:
            differs = np.abs(recorded.astype(float) - again.astype(float)) > TOLERANCE
        if differs.any():
            lane, step = np.argwhere(differs.T)[0]
            yield (
                f"entry {numbers[step, lane] + 1} of column {column}: {who}, pairing {lane}, row "
                f"{step}, does not replay ({int(differs.sum())} rows differ in this column)"
            )


def _entry_differences(found: Results) -> Iterator[str]:
    again = scoreboard.entries(found)
    recorded = found.header.get("entries", [])
    for entry in again:
        least = min(
            other["cost"]
            for other in again
            if other["scenario"] == entry["scenario"] and other["kind"] != "rival"
        )
        if entry["policy"] == cells.BOUND and entry["cost"] > least + TOLERANCE:
            yield f"a policy on {entry['scenario']} costs {least}, less than the bound {entry['cost']}"
    if found.header.get("rankings") != json.loads(json.dumps(scoreboard.rankings(found))):
        yield "the rankings at other values of C are not what the rows give"
    if len(again) != len(recorded):
        yield f"the file lists {len(recorded)} scores, its rows give {len(again)}"
        return
    for old, new in zip(recorded, again, strict=True):
        for name in new:
            a, b = old.get(name), new[name]
            if (
                isinstance(b, float)
                and isinstance(a, float)
                and abs(a - b) <= TOLERANCE * max(1, abs(b))
            ):
                continue
            if a != b:
                yield f"score {name} of {old['policy']} on {old['scenario']}: {a}, its rows give {b}"
