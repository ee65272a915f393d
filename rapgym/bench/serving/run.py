"""Run serving policies on the test splits of scenarios: cells kept as they are done, then one file."""

import importlib.metadata
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rapgym.bench import origin
from rapgym.bench.run import Failed, part_name
from rapgym.bench.serving import entrants, results, score
from rapgym.bench.serving.cells import LOOKUP, ServeCell
from rapgym.bench.serving.entrants import ServeEntrant, ServeUser
from rapgym.bench.serving.records import ServeAbout, ServeScore
from rapgym.bench.serving.results import ServeResults
from rapgym.errors import InvalidPolicy, InvalidResult, InvalidSpec
from rapgym.files import checked, provenance, writing
from rapgym.guard import foreign
from rapgym.guard.foreign import Terms
from rapgym.jobs import parallel
from rapgym.jobs.progress import Progress
from rapgym.scenarios import serving, serving_worlds, tables
from rapgym.scenarios.serving import ServeScenario
from rapgym.serving.world import traffic_sha256


@dataclass(frozen=True, slots=True)
class Task:
    """One cell to run."""

    story: ServeScenario
    entrant: ServeEntrant
    seed: int
    searches: bool

    @property
    def name(self) -> str:
        return f"{self.entrant.name}.{self.seed}"

    def tried(self, lookup: ServeAbout | None) -> "ServeCell | Failed":
        """Its cell; of a user's policy that fails, why: what others did is kept."""
        try:
            return self.entrant.run(self.story, self.seed, lookup, searches=self.searches)
        except InvalidPolicy as error:
            if not self.entrant.is_own:
                raise
            return Failed(f"{self.entrant.name} on {self.story.id}: {error}")


@dataclass(frozen=True, slots=True)
class Call:
    """A task with its reference, as another process gets it."""

    task: Task
    lookup: ServeAbout | None

    def __call__(self) -> "ServeCell | Failed":
        return self.task.tried(self.lookup)


def tasks(
    stories: Sequence[ServeScenario],
    names: Sequence[str],
    seeds: Sequence[int],
    terms: Terms | None = None,
    *,
    searches: bool = True,
) -> list[Task]:
    """Every cell of a bench, what is always run included."""
    wanted = entrants.entrants(names, terms, searches=searches)
    return [
        Task(story, entrant, seed, searches)
        for story in stories
        for entrant in wanted
        for seed in entrant.seeds(seeds)
    ]


def origin_of(
    stories: Sequence[ServeScenario], seeds: Sequence[int], *, searches: bool
) -> dict[str, Any]:
    """What a result depends on: two runs of one origin give the same rows."""
    return {
        "rapgym": provenance.VERSION,
        "code_sha256": origin.code_sha256(),
        "numpy": importlib.metadata.version("numpy"),
        "numba": importlib.metadata.version("numba"),
        "seeds": list(seeds),
        "searches": searches,
        "scenarios": {story.id: described(story) for story in stories},
        "env_spec": {story.id: env_spec(story) for story in stories},
        "tables": {story.base.table: tables.table(story.base).sha256 for story in stories},
        "traffic": {story.id: traffic(story) for story in stories},
        "profiles": {story.id: profile_sha256(story) for story in stories},
    }


def described(story: ServeScenario) -> dict[str, Any]:
    """A scenario as JSON gives it back."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(story)))
    return found


def env_spec(story: ServeScenario) -> dict[str, Any]:
    """What `gym.make` takes to get the environment of a scenario's test split."""
    return {"id": "RAP-Serve-v0", "kwargs": {"scenario": story.name, "split": "test"}}


def traffic(story: ServeScenario) -> str:
    """Of the requests and limits of the test split."""
    return traffic_sha256(serving_worlds.scoring_world(story))


def profile_sha256(story: ServeScenario) -> str:
    """Of the file of its serving profile; empty where the scenario states the numbers itself."""
    if isinstance(story.profile, str):
        return checked.sha256_of(serving.profile_path(story.profile))
    return ""


def run(
    stories: Sequence[ServeScenario],
    names: Sequence[str] | None,
    out: Path,
    *,
    seeds: Sequence[int] = (0,),
    jobs: int | None = 1,
    ray: str | None = None,
    quiet: bool = False,
    terms: Terms | None = None,
    searches: bool = True,
) -> ServeResults:
    """Run every cell that `out`'s folder of parts does not hold yet, then write `out`.

    A cell is kept as soon as it is done, so that a run that was killed goes on where it stopped. A user's
    policy that fails is left out: `check` says so.

    Args:
        names: of rules, and `module:Class`; all rules where None.
        seeds: of users' policies; the package's own draw nothing at random.
        terms: on which users' policies are run; each in a process of its own unless stated.
        searches: let searches that know the future plan stretches: without them there is no gain.

    Raises:
        InvalidPolicy: there is no such policy, or a user's cannot be loaded.
        DataUnavailable: a raw trace is not on this machine.
    """
    if out.is_dir():
        raise InvalidSpec(f"{out} is a folder; --out names a file")
    asked = entrants.rules() if names is None else list(names)
    parts = out.with_name(f"{out.name}.parts")
    terms = (terms or Terms()).hiding([out, parts], *(story.base for story in stories))
    for entrant in entrants.entrants(asked, terms, searches=False):
        if isinstance(entrant, ServeUser):
            foreign.check(entrant.entry, terms, "serving")
    here = origin_of(stories, seeds, searches=searches)
    writing.made(parts)
    writing.clean(out)
    work = tasks(stories, asked, seeds, terms, searches=searches)
    bench = _Bench(work, parts, here, quiet=quiet)
    # The lookup first: where a user's policy does not decide, it does.
    bench.run([i for i, task in enumerate(work) if not task.entrant.is_own], jobs, ray)
    bench.run([i for i, task in enumerate(work) if task.entrant.is_own], jobs, ray)
    header = {**here, **origin.surroundings(), "names": [n for n in asked if n not in bench.failed]}
    header |= {"failed": bench.failed} if bench.failed else {}
    kept = tuple(
        bench.done[i] for i, task in enumerate(work) if task.entrant.name not in bench.failed
    )
    found = ServeResults(header, kept)
    found = ServeResults(header, kept, scored(stories, found))
    results.write(out, found)
    shutil.rmtree(parts, ignore_errors=True)
    return found


def scored(stories: Sequence[ServeScenario], found: ServeResults) -> tuple[ServeScore, ...]:
    """The entries that the rows of some results give, scenario by scenario."""
    return tuple(entry for story in stories for entry in score.scores(story, found.of(story.id)))


def check(found: ServeResults) -> None:
    """Raise where `run` had to leave out what was asked for; what it kept is written.

    Raises:
        InvalidPolicy: a user's policy failed.
    """
    if failed := found.header.get("failed", {}):
        raise InvalidPolicy(
            f"{'; '.join(failed.values())}; it is left out of the results, those of all others are kept"
        )


class _Bench:
    """Cells on their way: what is kept from a stopped run, and what is done now."""

    def __init__(
        self, work: Sequence[Task], parts: Path, here: dict[str, Any], *, quiet: bool
    ) -> None:
        self._work, self._here, self._quiet = work, here, quiet
        self._paths = [
            parts / f"{part_name(task.story.id)}.{part_name(task.name)}.csv.gz" for task in work
        ]
        self.failed: dict[str, str] = {}
        self.done = {
            i: cell
            for i, path in enumerate(self._paths)
            if (cell := self._kept(path, work[i])) is not None
        }
        if self.done and not quiet:
            said = f"goes on with {len(self.done)} cells that a stopped run left in {parts}"
            print(said, file=sys.stderr)

    def run(self, which: Sequence[int], jobs: int | None, ray: str | None) -> None:
        """Run those of these tasks that are not done."""
        left = [i for i in which if i not in self.done]
        if not left:
            return
        calls = [Call(self._work[i], self._lookup(self._work[i])) for i in left]
        with Progress("bench", len(left), quiet=self._quiet) as progress:
            for place, cell in parallel.results(calls, jobs, ray=ray, same=origin.code_sha256):
                i = left[place]
                task = self._work[i]
                if isinstance(cell, Failed):
                    self.failed.setdefault(task.entrant.name, cell.fault)
                else:
                    basis = {**self._here, "basis": task.entrant.basis()}
                    results.write(self._paths[i], ServeResults(basis, (cell,)))
                    self.done[i] = cell
                progress.advance(note=f"{task.entrant.name} on {task.story.name}")

    def _lookup(self, task: Task) -> ServeAbout | None:
        """What describes the reference of a user's policy: it is done by then."""
        if not task.entrant.is_own:
            return None
        abouts = (cell.about for cell in self.done.values())
        return next(a for a in abouts if (a.scenario, a.policy) == (task.story.id, LOOKUP))

    def _kept(self, path: Path, task: Task) -> ServeCell | None:
        """The cell of a part, if it is whole and of the same origin and policy; else it is run again."""
        try:
            part = results.read(path)
        except InvalidResult:
            return None
        basis = json.loads(json.dumps({**self._here, "basis": task.entrant.basis()}))
        return part.cells[0] if part.header == basis else None
