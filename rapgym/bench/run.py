"""Run policies on the test splits of scenarios: logs on disk, resumable cell by cell."""

import hashlib
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rapgym.bench import entrants, results, scoreboard, suitability
from rapgym.bench.entrants import Entrant, PolicyEntrant
from rapgym.bench.origin import code_sha256, origin, surroundings
from rapgym.bench.results import Cell, Results
from rapgym.errors import InvalidPolicy, InvalidResult, InvalidSpec
from rapgym.files import writing
from rapgym.jobs import parallel
from rapgym.jobs.progress import Progress
from rapgym.policies import tuning
from rapgym.scenarios import catalogue, worlds
from rapgym.scenarios.story import Scenario

if TYPE_CHECKING:
    import pandas

LONGEST_PLAIN = 80  # characters of a name in the name of a part's file


@dataclass(frozen=True, slots=True)
class Task:
    """One cell to run."""

    story: Scenario
    entrant: Entrant
    seed: int

    @property
    def name(self) -> str:
        return self.entrant.label(self.seed)

    def run(self) -> Cell:
        return self.entrant.run(self.story, self.seed)


def tasks(stories: Sequence[Scenario], names: Sequence[str], seeds: Sequence[int]) -> list[Task]:
    """Every cell of a bench, what stands beside all that is asked for included.

    Args:
        names: of policies and of rivals.
        seeds: of policies that draw at random; one that learned is run with the seeds of all its
            training runs.
    """
    wanted = entrants.entrants(names)
    return [
        Task(story, entrant, seed)
        for story in stories
        for entrant in wanted
        for seed in entrant.seeds(story, seeds)
    ]


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
        every = entrants.every()
        out = [each.name for each in every if not any(map(each.is_ready, stories))]
        return [each.name for each in every if each.name not in out], out
    for each in map(entrants.entrant, asked):
        for story in stories:
            if not each.is_ready(story):
                each.facts(story, 0)  # which says what to do
    return list(asked), []


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
    wanted = entrants.entrants(names)
    methods = [each.entry for each in wanted if isinstance(each, PolicyEntrant)]
    work = tuning.tasks(methods, [story for story in stories if story.is_own])
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
    summary: Callable[[Results], Results] = lambda found: found,
    quiet: bool = False,
) -> Results:
    """Run every cell that `out`'s folder of parts does not hold yet, then write `out`.

    A cell is kept as soon as it is done, so that a run that was killed goes on where it stopped.
    The parts are removed once the results file is complete.

    Args:
        jobs: processes that run cells side by side; None for one a processor.
        ray: where cells run on Ray instead, see `parallel.results`.
        summary: adds what follows from the rows: `scoreboard.summed_up` adds scores and rankings.

    Raises:
        InvalidSpec: a scenario is too easy or too hard, which is found before anything is run.
    """
    if out.is_dir():
        raise InvalidSpec(f"{out} is a folder; --out names a file")
    suitability.check_all(stories, jobs=jobs, ray=ray, quiet=quiet)
    origin_here = origin(stories, seeds)
    parts = out.with_name(f"{out.name}.parts")
    writing.made(parts)  # says at once where nothing can be written
    writing.clean(out)
    tune_own(stories, names, jobs=jobs, ray=ray, quiet=quiet)
    work = tasks(stories, names, seeds)
    paths = [parts / f"{_plain(task.story.id)}.{_plain(task.name)}.csv.gz" for task in work]
    done: dict[int, Cell] = {}
    with Progress("bench", len(work), quiet=quiet) as progress:
        for i, (task, path) in enumerate(zip(work, paths, strict=True)):
            # What a user's own file holds now is not known to be what it held then.
            cell = None if task.entrant.is_own else _finished(path, origin_here)
            if cell is not None:
                done[i] = cell
                progress.advance(skipped=True)
        if done and not quiet:
            print(
                f"goes on with {len(done)} cells that a stopped run left in {parts}",
                file=sys.stderr,
            )
        left = [i for i in range(len(work)) if i not in done]
        # The longest first, so that no process is left alone with one at the end.
        left.sort(key=lambda i: -len(worlds.workload(work[i].story)) * work[i].story.offsets)
        calls = [work[i].run for i in left]
        for place, cell in parallel.results(calls, jobs, ray=ray, same=code_sha256):
            i = left[place]
            results.write(paths[i], Results(origin_here, (cell,)))
            done[i] = cell
            progress.advance(note=f"{work[i].name} on {work[i].story.name}")
    header = {**origin_here, **surroundings(), "names": list(names)}
    found = summary(Results(header, tuple(done[i] for i in range(len(work)))))
    results.write(out, found)
    shutil.rmtree(parts, ignore_errors=True)
    return found


def run_bench(
    out: Path | str,
    *,
    scenarios: Sequence[str] | None = None,
    policies: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    jobs: int = 1,
    quiet: bool = False,
) -> "pandas.DataFrame":
    """Run policies on the test splits of scenarios and score them, as `rapgym bench` does.

    Args:
        out: the results file to write, such as "bench.csv.gz" or "bench.csv.xz". A run that was
            stopped goes on where it stopped.
        scenarios: names; all of `list_scenarios()` but those that are drawn where None.
        policies: names of policies and rivals (`rapgym policies list`), or "module:Class" for yours;
            everything that can be run where None. Between some of them scores are
            measured, so these are run anyway: the lookup, partial admission, everything and the best
            static set under the shield, the best plan and the bound.
        seeds: of policies that draw at random.
        jobs: processes side by side.
        quiet: no progress line.

    Returns:
        A frame, one row a policy and scenario, with the columns that `rapgym bench --json` prints:
        among them `scenario`, `policy`, `kind`, `cost` (nats an output token above dense) with its
        terms `quality`, `stall`, `emergency` and `refused`, `decision_us_p50` and
        `decision_us_p99` (microseconds a decision).

    Raises:
        InvalidSpec: there is no such scenario, or `out` is there already.
        InvalidPolicy: there is no such policy, or it is not tuned or trained for a scenario.

    Example:
        >>> scores = rapgym.run_bench(out, scenarios=["laptop"], policies=["gsi"], quiet=True)
        >>> sorted(scores.policy)
        ['best-plan', 'bound', 'frontier', 'gsi', 'keep-all', 'partial-admission', 'static-best-repaired']
    """
    import pandas

    path = Path(out)
    if path.exists():
        raise InvalidSpec(f"{path} is there already; name another file, or remove it first")
    if scenarios is None:
        stories = list(catalogue.by_default())
    else:
        stories = [catalogue.scenario(name) for name in scenarios]
    names, _ = runnable(stories, policies)
    found = run(
        stories, names, path, seeds=seeds, jobs=jobs, summary=scoreboard.summed_up, quiet=quiet
    )
    return pandas.DataFrame([score.as_json() for score in found.scores])


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
