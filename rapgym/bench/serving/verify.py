"""Run a results file of the serving world again: every second replayed, every score computed anew."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from rapgym.bench import verify as windows
from rapgym.bench.records import ORACLE
from rapgym.bench.results import DECIMALS
from rapgym.bench.serving import cells, entrants, results
from rapgym.bench.serving import run as bench_run
from rapgym.bench.serving.cells import LOOKUP, ServeCell
from rapgym.bench.serving.entrants import SearchEntrant
from rapgym.bench.serving.records import ServeAbout
from rapgym.bench.serving.results import ServeResults
from rapgym.errors import InvalidResult, InvalidSpec
from rapgym.guard.serving import SOURCES, highest
from rapgym.jobs import parallel
from rapgym.rollout.serving import Served
from rapgym.scenarios import serving, serving_worlds, tables
from rapgym.scenarios.serving import ServeScenario
from rapgym.serving import batch, latency
from rapgym.world.shield import Reason

LAST_DIGIT = 10.0**-DECIMALS


def differences(found: ServeResults, *, again: bool = False, jobs: int = 1) -> Iterator[str]:
    """What does not hold in a results file of the serving world, one sentence each.

    Seconds are served again under their decisions, and what they come to, cost, tokens, preemptions and
    sheds among it, is compared to the last digit that is stored. `unchecked` says what is taken as it is.

    Args:
        again: tune every rule, let it decide, and let searches plan again: takes as long as the bench.
        jobs: processes for that.

    Raises:
        InvalidResult: it was made with another scenario, table, traffic or profile than those here.
        DataUnavailable: a raw trace is not on this machine.
    """
    stories = stories_of(found)
    for story in stories:
        _check_origin(found, story)
    by_id = {story.id: story for story in stories}
    missing = list(_missing_cells(found, stories)) or list(_misplaced(found, by_id))
    yield from missing
    if missing:
        return  # what is not there cannot be compared with
    for cell in found.cells:
        yield from _cell_differences(found, cell, by_id[cell.about.scenario])
    if again:
        yield from _decided_differently(found, by_id, jobs)
    recorded = [score.as_json() for score in found.scores]
    here = [score.as_json() for score in bench_run.scored(stories, found)]
    yield from _score_differences(recorded, here)


def stories_of(found: ServeResults) -> list[ServeScenario]:
    """The scenarios that a header names, as they are here.

    Raises:
        InvalidResult: one is not here, or the header names none.
    """
    told = found.header.get("scenarios")
    if not isinstance(told, dict) or not told:
        raise InvalidResult("its header does not say what was run")
    stories = []
    for name in told:
        try:
            story = serving.story_of(name)
        except InvalidSpec as error:
            raise InvalidResult(f"{name} is no serving scenario here: {error}") from error
        if story.id != name:
            raise InvalidResult(f"{name} is {story.id} here: the results cannot be replayed")
        stories.append(story)
    return stories


def _check_origin(found: ServeResults, story: ServeScenario) -> None:
    """Raises InvalidResult where something that decides over rows is another here."""
    header = found.header
    here = {
        "scenario": (header["scenarios"].get(story.id), bench_run.described(story)),
        "quality table": (
            _entry(header, "tables", story.base.table), tables.table(story.base).sha256,
        ),
        "traffic": (_entry(header, "traffic", story.id), bench_run.traffic(story)),
        "serving profile": (_entry(header, "profiles", story.id), bench_run.profile_sha256(story)),
    }  # fmt: skip
    for what, (recorded, present) in here.items():
        if recorded != present:
            raise InvalidResult(
                f"the results were made with another {what} of {story.id} than that here: they cannot be "
                "replayed"
            )


def _entry(header: dict[str, Any], part: str, name: str) -> Any:
    found = header.get(part)
    return found.get(name) if isinstance(found, dict) else None


def _missing_cells(found: ServeResults, stories: Sequence[ServeScenario]) -> Iterator[str]:
    """A cell for everything that the header says was run, once, and no other."""
    header = found.header
    told: list[Any] = [header.get(name) for name in ("names", "seeds", "searches")]
    names, seeds, searches = told
    if not (_all(names, str) and _all(seeds, int) and type(searches) is bool):
        yield "its header does not say which policies were run, with which seeds"
        return
    wanted = [
        (task.story.id, task.entrant.name, task.seed)
        for task in bench_run.tasks(stories, names, seeds, searches=searches)
    ]
    present = [(cell.about.scenario, cell.about.policy, cell.about.seed) for cell in found.cells]
    if sorted(wanted) != sorted(present):
        lost, more = (
            ", ".join(f"{name}, seed {seed}, on {story}" for story, name, seed in sorted(each))
            for each in ({*wanted} - {*present}, {*present} - {*wanted})
        )
        yield (
            f"its cells are not those that its header names: {lost or 'none'} missing, {more or 'none'} "
            f"added, {len(present) - len({*present})} doubled"
        )
    specs = {story.id: bench_run.env_spec(story) for story in stories}
    if header.get("env_spec") != json.loads(json.dumps(specs)):
        yield "its header names other environments than these scenarios have"


def _all(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def _misplaced(found: ServeResults, stories: dict[str, ServeScenario]) -> Iterator[str]:
    """Cells that served other parts than those of the split."""
    for cell in found.cells:
        story = stories[cell.about.scenario]
        told = [None if each is None else list(each.parts) for each in (cell.whole, cell.stretches)]
        wanted: list[Any] = [*cells.parts_of(story, searches=found.header["searches"]), None][:2]
        if entrants.entrant(cell.about.policy).kind == ORACLE:
            wanted[0] = None
        if told != wanted:
            yield (
                f"{cell.about.policy} on {cell.about.scenario} served other parts than those of the split"
            )


def _cell_differences(found: ServeResults, cell: ServeCell, story: ServeScenario) -> Iterator[str]:
    who = f"{cell.about.policy} on {cell.about.scenario}"
    strange = list(_strange(cell, story, who))
    if strange:
        yield from strange
        return
    lookup = next(
        each.about for each in found.cells
        if (each.about.scenario, each.about.policy) == (story.id, LOOKUP)
    )  # fmt: skip
    try:
        now = cells.played_again(story, cell)
        stood_in = cells.instead_differs(story, cell, lookup)
    except (TypeError, ValueError) as error:
        yield f"{who} has settings with which it cannot be served: {error}"
        return
    if stood_in:
        yield (
            f"{who} has {stood_in} seconds that the lookup is said to have decided, and would have "
            "decided otherwise"
        )
    yield from _described_differently(cell.about, now.about, who)
    for recorded, here in zip(cell.served, now.served, strict=True):
        yield from _rows_differ(recorded, here, who)
        yield from _waits_differ(recorded, here, who)


def _strange(cell: ServeCell, story: ServeScenario, who: str) -> Iterator[str]:
    """Decisions that no policy can make here, and sources that this one cannot have."""
    most = highest(serving_worlds.scoring_world(story))
    if any((course.decisions > most).any() for course in cell.courses):
        yield f"{who} drops more blocks than may be dropped, or has a standing order that there is not"
    known = {int(Reason.POLICY)}
    if entrants.entrant(cell.about.policy).is_own:
        known = {int(each) for each in SOURCES}
        if cell.about.settings.get("watchdog") is not True:
            known -= {int(Reason.WATCHDOG)}
    if any((~np.isin(course.source, [*known])).any() for course in cell.courses):
        yield f"{who} has seconds with a source that it cannot have"


def _described_differently(about: ServeAbout, now: ServeAbout, who: str) -> Iterator[str]:
    entrant = entrants.entrant(about.policy)
    implied: dict[str, tuple[Any, Any]] = {"kind": (about.kind, entrant.kind)}
    if isinstance(entrant, SearchEntrant):
        implied["settings"] = (dict(about.settings), asdict(entrant.search))
    for name in ("fallback", "watchdog"):
        implied[name] = (getattr(about, name), getattr(now, name))
    for name, (recorded, here) in implied.items():
        if not windows.same(recorded, json.loads(json.dumps(here))):
            yield f"{name} of {who} is {recorded}, but here {here}"
    if about.fault is not None and not about.fallback:
        yield f"{who} names a fault, but all its answers could be used"
    if (entrant.kind == ORACLE or entrant.is_own) and about.train_cost is not None:
        yield f"{who} names a cost on train, which it has not"


def _rows_differ(recorded: Served, here: Served, who: str) -> Iterator[str]:
    """A sentence a column whose parts do not replay."""
    told, now = results.rounded(recorded.record), results.rounded(here.record)
    for place, name in enumerate(batch.COLUMNS):
        # Another processor may round the last digit otherwise; beyond a million there are fewer.
        digit = LAST_DIGIT * np.maximum(1.0, np.abs(now[:, place]) / 1e6)
        within = 0.0 if name in batch.WHOLE else 1.5 * digit
        differs = np.abs(told[:, place] - now[:, place]) > within
        if differs.any():
            part = recorded.parts[int(np.argmax(differs))]
            yield (
                f"column {name} of {who}, span {part.span} from {part.start_s} s for {part.seconds} s, "
                f"does not replay ({int(differs.sum())} of {len(differs)} parts differ in it)"
            )


def _waits_differ(recorded: Served, here: Served, who: str) -> Iterator[str]:
    """A sentence a count of requests, and a percentile, that the replay does not give."""
    assert recorded.waits is not None
    assert here.waits is not None
    for place, name in enumerate(latency.COUNTED):
        differs = recorded.waits.counts[:, place] != here.waits.counts[:, place]
        if differs.any():
            yield (
                f"column {name} of {who} does not replay ({int(differs.sum())} of {len(differs)} parts "
                "differ in it)"
            )
    each = zip(recorded.waits.percentiles, here.waits.percentiles, strict=True)
    for name, (told_s, now_s) in zip(latency.PERCENTILES, each, strict=True):
        if not np.isclose(told_s, now_s, rtol=0, atol=1.5 * LAST_DIGIT, equal_nan=True):
            yield (
                f"{name} of {who} is {told_s:.9f} over {len(recorded.parts)} parts, but their requests give "
                f"{now_s:.9f}"
            )


def _decided_differently(
    found: ServeResults, stories: dict[str, ServeScenario], jobs: int
) -> Iterator[str]:
    """Every rule tuned and asked again, and every search planned again."""
    searches = bool(found.header["searches"])
    asked = [
        (cell, bench_run.Task(stories[cell.about.scenario], entrant, 0, searches))
        for cell in found.cells
        if not (entrant := entrants.entrant(cell.about.policy)).is_own
    ]
    calls: list[Callable[[], Any]] = [bench_run.Call(task, None) for _, task in asked]
    for place, now in parallel.results(calls, jobs):
        cell = asked[place][0]
        who = f"{cell.about.policy} on {cell.about.scenario}"
        for name in ("settings", "train_cost"):
            recorded, here = (
                json.loads(json.dumps(dict(value) if name == "settings" else value))
                for value in (getattr(cell.about, name), getattr(now.about, name))
            )
            if not windows.same(recorded, here):
                yield f"{name} of {who} is {recorded}, but here {here}"
        differing = sum(
            int((one.by_second()[0] != other.by_second()[0]).any(axis=1).sum())
            for one, other in zip(cell.courses, now.courses, strict=True)
        )
        if differing:
            yield f"{who} decides something else in {differing} seconds"


def _score_differences(recorded: Sequence[Any], here: Sequence[Any]) -> Iterator[str]:
    if [(s["scenario"], s["policy"]) for s in recorded] != [
        (s["scenario"], s["policy"]) for s in here
    ]:
        yield "its scores are of other policies than its cells, or in another order"
        return
    for told, now in zip(recorded, here, strict=True):
        for name, value in now.items():
            if not windows.same(told.get(name), json.loads(json.dumps(value))):
                yield (
                    f"{name} of {told['policy']} on {told['scenario']} is {told.get(name)}, its rows give "
                    f"{value}"
                )


def unchecked(found: ServeResults, *, again: bool = False) -> list[str]:
    """What `differences` takes as it stands, a sentence each."""
    said = ["times of decisions, the date, the commit, and versions of packages and of rapgym"]
    said += windows.other_code(found.header)
    users = [c.about for c in found.cells if entrants.entrant(c.about.policy).is_own]
    if not again:
        said.append("that rules and searches decide so, and settings found on train (--again does)")
    if users:
        names = ", ".join(dict.fromkeys(about.policy for about in users))
        said.append(f"that {names} decided so, and how it was run: its code is a user's")
    if any(about.settings.get("watchdog") for about in users):
        said.append("that the watchdog took decisions where it says so")
    if any(about.fallback for about in users):
        said.append(windows.STOOD_IN)
    if left_out := found.header.get("failed"):
        said.append(f"what was left out: {', '.join(left_out)}")
    return said
