"""Run policies on the test splits of scenarios: logs on disk, resumable cell by cell."""

import hashlib
import json
import math
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rapgym.bench import entrants, results, scoreboard, suitability
from rapgym.bench.cells import BOUND
from rapgym.bench.entrants import Entrant, PolicyEntrant
from rapgym.bench.expected import Expected, Timed, prior_s
from rapgym.bench.origin import code_sha256, origin, surroundings
from rapgym.bench.results import Cell, Results
from rapgym.bench.users import UserEntrant
from rapgym.errors import InvalidPolicy, InvalidResult, InvalidSpec
from rapgym.files import writing
from rapgym.guard import foreign
from rapgym.guard.foreign import Terms
from rapgym.jobs import parallel
from rapgym.jobs.progress import Progress
from rapgym.policies import tuning
from rapgym.rollout.log import weighted_mean
from rapgym.scenarios import catalogue, worlds
from rapgym.scenarios.story import Scenario

if TYPE_CHECKING:
    import pandas

LONGEST_PLAIN = 80  # characters of a name in the name of a part's file
LEAST_BELOW = 1e-6  # nats below the bound that are no rounding


@dataclass(frozen=True, slots=True)
class Task:
    """One cell to run."""

    story: Scenario
    entrant: Entrant
    seed: int

    @property
    def name(self) -> str:
        return self.entrant.label(self.seed)

    @property
    def rows(self) -> int:
        """Rows of its scenario, in all pairings together."""
        return len(worlds.workload(self.story)) * self.story.offsets

    @property
    def expected_s(self) -> float:
        """Seconds that it takes by a measurement that is kept."""
        return prior_s(self.entrant.name, self.entrant.kind, self.rows)

    def run(self) -> Cell:
        return self.entrant.run(self.story, self.seed)

    def tried(self) -> "Cell | Failed":
        """Its cell; of a user's policy that fails, why: what others did is kept."""
        if not self.entrant.is_own:
            return self.run()
        try:
            return self.run()
        except InvalidPolicy as error:
            return Failed(f"{self.entrant.name} on {self.story.id}: {error}")


@dataclass(frozen=True, slots=True)
class Failed:
    """A user's policy that left no cell."""

    fault: str


def tasks(
    stories: Sequence[Scenario],
    names: Sequence[str],
    seeds: Sequence[int],
    terms: Terms | None = None,
) -> list[Task]:
    """Every cell of a bench, what stands beside all that is asked for included.

    Args:
        names: of policies and of rivals.
        seeds: of policies that draw at random; one that learned is run with the seeds of all its
            training runs.
        terms: on which users' policies are run.
    """
    wanted = entrants.entrants(names, terms)
    return [
        Task(story, entrant, seed)
        for story in stories
        for entrant in wanted
        for seed in entrant.seeds(story, seeds)
    ]


def longest_first(work: Sequence[Task]) -> list[int]:
    """The order in which cells begin: so no process is left alone with a long one at the end."""
    return sorted(range(len(work)), key=lambda i: -work[i].rows)


def runnable(
    stories: Sequence[Scenario], asked: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Which policies and rivals are run, and which are left out.

    Args:
        asked: names that the user gives; all that can be run where None.

    Returns:
        Names; and, of methods that learn, those without a training run, with the scenarios where they have
        none unless these are all: as on the user's own traces, or where only the package was installed and
        not its repository.

    Raises:
        InvalidPolicy: one that is asked for has no training run for one of the scenarios.
    """
    if asked is None:
        names, out = list[str](), list[str]()
        for each in entrants.every():
            missing = [story.name for story in stories if not each.is_ready(story)]
            if len(missing) < len(stories):
                names.append(each.name)
            if missing and entrants.learns(each):
                everywhere = len(missing) == len(stories)
                out.append(each.name if everywhere else f"{each.name} ({', '.join(missing)})")
        return names, out
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
    efforts = tuning.efforts(work)
    with Progress("tune", sum(efforts.values()), quiet=quiet) as progress:
        for found in tuning.tune(work, jobs=jobs, ray=ray):
            if found.fault:
                raise InvalidPolicy(f"{found.policy} on {found.scenario}: {found.fault}")
            progress.advance(efforts[found.policy, found.scenario], note=found.policy)


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
    terms: Terms | None = None,
) -> Results:
    """Run every cell that `out`'s folder of parts does not hold yet, then write `out`.

    A cell is kept as soon as it is done, so that a run that was killed goes on where it stopped.
    The parts are removed once the results file is complete. A user's policy that fails, and whatever
    costs less than the bound, is left out of it: `check` says so.

    Args:
        terms: on which users' policies are run; each in a process of its own unless stated.
        jobs: processes that run cells side by side; None for one a processor.
        ray: where cells run on Ray instead, see `parallel.results`.
        summary: adds what follows from the rows: `scoreboard.summed_up` adds scores and rankings.

    Raises:
        InvalidPolicy: a user's policy cannot be loaded or built, which is found before all else.
        InvalidSpec: a scenario is too easy or too hard, which is found before anything is run.
        InvalidResult: one of those that everything is measured by costs less than the bound.
    """
    if out.is_dir():
        raise InvalidSpec(f"{out} is a folder; --out names a file")
    parts = out.with_name(f"{out.name}.parts")
    terms = (terms or Terms()).hiding([out, parts], *stories)
    for entrant in entrants.entrants(names, terms):
        if isinstance(entrant, UserEntrant):
            foreign.check(entrant.entry, terms)
    suitability.check_all(stories, jobs=jobs, ray=ray, quiet=quiet)
    origin_here = origin(stories, seeds)
    writing.made(parts)  # says at once where nothing can be written
    writing.clean(out)
    tune_own(stories, names, jobs=jobs, ray=ray, quiet=quiet)
    work = tasks(stories, names, seeds, terms)
    paths = [parts / f"{part_name(task.story.id)}.{part_name(task.name)}.csv.gz" for task in work]
    done, failed = dict[int, Cell](), dict[str, str]()
    # By what cells are known to take: they differ a hundredfold.
    weights = [task.expected_s for task in work]
    with Progress("bench", sum(weights), quiet=quiet) as progress:
        for i, (task, path) in enumerate(zip(work, paths, strict=True)):
            kept = _finished(path, origin_here, task)
            if kept is not None:
                done[i] = kept
                progress.advance(weights[i], skipped=True)
        if done and not quiet:
            print(
                f"goes on with {len(done)} cells that a stopped run left in {parts}",
                file=sys.stderr,
            )
        left = [i for i in longest_first(work) if i not in done]
        calls = [Timed(work[i].tried) for i in left]
        at_a_time = parallel.at_a_time(jobs, len(calls)) if ray is None else None
        expected = Expected([(work[i].entrant.name, weights[i]) for i in left], at_a_time)
        begun_s = time.monotonic()
        for place, (cell, spent) in parallel.results(calls, jobs, ray=ray, same=code_sha256):
            i = left[place]
            expected.ended(place, spent.seconds, time.monotonic() - begun_s, spent.compiling_s)
            if isinstance(cell, Failed):
                failed.setdefault(work[i].entrant.name, cell.fault)
            else:
                basis = _basis(work[i])
                part = Results({**origin_here, "basis": basis}, (cell,))
                results.write(paths[i], part, level=1)  # it is soon removed
                done[i] = cell
            progress.advance(
                weights[i],
                note=f"{work[i].name} on {work[i].story.name}",
                left_s=expected.left_s,
            )
    below = _below_bound([*done.values()])
    out_of_it = failed.keys() | below.keys()
    if ends := out_of_it & {*entrants.ALWAYS}:
        raise InvalidResult("; ".join(below[name] for name in sorted(ends)))
    header = {**origin_here, **surroundings(), "names": [n for n in names if n not in out_of_it]}
    header |= {"failed": failed} if failed else {}
    header |= {"below_bound": below} if below else {}
    cells = (done[i] for i, task in enumerate(work) if task.entrant.name not in out_of_it)
    found = summary(Results(header, tuple(cells)))
    results.write(out, found)
    shutil.rmtree(parts, ignore_errors=True)
    return found


def check(found: Results) -> None:
    """Raise where `run` had to leave out what was asked for; what it kept is written.

    Raises:
        InvalidResult: a policy cost less than the bound, which nothing can.
        InvalidPolicy: a user's policy failed.
    """
    below, failed = (found.header.get(name, {}) for name in ("below_bound", "failed"))
    said = [*below.values(), *failed.values()]
    if not said:
        return
    kind = InvalidResult if below else InvalidPolicy
    raise kind(f"{'; '.join(said)}; it is left out of the results, those of all others are kept")


def _below_bound(done: Sequence[Cell]) -> dict[str, str]:
    """Of each policy that costs less than a bound: in a sentence, how much less and where."""
    cost = {
        (cell.about.scenario, cell.about.policy, cell.about.seed): weighted_mean(
            cell.test_cost, cell.log.output_tokens
        )
        for cell in done
        if not cell.about.is_rival
    }
    below = dict[str, str]()
    for (scenario, name, _), paid in cost.items():
        bound = cost.get((scenario, BOUND, 0), -math.inf)
        if paid < bound - LEAST_BELOW:
            below.setdefault(
                name,
                f"{name} costs {paid:.6f} nats on {scenario}, less than the bound {bound:.6f}, which "
                "nothing can: its rows are not those of this world",
            )
    return below


def run_bench(
    out: Path | str,
    *,
    scenarios: Sequence[str] | None = None,
    policies: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    jobs: int = 1,
    quiet: bool = False,
    in_process: bool = False,
    deadline_ms: float | None = None,
    watchdog: bool = False,
    policy_reads: Sequence[Path | str] = (),
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
        in_process: run your policies where their rows are played; every output says so. Otherwise
            each runs in a process of its own that cannot read rows, columns and results.
        deadline_ms: what your policy answers later is replaced by the reference policy's proposal.
        watchdog: take decisions from your policy where it costs more than the reference would.
        policy_reads: files and folders beside its modules that your policy may read: its weights.

    Returns:
        A frame, one row a policy and scenario, with the columns that `rapgym bench --json` prints:
        among them `scenario`, `policy`, `kind`, `cost` (nats an output token above dense) with its
        terms `quality`, `stall`, `emergency` and `refused`, `decision_us_p50` and
        `decision_us_p99` (microseconds a decision).

    Raises:
        InvalidSpec: there is no such scenario, or `out` is there already.
        InvalidPolicy: there is no such policy, it is not tuned or trained for a scenario, or yours
            fails; the results of the others are in `out` then.
        InvalidResult: yours costs less than the bound, likewise.

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
    terms = Terms(in_process, deadline_ms, watchdog, reads=tuple(map(str, policy_reads)))
    found = run(
        stories,
        names,
        path,
        seeds=seeds,
        jobs=jobs,
        summary=scoreboard.summed_up,
        quiet=quiet,
        terms=terms,
    )
    check(found)
    return pandas.DataFrame([score.as_json() for score in found.scores])


def part_name(name: str) -> str:
    """A scenario's or a policy's name as the file of a part bears it."""
    plain = re.sub(r"[^A-Za-z0-9.-]", "-", name)
    if plain == name and len(plain) <= LONGEST_PLAIN:
        return plain
    # Two paths may differ in nothing but what is replaced, or be too long: a digest tells them apart.
    return f"{plain[:LONGEST_PLAIN]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _finished(path: Path, origin_here: dict[str, Any], task: Task) -> Cell | None:
    """The cell of a part, if it is whole and of the same origin and policy; else it is run again."""
    try:
        part = results.read(path)
    except InvalidResult:
        return None
    return part.cells[0] if part.header == {**origin_here, "basis": _basis(task)} else None


def _basis(task: Task) -> Any:
    """What a task's policy is made of, as JSON gives it back."""
    return json.loads(json.dumps(task.entrant.basis(task.story, task.seed)))
