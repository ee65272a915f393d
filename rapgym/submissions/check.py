"""Whether a submission holds: rows replayed, scores computed anew, the policy run from what is packed."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from rapgym.bench import cells, entrants, results, scoreboard, verify
from rapgym.bench.cells import ADMISSION, BOUND, LOOKUP
from rapgym.bench.origin import env_spec
from rapgym.bench.records import About, Score
from rapgym.bench.results import Cell, Results
from rapgym.bench.run import LEAST_BELOW
from rapgym.errors import InvalidPolicy, InvalidResult
from rapgym.files.shown import shown
from rapgym.guard import foreign, landlock
from rapgym.guard.foreign import Isolation, Terms
from rapgym.guard.guard import refuses_misfit
from rapgym.jobs import parallel
from rapgym.policies import registry
from rapgym.policies.policy import briefing
from rapgym.policies.registry import SAVED, Entry
from rapgym.rivals import rivals
from rapgym.rollout import rollout
from rapgym.rollout.log import EpisodeLog
from rapgym.scenarios import catalogue
from rapgym.scenarios.story import Scenario
from rapgym.submissions import stored
from rapgym.submissions.header import Stand
from rapgym.submissions.stored import POLICY, ROWS
from rapgym.submissions.submission import Submission

# What its scores are measured by, made again from the package: no row of theirs is sent.
BESIDE = (LOOKUP, ADMISSION, BOUND)
# What a scenario and the kind of a policy imply of a cell.
_IMPLIED = ("scenario", "kind", "blocks", "ceiling", "calibration_passes", "calibration_tokens")
MOST_SEEDS = 1000


def differences(
    sent: Submission,
    *,
    again: bool = False,
    jobs: int = 1,
    trust: bool = False,
    hidden: Sequence[Path] = (),
) -> list[str]:
    """What does not hold in a submission, one sentence each; nothing where all of it does.

    Rows are replayed from their proposals. Only where they replay are scores computed anew, and only
    where these hold is the policy asked again.

    Args:
        again: run the policy from its packed files alone, in a process that cannot read rows and
            columns, and compare every decision. Takes about as long as its bench.
        jobs: processes for that.
        trust: its authors, where reading the policy's file runs what that says (sb3:FILE.zip).
        hidden: paths kept out of the policy's reach beside the package's data: the submission.

    Raises:
        InvalidResult: it was made with another table, workload or scenario than those here.
        InvalidPolicy: its policy cannot be run again.
    """
    for name in _mapping(sent.rows, "scenarios"):
        _check_shipped(name)
        verify.check_origin(sent.rows, name)
    with laid_out(sent) as folder:
        entry = _entry(sent, folder)
        found = [*_strange_cells(sent), *_strange_terms(sent)]
        found = found or [*_rows_that_differ(sent, entry)]
        found = found or [*_scores_that_differ(sent)]
        if again and not found:
            terms = Terms(folders=(str(folder),), reads=(str(folder),), trust=trust)
            found = [*_decided_differently(sent, entry, terms.hiding(hidden), jobs)]
    return found


def unchecked(sent: Submission, *, again: bool = False) -> list[str]:
    """What `differences` takes as it stands, a sentence each."""
    abouts = [cell.about for cell in sent.rows.cells]
    said = [
        "authors, link and licence; what training and calibration cost",
        "that the policy and its files were made from train rows and calibration columns alone: read them",
        "times of decisions, the date, the commit and versions of packages",
    ]
    said += verify.other_code(sent.rows.header)
    if not again:
        said.append("that the packed policy made these proposals (--again does)")
    if any(about.isolation == "open" for about in abouts):
        said.append(
            "that it could not read test data where it was benched: that system hides no files"
        )
    if any(about.fallback for about in abouts):
        said.append(verify.STOOD_IN)
    return said


def scores(sent: Submission) -> list[Score]:
    """What its rows give, a scenario each, beside those of `BESIDE` as they are here."""
    found = list[Score]()
    for name in _mapping(sent.rows, "scenarios"):
        story = catalogue.scenario(name)
        beside = _beside(story, tuple(sorted(rivals.tables(story).items())))
        listed = scoreboard.entries(Results({}, (*map(_unchosen, sent.rows.of(story.id)), *beside)))
        found += [each for each in listed if each.policy == sent.name]
    return found


@contextmanager
def laid_out(sent: Submission) -> Iterator[Path]:
    """The folder of the policy's files, as long as this lasts; rows do not lie beside it."""
    with tempfile.TemporaryDirectory(prefix="rapgym-") as folder:
        place = Path(folder).resolve()
        stored.unpacked(sent.files, place)
        yield place / POLICY


def _entry(sent: Submission, folder: Path) -> Entry:
    """What runs its policy; raises InvalidPolicy where a training run cannot be read."""
    header = sent.header
    if header.file is None:
        return registry.entry(header.policy)
    saved = SAVED if header.policy.startswith(SAVED) else ""
    return registry.entry(f"{saved}{folder / header.file}")


def _check_shipped(name: str) -> None:
    known = [story.id for story in catalogue.shipped()]
    if name not in known:
        raise InvalidResult(
            f"{name[:80]} is no scenario of rapgym's: an entry is of those of `rapgym scenarios list`"
        )


def _mapping(rows: Results, name: str) -> dict[str, Any]:
    found: dict[str, Any] = rows.header[name]  # `results` has checked that it is one
    return found


def _strange_cells(sent: Submission) -> Iterator[str]:
    """A cell of the policy for every scenario and seed that the rows' header names, and no other."""
    header, name = sent.rows.header, sent.name
    seeds = header.get("seeds")
    if (
        not isinstance(seeds, list)
        or not 1 <= len(seeds) <= MOST_SEEDS
        or any(type(seed) is not int or seed < 0 for seed in seeds)
    ):
        yield f"the header of {ROWS} names no seeds"
        return
    stories = {each: catalogue.scenario(each) for each in header["scenarios"]}
    if header.get("env_spec") != {each: env_spec(story) for each, story in stories.items()}:
        yield f"the header of {ROWS} names other environments than these scenarios have"
    wanted = {(each, name, seed) for each in stories for seed in seeds}
    present = [
        (cell.about.scenario, cell.about.policy, cell.about.seed) for cell in sent.rows.cells
    ]
    lost, more = wanted - {*present}, {*present} - wanted
    if lost or more or len(present) != len({*present}):
        told = [
            "; ".join(f"{policy}, seed {seed}, on {story}" for story, policy, seed in sorted(each))
            for each in (lost, more)
        ]
        yield (
            f"its cells are not those that its header names: {told[0] or 'none'} missing, "
            f"{told[1] or 'none'} added, {len(present) - len({*present})} doubled"
        )


def _strange_terms(sent: Submission) -> Iterator[str]:
    """Rows that were made on terms on which no entry is."""
    for cell in sent.rows.cells:
        about, who = cell.about, f"{cell.about.policy} on {cell.about.scenario}"
        if about.isolation is None and not sent.header.is_run:
            yield f"{who} does not say how it was run: bench it again"
        if about.isolation == "none":
            yield f"{who} ran where its rows were played (--in-process): bench it without"
        if "deadline_ms" in about.settings:
            yield f"{who} ran under a deadline, so a clock decided: bench it without --deadline-ms"
        if about.validation_cost is not None or about.validation_parts:
            yield f"{who} states a validation cost, which no entry has"


def _rows_that_differ(sent: Submission, entry: Entry) -> Iterator[str]:
    numbers = results.row_numbers(sent.rows.cells)
    for cell, places in zip(sent.rows.cells, numbers, strict=True):
        facts, implied = _facts(sent, entry, cell)
        yield from verify.described_differently(cell, facts, implied)
        yield from verify.cell_differences(cell, places, cells.replayed)


def _facts(sent: Submission, entry: Entry, cell: Cell) -> tuple[About, tuple[str, ...]]:
    """What describes such a cell here, and which fields must agree."""
    story = catalogue.scenario(cell.about.scenario)
    if entry.is_own:
        watched = {"watchdog": True} if cell.about.settings.get("watchdog") is True else {}
        facts = replace(cells.described(story, sent.name, entry.kind), settings=watched)
        return facts, (*_IMPLIED, "settings")
    facts = cells.policy_facts(story, entry, cell.about.seed)
    return replace(facts, settings=of_a_run(facts)), (*_IMPLIED, "settings", "on_misfit")


def of_a_run(about: About) -> dict[str, Any]:
    """The settings of a training run's cell, as a submission holds them: no path of anybody's."""
    return {"sha256": about.settings["sha256"]}


def _scores_that_differ(sent: Submission) -> Iterator[str]:
    now = scores(sent)
    for score in now:
        if score.behind_bound < -LEAST_BELOW:
            bound = score.cost - score.behind_bound
            yield (
                f"{score.policy} costs {score.cost:.6f} nats on {score.scenario}, less than the bound "
                f"{bound:.6f}, which nothing can"
            )
    here = {score.scenario: asdict(Stand.of(score)) for score in now}
    told = [each.scenario for each in sent.header.scores]
    if sorted(told) != sorted(here):
        yield f"its header scores {shown(', '.join(told)[:300])}, its rows are of {', '.join(here)}"
        return
    for stand in sent.header.scores:
        for name, value in asdict(stand).items():
            if not verify.same(value, here[stand.scenario][name]):
                yield (
                    f"score {name} of {sent.name} on {stand.scenario}: {value}, its rows give "
                    f"{here[stand.scenario][name]}"
                )


def _unchosen(cell: Cell) -> Cell:
    """A cell that is champion of nothing: an entry's verdict is of itself."""
    return replace(cell, about=replace(cell.about, validation_cost=None, validation_parts=()))


@lru_cache(maxsize=32)
def _beside(story: Scenario, of_tables: tuple[tuple[str, str], ...]) -> tuple[Cell, ...]:
    """The cells that a scenario's scores are measured by; tables are named to tell their rows apart."""
    return tuple(_unchosen(entrants.entrant(name).run(story, 0)) for name in BESIDE)


@dataclass(frozen=True, slots=True)
class _Asked:
    """One cell that its policy is to decide again."""

    story: Scenario
    entry: Entry
    seed: int
    terms: Terms

    def run(self) -> "_Decided":
        told = briefing(self.story)
        options = (
            self.entry.options
            if self.entry.is_own
            else registry.settings(self.entry, told, self.seed)
        )
        with foreign.made(self.entry, options, self.terms) as make:
            strict = refuses_misfit(make())
            log = rollout.run(
                make, self.story, "test", told, self.seed, guarding=self.terms.guarding
            )
            return _Decided(log, strict, make.isolation)


@dataclass(frozen=True, slots=True)
class _Decided:
    log: EpisodeLog
    refuses_misfit: bool
    isolation: Isolation


def _decided_differently(sent: Submission, entry: Entry, terms: Terms, jobs: int) -> Iterator[str]:
    """Where the packed policy, asked again on the same rows, decides otherwise.

    Raises:
        InvalidPolicy: this system cannot confine a stranger's code, so that none is run.
    """
    if entry.is_own and not landlock.version():
        raise InvalidPolicy(
            f"{sent.name} is not run: this system hides no files from a policy (it lacks Landlock), so "
            "that its decisions would prove nothing; take Linux 5.13 or newer (rapgym submit --quick "
            "packs without it)"
        )
    asked = [
        _Asked(
            catalogue.scenario(cell.about.scenario),
            entry,
            cell.about.seed,
            replace(terms, watchdog=cell.about.settings.get("watchdog") is True),
        )
        for cell in sent.rows.cells
    ]
    for place, now in parallel.results([each.run for each in asked], jobs):
        cell = sent.rows.cells[place]
        if now.refuses_misfit != cell.about.refuses_misfit:
            yield f"{sent.name} on {cell.about.scenario} meets a misfit otherwise than its rows say"
        if entry.is_own and now.isolation != "confined":
            yield (
                f"{sent.name} on {cell.about.scenario} could not be confined here (this system lacks "
                "seccomp or Landlock): check it on another"
            )
        yield from verify.decided_differently(cell, now.log)
