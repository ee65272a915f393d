"""Run policies on the test splits of scenarios: logs on disk, resumable cell by cell."""

import hashlib
import importlib.metadata
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from rapgym import (
    cells,
    clone,
    datafiles,
    parallel,
    provenance,
    recorded,
    results,
    rivals,
    scenario,
)
from rapgym.errors import InvalidPolicy, InvalidResult, InvalidSpec
from rapgym.policies import registry, tuning
from rapgym.policies.policy import briefing
from rapgym.progress import Progress
from rapgym.results import Cell, Results
from rapgym.scenario import Recorded, Scenario

LONGEST_PLAIN = 80  # characters of a name in the name of a part's file


@dataclass(frozen=True, slots=True)
class Task:
    """One cell to run."""

    story: Scenario
    name: str
    run: Callable[[], Cell]


def tasks(stories: Sequence[Scenario], names: Sequence[str], seeds: Sequence[int]) -> list[Task]:
    """Every cell of a bench, the ends of both scales included.

    Args:
        names: of policies and of rivals.
        seeds: of policies that draw at random; one that learned is run with the seeds of all its
            training runs.
    """
    outside = {rival.name: rival for rival in rivals.RIVALS}
    wanted = [*dict.fromkeys([*names, cells.STATIC, cells.LOOKUP])]
    found = []
    for story in stories:
        for name in wanted:
            if name in outside:
                found.append(Task(story, name, partial(cells.rival_cell, story, outside[name])))
                continue
            entry = registry.entry(name)
            found += [
                Task(story, f"{name}.{seed}", partial(cells.policy_cell, story, entry, seed))
                for seed in seeds_of(entry, story, seeds)
            ]
        found.append(Task(story, cells.BOUND, partial(cells.bound_cell, story)))
        found.append(Task(story, cells.BEST_PLAN, partial(cells.plan_cell, story)))
    return found


def runnable(
    stories: Sequence[Scenario], asked: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Which policies and rivals are run, and which are left out.

    Args:
        asked: names that the user gives; all that can be run where None.

    Returns:
        Names; and, of methods that learn, those without a training run for any of the scenarios, as
        on the user's own traces, or where only the package was installed and not its repository.

    Raises:
        InvalidPolicy: one that is asked for has no training run for one of the scenarios.
    """
    if asked is None:
        every = [*(each.name for each in registry.POLICIES), *(each.name for each in rivals.RIVALS)]
        out = [
            entry.name
            for entry in registry.POLICIES
            if entry.train and not any(registry.trained_seeds(entry, story) for story in stories)
        ]
        return [name for name in every if name not in out], out
    outside = {rival.name for rival in rivals.RIVALS}
    for entry in [registry.entry(name) for name in asked if name not in outside]:
        for story in stories:
            if entry.train and not registry.trained_seeds(entry, story):
                registry.settings(entry, briefing(story), scenario.table(story).sha256)
    return list(asked), []


def seeds_of(entry: registry.Entry, story: Scenario, seeds: Sequence[int]) -> Sequence[int]:
    """With which seeds an entry is run: those of its training runs, where it learns.

    None on the user's own traces where it has not been trained on them. On ours a run that is missing
    is an error, which the cell raises.
    """
    if not entry.train:
        return seeds
    return registry.trained_seeds(entry, story) or ([] if story.is_own else [0])


def origin(stories: Sequence[Scenario], seeds: Sequence[int]) -> dict[str, Any]:
    """What a result depends on: two runs of one origin give the same rows."""
    own = [story for story in stories if story.is_own]
    return ({"traces": {story.id: trace_sha256(story) for story in own}} if own else {}) | {
        "rapgym": provenance.VERSION,
        "code_sha256": code_sha256(),
        "numpy": importlib.metadata.version("numpy"),
        "seeds": list(seeds),
        "scenarios": {story.id: scenario.described(story) for story in stories},
        "env_spec": {story.id: env_spec(story) for story in stories},
        "tables": {name: sha for story in stories for name, sha in rivals.tables(story).items()},
        "workloads": {
            story.workload: datafiles.sha256_of(scenario.workload_file(story)) for story in stories
        },
    }


def trace_sha256(story: Scenario) -> dict[str, str]:
    """The traces that a scenario on the user's own is made of, and their content: path -> sha256.

    Raises:
        DataUnavailable: one is not there.
    """
    names = [story.trace]
    if isinstance(story.tenant, Recorded):
        names.append(story.tenant.recording)
    return {name: recorded.sha256(name) for name in names}


@cache
def code_sha256() -> str:
    """Of every Python file, tuned setting and trained policy of the package: cells of other code are
    rerun.
    """
    tuned = clone.PACKAGE / "policies" / registry.TUNED_FILE
    runs = (clone.PACKAGE / "trained").rglob("*.npz")
    every = {*provenance.code_files(), tuned, *runs}
    return provenance.files_sha256(path for path in every if path.is_file())


def env_spec(story: Scenario) -> dict[str, Any]:
    """What `gym.make` takes to get the environment of a scenario's test split."""
    return {"id": "RAP-KeptSet-v0", "kwargs": {"scenario": story.name, "split": "test"}}


def surroundings() -> dict[str, Any]:
    """When and with what a result was made; two results may differ here and agree."""
    packages = ("gymnasium", "pandas")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": provenance.commit(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }


def tune_own(
    stories: Sequence[Scenario],
    names: Sequence[str],
    *,
    jobs: int | None = 1,
    ray: str | None = None,
    quiet: bool = False,
) -> None:
    """Tune what is asked for on the train part of each scenario on the user's own traces.

    Nothing is tuned on them beforehand, and settings of other workloads would not be theirs. What was
    found is kept on this machine.

    Raises:
        InvalidPolicy: a method finds no settings there.
    """
    outside = {rival.name for rival in rivals.RIVALS}
    wanted = dict.fromkeys([*names, cells.STATIC, cells.LOOKUP])
    entries = [registry.entry(name) for name in wanted if name not in outside]
    work = tuning.tasks(entries, [story for story in stories if story.is_own])
    if not work:
        return
    with Progress("tune", len(work), quiet=quiet) as progress:
        for found in tuning.tune(work, jobs=jobs, ray=ray):
            if found.fault:
                raise InvalidPolicy(f"{found.policy} on {found.scenario}: {found.fault}")
            progress.advance(note=found.policy)


def run(
    stories: Sequence[Scenario],
    names: Sequence[str],
    out: Path,
    *,
    seeds: Sequence[int] = (0,),
    jobs: int | None = 1,
    ray: str | None = None,
    summary: Callable[[Results], dict[str, Any]] = lambda found: {},
    quiet: bool = False,
) -> Results:
    """Run every cell that `out`'s folder of parts does not hold yet, then write `out`.

    A cell is kept as soon as it is done, so that a run that was killed goes on where it stopped.
    The parts are removed once the results file is complete.

    Args:
        jobs: processes that run cells side by side; None for one a processor.
        ray: where cells run on Ray instead, see `parallel.results`.
        summary: what the header shall hold beside the origin: scores, for instance.
    """
    origin_here = origin(stories, seeds)
    if out.is_dir():
        raise InvalidSpec(f"{out} is a folder; --out names a file")
    parts = out.with_name(f"{out.name}.parts")
    parts.mkdir(parents=True, exist_ok=True)  # says at once where nothing can be written
    tune_own(stories, names, jobs=jobs, ray=ray, quiet=quiet)
    work = tasks(stories, names, seeds)
    paths = [parts / f"{_plain(task.story.id)}.{_plain(task.name)}.csv.gz" for task in work]
    done: dict[int, Cell] = {}
    with Progress("bench", len(work), quiet=quiet) as progress:
        for i, (task, path) in enumerate(zip(work, paths, strict=True)):
            # What a user's own file holds now is not known to be what it held then.
            cell = None if ":" in task.name else _finished(path, origin_here)
            if cell is not None:
                done[i] = cell
                progress.advance(skipped=True)
        left = [i for i in range(len(work)) if i not in done]
        # The longest first, so that no process is left alone with one at the end.
        left.sort(key=lambda i: -len(scenario.workload(work[i].story)) * work[i].story.offsets)
        calls = [work[i].run for i in left]
        for place, cell in parallel.results(calls, jobs, ray=ray, same=code_sha256):
            i = left[place]
            results.write(paths[i], Results(origin_here, (cell,)))
            done[i] = cell
            progress.advance(note=f"{work[i].name} on {work[i].story.name}")
    header = {**origin_here, **surroundings(), "names": list(names)}
    found = Results(header, tuple(done[i] for i in range(len(work))))
    found = Results({**found.header, **summary(found)}, found.cells)
    results.write(out, found)
    shutil.rmtree(parts, ignore_errors=True)
    return found


def _plain(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9.-]", "-", name)
    if plain == name and len(plain) <= LONGEST_PLAIN:
        return plain
    # Two paths may differ in nothing but what is replaced, or be too long: a digest tells them apart.
    return f"{plain[:LONGEST_PLAIN]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _finished(path: Path, origin_here: dict[str, Any]) -> Cell | None:
    """The cell of a part, if it is whole and of the same origin; else it is run again."""
    try:
        part = results.read(path)
    except InvalidResult:
        return None
    return part.cells[0] if part.header == origin_here else None
