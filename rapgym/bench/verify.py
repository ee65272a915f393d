"""Run a results file again: every row replayed, every score computed anew."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from rapgym.arrays import IntArray
from rapgym.bench import cells, entrants, rankings, results, scoreboard
from rapgym.bench import origin as bench_origin
from rapgym.bench import run as bench_run
from rapgym.bench.entrants import Entrant
from rapgym.bench.records import About
from rapgym.bench.results import Cell, Results
from rapgym.bench.run import Task
from rapgym.errors import InvalidResult
from rapgym.files import checked
from rapgym.jobs import parallel
from rapgym.rivals import rivals
from rapgym.rollout.log import EpisodeLog
from rapgym.scenarios import catalogue, worlds
from rapgym.scenarios.story import Scenario, described
from rapgym.world.shield import Reason

REPLAYED = tuple(
    field.name for field in fields(EpisodeLog) if field.name not in ("row", "limit_row", "proposal")
)
JUDGED = ("test_nll", "test_quality", "test_measured")
TOLERANCE = 1e-6  # of costs and scores: far below any interval, above another processor's rounding


STOOD_IN = "that answers could not be read where the reference policy stood in"


def differences(found: Results, *, again: bool = False, jobs: int = 1) -> Iterator[str]:
    """What does not hold in a results file, one sentence each.

    Rows are replayed from their proposals; what describes a cell, and every score, is computed
    anew. That the named policy made these proposals, and its validation cost, is only known once it
    has decided again: `again`, which takes as long as the bench did. `unchecked` says what is taken as
    it stands.

    Args:
        again: let every policy of rapgym's decide again, and search the best plan again.
        jobs: processes for that.

    Raises:
        InvalidResult: it was made with another table, workload, trace or scenario than those here.
        DataUnavailable: a trace of the user's that it was made with is not at its path.
    """
    for name in found.header["scenarios"]:
        check_origin(found, name)
    undeclared = {cell.about.scenario for cell in found.cells} - found.header["scenarios"].keys()
    if undeclared:
        raise InvalidResult(f"cells of {', '.join(sorted(undeclared))} are not in the header")
    stories = [catalogue.scenario(name) for name in found.header["scenarios"]]
    bench_run.tune_own(stories, found.header.get("names", []), jobs=jobs, quiet=True)
    yield from _missing_cells(found)
    for cell, numbers in zip(found.cells, results.row_numbers(found.cells), strict=True):
        story, entrant = catalogue.scenario(cell.about.scenario), _entrant(cell)
        facts = entrant.facts(story, cell.about.seed)
        yield from described_differently(cell, facts, entrant.implied)
        yield from cell_differences(cell, numbers, entrant.again)
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
        (task.story.id, task.entrant.name, task.seed)
        for task in bench_run.tasks(stories, header.get("names", []), seeds)
    ]
    present = [(cell.about.scenario, cell.about.policy, cell.about.seed) for cell in found.cells]
    if sorted(wanted) != sorted(present):
        lost, more = (
            [f"{name}, seed {seed}, on {story}" for story, name, seed in sorted(each)]
            for each in ({*wanted} - {*present}, {*present} - {*wanted})
        )
        yield (
            f"its cells are not those that its header names: {'; '.join(lost) or 'none'} missing, "
            f"{'; '.join(more) or 'none'} added, {len(present) - len({*present})} doubled"
        )
    specs = {story.id: bench_origin.env_spec(story) for story in stories}
    if header.get("env_spec") != json.loads(json.dumps(specs)):
        yield "its header names other environments than these scenarios have"


def _entrant(cell: Cell) -> Entrant:
    return entrants.entrant(cell.about.policy)


def _who(cell: Cell) -> str:
    return f"{cell.about.policy} on {cell.about.scenario}"


def described_differently(cell: Cell, facts: About, implied: Sequence[str]) -> Iterator[str]:
    """Where what describes a cell is not what its name implies, a sentence each.

    Args:
        facts: what describes such a cell here.
        implied: the fields that must agree.
    """
    for name in implied:
        recorded, here = (_as_read(getattr(about, name)) for about in (cell.about, facts))
        if not same(recorded, here):
            yield f"{name} of {_who(cell)} is {recorded}, but here {here}"
    if cell.about.fault is not None and not cell.about.fallback:
        yield f"{_who(cell)} names a fault, but all its answers could be read"
    fallback = float((cell.log.source == Reason.FALLBACK).mean())
    if not same(cell.about.fallback, fallback):
        yield f"fallback of {_who(cell)} is {cell.about.fallback}, its rows give {fallback}"


def _as_read(value: Any) -> Any:
    """A value as JSON gives it back: settings that were just found may hold tuples."""
    return json.loads(json.dumps(value))


def _decided_differently(found: Results, jobs: int) -> Iterator[str]:
    """Every policy of rapgym's asked again, and the best plan searched again."""
    asked = [
        (cell, Task(catalogue.scenario(cell.about.scenario), entrant, cell.about.seed))
        for cell in found.cells
        if (entrant := _entrant(cell)).decides
    ]
    for place, now in parallel.results([task.run for _, task in asked], jobs):
        cell = asked[place][0]
        yield from decided_differently(cell, now.log)
        for name in ("validation_cost", "validation_parts"):
            told, here = (_as_read(getattr(about, name)) for about in (cell.about, now.about))
            if not same(told, here):
                yield f"{name} of {_who(cell)} is {told}, but here {here}"


def decided_differently(cell: Cell, now: EpisodeLog) -> Iterator[str]:
    """Where its policy, asked again, decides otherwise than a cell's rows say, a sentence each."""
    was = cell.log
    differ = {
        "proposes something else": (was.proposal != now.proposal).any(axis=-1),
        "is not the source of the same proposals": was.source != now.source,
        "is refused elsewhere": np.abs(was.refused - now.refused) > TOLERANCE,
    }
    for what, other in differ.items():
        if other.any():
            yield f"{_who(cell)} {what} in {int(other.sum())} rows"


def same(one: Any, other: Any) -> bool:
    """Whether two values of JSON are the same but for the rounding of numbers."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= TOLERANCE * max(1.0, abs(other))
    return bool(one == other)


def check_origin(found: Results, name: str) -> None:
    """Check that a scenario, its tables and its workload are those that results were made with.

    Raises:
        InvalidResult: one is another; the message names it.
        DataUnavailable: a trace of the user's is not at its path.
    """
    story = catalogue.scenario(name)
    if story.is_own:
        for path, sha256 in bench_origin.files_sha256(story).items():
            if found.header.get("files", {}).get(name, {}).get(path) != sha256:
                raise InvalidResult(
                    f"{path} has changed since the results were made: they cannot be replayed"
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


def cell_differences(
    cell: Cell, numbers: IntArray, again: Callable[[Scenario, Cell], Cell]
) -> Iterator[str]:
    """Rows of a cell that do not replay, a sentence a column.

    Args:
        numbers: where each row stands in its file, int64 [T, K].
        again: gives the cell as its proposals or its rule give it here.
    """
    story, who = catalogue.scenario(cell.about.scenario), _who(cell)
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
    yield from _sources(cell, story)
    now = again(story, cell)
    columns = {name: (getattr(cell.log, name), getattr(now.log, name)) for name in REPLAYED}
    columns |= {name: (getattr(cell, name), getattr(now, name)) for name in JUDGED}
    yield from _array_differences(columns, numbers, who)


def _sources(cell: Cell, story: Scenario) -> Iterator[str]:
    """Whose the proposals can be, and whether those of the reference policy are its own."""
    about, log, known = cell.about, cell.log, {Reason.POLICY}
    if about.is_rival or about.policy == cells.BOUND:
        return  # their rows are made again, sources and all
    if about.decides:
        known |= {Reason.FALLBACK}
        known |= {Reason.WATCHDOG} if about.settings.get("watchdog") is True else set()
    strange = ~np.isin(log.source, [*known])
    if strange.any():
        yield f"{_who(cell)} has {int(strange.sum())} rows with a source that it cannot have"
    elif np.isin(log.source, [*cells.STANDS_IN]).any():
        other = cells.instead_differs(story, log)
        if other.any():
            yield (
                f"{_who(cell)} has {int(other.sum())} rows in which the reference policy stood in, and "
                "would have proposed something else"
            )


def other_code(header: dict[str, Any]) -> list[str]:
    """A sentence where results were made with other code than this, whose replay gives the same."""
    was, here = header.get("code_sha256"), bench_origin.code_sha256()
    if was == here:
        return []
    return [
        f"that it was made with code of the digest {str(was)[:12]}...: here it is {here[:12]}..., whose "
        "replay gives the same rows"
    ]


def unchecked(found: Results, *, again: bool = False) -> list[str]:
    """What `differences` takes as it stands, a sentence each; names come from the file."""
    header = found.header
    deciding = [cell for cell in found.cells if cell.about.decides]
    users = {cell.about.policy: cell.about for cell in deciding if _entrant(cell).is_own}
    said = ["times of decisions, the date, the commit, and versions of packages and of rapgym"]
    said += other_code(header)
    if not again and len(users) < len({cell.about.policy for cell in deciding}):
        said.append("that policies made these proposals, and validation costs (--again does)")
    if users:
        said.append(
            f"that {', '.join(users)} made these proposals, how it was run and its validation cost: its "
            "code is a user's"
        )
    if any(about.settings.get("watchdog") for about in users.values()):
        said.append("that the watchdog took decisions where it says so")
    if any(cell.about.fallback for cell in deciding):
        said.append(STOOD_IN)
    left_out = {**header.get("failed", {}), **header.get("below_bound", {})}
    if left_out:
        said.append(f"what was left out: {', '.join(left_out)}")
    return said


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
    for name in dict.fromkeys(entry.scenario for entry in again):
        group = [entry for entry in again if entry.scenario == name]
        bound = next(entry.cost for entry in group if entry.policy == cells.BOUND)
        least = min((entry.cost for entry in group if not entry.is_rival), default=bound)
        if bound > least + TOLERANCE:
            yield f"a policy on {name} costs {least}, less than the bound {bound}"
    if not same(found.header.get("rankings"), json.loads(json.dumps(rankings.rankings(found)))):
        yield "the rankings at other values of C are not what the rows give"
    if len(again) != len(found.scores):
        yield f"the file lists {len(found.scores)} scores, its rows give {len(again)}"
        return
    for old, new in zip(found.scores, again, strict=True):
        before = old.as_json()
        for name, value in new.as_json().items():
            if not same(before[name], value):
                yield (
                    f"score {name} of {old.policy} on {old.scenario}: {before[name]}, its rows give "
                    f"{value}"
                )
