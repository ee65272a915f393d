"""Run a results file again: every row replayed, every score computed anew."""

import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rapgym.arrays import IntArray
from rapgym.bench import cells, rankings, results, scoreboard
from rapgym.bench import origin as bench_origin
from rapgym.bench import run as bench_run
from rapgym.bench.results import Cell, Results
from rapgym.errors import InvalidResult
from rapgym.files import checked
from rapgym.jobs import parallel
from rapgym.policies import registry
from rapgym.rivals import rivals
from rapgym.rollout import rollout
from rapgym.rollout.log import EpisodeLog
from rapgym.scenarios import catalogue, worlds
from rapgym.scenarios.story import Scenario, described
from rapgym.world.shield import Reason

REPLAYED = tuple(
    field.name
    for field in fields(EpisodeLog)
    if field.name not in ("row", "limit_row", "proposal", "source")
)
JUDGED = ("test_nll", "test_quality", "test_measured")
TOLERANCE = 1e-6  # of costs and scores: far below any interval, above another processor's rounding


def differences(found: Results, *, again: bool = False, jobs: int = 1) -> Iterator[str]:
    """What does not hold in a results file, one sentence each.

    Rows are replayed from their proposals; what describes a cell, and every score, is computed
    anew. That the named policy made these proposals, and its validation cost, is only known once it
    has decided again: `again`, which takes as long as the bench did. Of a user's policy, whose
    code may not be here, proposals are taken as they are. Decision times, the date and the commit
    cannot be checked.

    Args:
        again: let every policy of rapgym's decide again, and search the best plan again.
        jobs: processes for that.

    Raises:
        InvalidResult: it was made with another table, workload, trace or scenario than those here.
        DataUnavailable: a trace of the user's that it was made with is not at its path.
    """
    for name in found.header["scenarios"]:
        _check_origin(found, name)
    undeclared = {cell.about["scenario"] for cell in found.cells} - found.header["scenarios"].keys()
    if undeclared:
        raise InvalidResult(f"cells of {', '.join(sorted(undeclared))} are not in the header")
    stories = [catalogue.scenario(name) for name in found.header["scenarios"]]
    bench_run.tune_own(stories, found.header.get("names", []), jobs=jobs, quiet=True)
    yield from _missing_cells(found)
    for cell, numbers in zip(found.cells, results.row_numbers(found.cells), strict=True):
        yield from _described_differently(cell)
        yield from _cell_differences(cell, numbers)
    if again:
        yield from _decided_differently(found, jobs)
    yield from _entry_differences(found)


def verify_results(path: Path | str, *, again: bool = False, jobs: int = 1) -> list[str]:
    """Serve every row of a results file again from its proposals, and compute every score anew.

    Args:
        path: of a file that `rapgym bench` or `run_bench` wrote.
        again: let rapgym's policies decide again too: that they made these proposals, and their
            validation costs, cannot be known otherwise. Takes as long as the bench did.
        jobs: processes for that.

    Returns:
        What differs, one sentence each; empty where the file holds.

    Raises:
        InvalidResult: the file cannot be read, or was made with another table, workload, trace or
            scenario than those here.
        DataUnavailable: a trace of yours that it was made with is not at its path.

    Example:
        >>> rapgym.verify_results(results)
        []
    """
    return list(differences(results.read(Path(path)), again=again, jobs=jobs))


def _missing_cells(found: Results) -> Iterator[str]:
    """A cell for everything that the header says was run, once, and no other."""
    header = found.header
    stories = [catalogue.scenario(name) for name in header["scenarios"]]
    seeds = header.get("seeds", [])
    wanted = [
        (task.story.id, task.name)
        for task in bench_run.tasks(stories, header.get("names", []), seeds)
    ]
    present = [(cell.about["scenario"], _task_name(cell)) for cell in found.cells]
    if sorted(wanted) != sorted(present):
        lost = [" on ".join(reversed(each)) for each in sorted({*wanted} - {*present})]
        more = [" on ".join(reversed(each)) for each in sorted({*present} - {*wanted})]
        yield (
            f"its cells are not those that its header names: {', '.join(lost) or 'none'} missing, "
            f"{', '.join(more) or 'none'} added, {len(present) - len({*present})} doubled"
        )
    specs = {story.id: bench_origin.env_spec(story) for story in stories}
    if header.get("env_spec") != json.loads(json.dumps(specs)):
        yield "its header names other environments than these scenarios have"


def _task_name(cell: Cell) -> str:
    name = str(cell.about["policy"])
    single = cell.about["kind"] in ("bound", "rival")
    return name if single else f"{name}.{cell.about['seed']}"


def _facts(cell: Cell) -> dict[str, Any]:
    """What the name of a cell implies, as JSON gives it back."""
    story, name = catalogue.scenario(cell.about["scenario"]), cell.about["policy"]
    if name in (cells.BOUND, cells.BEST_PLAN):
        facts = cells.oracle_facts(story, name)
    elif name in {rival.name for rival in rivals.RIVALS}:
        facts = cells.rival_facts(story, rivals.rival(name))
    elif ":" in name:  # a user's: its settings and how it meets a misfit are its own
        facts = {"kind": registry.entry(name).kind, "calibration_tokens": None}
    else:
        facts = cells.policy_facts(story, registry.entry(name), cell.about["seed"])
    facts = {"ceiling": worlds.world(story, "test").ceiling, **facts}
    found: dict[str, Any] = json.loads(json.dumps(facts))
    return {key: value for key, value in found.items() if not key.startswith("decision_us")}


def _described_differently(cell: Cell) -> Iterator[str]:
    who = f"{cell.about['policy']} on {cell.about['scenario']}"
    for key, value in _facts(cell).items():
        recorded = cell.about.get(key)
        if not _same(recorded, value):
            yield f"{key} of {who} is {recorded}, but here {value}"
    fallback = float((cell.log.source == Reason.FALLBACK).mean())
    if not _same(cell.about.get("fallback", 0.0), fallback):
        yield f"fallback of {who} is {cell.about.get('fallback')}, its rows give {fallback}"


def _decided_differently(found: Results, jobs: int) -> Iterator[str]:
    """Every policy of rapgym's asked again, and the best plan searched again."""
    asked: list[tuple[Cell, Callable[[], Cell]]] = []
    for cell in found.cells:
        story, name = catalogue.scenario(cell.about["scenario"]), cell.about["policy"]
        if name == cells.BEST_PLAN:
            asked.append((cell, partial(cells.plan_cell, story)))
        elif cell.about["kind"] not in ("bound", "rival") and ":" not in name:
            entry, seed = registry.entry(name), cell.about["seed"]
            asked.append((cell, partial(cells.policy_cell, story, entry, seed)))
    for place, now in parallel.results([call for _, call in asked], jobs):
        cell = asked[place][0]
        who = f"{cell.about['policy']} on {cell.about['scenario']}"
        other = (cell.log.proposal != now.log.proposal).any(axis=-1)
        if other.any():
            yield f"{who} proposes something else in {int(other.sum())} rows"
        if not _same(cell.about["validation_cost"], now.about["validation_cost"]):
            yield (
                f"validation_cost of {who} is {cell.about['validation_cost']}, but here "
                f"{now.about['validation_cost']}"
            )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= TOLERANCE * max(1.0, abs(other))
    return bool(one == other)


def _check_origin(found: Results, name: str) -> None:
    story = catalogue.scenario(name)
    if story.is_own:
        for path, sha256 in bench_origin.trace_sha256(story).items():
            if found.header.get("traces", {}).get(name, {}).get(path) != sha256:
                raise InvalidResult(
                    f"the trace {path} has changed since the results were made: they cannot be replayed"
                )
    tables = found.header["tables"]
    here = {
        **{f"table {each}": (tables.get(each), sha) for each, sha in rivals.tables(story).items()},
        f"workload {story.workload}": (
            found.header["workloads"].get(story.workload),
            checked.sha256_of(worlds.workload_file(story)),
        ),
    }
    if found.header["scenarios"][name] != json.loads(json.dumps(described(story))):
        raise InvalidResult(f"{name} is another scenario here: the results cannot be replayed")
    for what, (recorded, present) in here.items():
        if recorded != present:
            raise InvalidResult(
                f"the results were made with another {what} (sha256 {str(recorded)[:12]}..., here "
                f"{present[:12]}...): they cannot be replayed"
            )


def _cell_differences(cell: Cell, numbers: IntArray) -> Iterator[str]:
    story = catalogue.scenario(cell.about["scenario"])
    who = f"{cell.about['policy']} on {cell.about['scenario']}"
    start = cells.test_start(worlds.scoring_world(story), story)
    rows = len(worlds.scoring_world(story).rows)
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
    told = rollout.replay(worlds.world(story, "test"), cell.log, refuses_misfit=strict)
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
    if found.header.get("rankings") != json.loads(json.dumps(rankings.rankings(found))):
        yield "the rankings at other values of C are not what the rows give"
    if len(again) != len(recorded):
        yield f"the file lists {len(recorded)} scores, its rows give {len(again)}"
        return
    for old, new in zip(recorded, again, strict=True):
        for name in new:
            a, b = old.get(name), new[name]
            if not _same(a, b):
                yield f"score {name} of {old['policy']} on {old['scenario']}: {a}, its rows give {b}"
