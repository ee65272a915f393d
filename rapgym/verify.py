"""Run a results file again: every row replayed, every score computed anew."""

import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from rapgym import bench, datafiles, rollout, scenario, scoreboard, series
from rapgym.errors import InvalidResult
from rapgym.results import Cell, Results

TOLERANCE = 1e-6  # of costs and scores: far below any interval, above another processor's rounding
HEADER_LINES = 2  # before the first row of a results file


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
    line = HEADER_LINES
    for cell in found.cells:
        yield from _cell_differences(cell, line)
        line += cell.log.row.size
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


def _cell_differences(cell: Cell, line: int) -> Iterator[str]:
    story = scenario.scenario(cell.about["scenario"])
    strict = cell.about["on_misfit"] == "refuse"
    who = f"{cell.about['policy']} on {cell.about['scenario']}"
    start = bench.test_start(scenario.scoring_world(story), story)
    rows = len(scenario.scoring_world(story).rows)
    steps = np.arange(rows)[:, None]
    if cell.log.row.shape != (rows, story.offsets):
        yield f"line {line + 1}: {who} has {cell.log.row.shape} rows, not {(rows, story.offsets)}"
        return
    places = {
        "row": (cell.log.row, (start.row + steps) % rows),
        "limit_row": (cell.log.limit_row, (start.limit_row + steps) % rows),
    }
    misplaced = list(_array_differences(places, line, who))
    if misplaced:
        yield from misplaced
        return
    # Only the bound is no sequence of executed rows.
    if cell.about["policy"] == bench.BOUND:
        again = bench.bound_cell(story)
        bounds = {"bound": (cell.test_quality, again.test_quality)}
        yield from _array_differences(bounds, line, who)
        return
    told = rollout.replay(scenario.world(story, "test"), cell.log, refuses_misfit=strict)
    judged = rollout.replay(scenario.scoring_world(story), cell.log, refuses_misfit=strict)
    pairs: dict[str, tuple[Any, Any]] = {
        field.name: (getattr(cell.log, field.name), getattr(told, field.name))
        for field in fields(told)
        if field.name not in ("row", "limit_row", "proposal", "source")
    }
    pairs |= {
        "test_nll": (cell.test_nll, judged.nll),
        "test_quality": (cell.test_quality, judged.quality),
        "test_measured": (cell.test_measured, judged.measured),
    }
    yield from _array_differences(pairs, line, who)


def _array_differences(pairs: dict[str, tuple[Any, Any]], line: int, who: str) -> Iterator[str]:
    for column, (recorded, again) in pairs.items():
        if recorded.ndim == 3:
            differs = (recorded != again).any(axis=2)
        else:
            differs = np.abs(recorded.astype(float) - again.astype(float)) > TOLERANCE
        if differs.any():
            lane, step = np.argwhere(differs.T)[0]
            at = line + 1 + int(lane) * differs.shape[0] + int(step)
            yield (
                f"line {at}: {column} of {who}, pairing {lane}, row {step}, does not replay "
                f"({int(differs.sum())} rows differ in this column)"
            )


def _entry_differences(found: Results) -> Iterator[str]:
    again = scoreboard.entries(found)
    recorded = found.header.get("entries", [])
    for entry in again:
        least = min(e["cost"] for e in again if e["scenario"] == entry["scenario"])
        if entry["policy"] == bench.BOUND and entry["cost"] > least + TOLERANCE:
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
