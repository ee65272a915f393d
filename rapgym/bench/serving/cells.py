"""The cells of a serving bench: one policy or one search on one scenario's test split.

A policy serves the split in pieces of an hour, each from an idle engine, and beside that the stretches
that searches plan. Decisions are made with calibration columns; what they cost is told by test columns.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from rapgym.arrays import FloatArray
from rapgym.bench.records import ORACLE
from rapgym.bench.serving.records import ServeAbout
from rapgym.guard import foreign
from rapgym.guard.foreign import Terms
from rapgym.guard.guard import Guarding
from rapgym.guard.serving import RULES as WATCHDOG
from rapgym.policies import registry, serve_rules
from rapgym.policies.serving import ServePolicy, serve_briefing
from rapgym.rollout import serve_search
from rapgym.rollout import serving as rollout
from rapgym.rollout.serve_search import Search
from rapgym.rollout.serving import Course, Run, Served
from rapgym.scenarios import serving_worlds
from rapgym.scenarios.serving import ServeScenario
from rapgym.scenarios.story import Split
from rapgym.serving.world import Part, ServeWorld
from rapgym.world.shield import Reason

LOOKUP, ENGINE, TUNED = "lookup", "engine", "engine-tuned"
KEEP_ALL = "keep-all-drop"
# Rules that also choose on train after how long a request is given up, and what each is otherwise.
PATIENT_LOOKUP, PATIENT_KEEP_ALL = "lookup-tuned", "keep-all-tuned"
PATIENT = {TUNED: ENGINE, PATIENT_KEEP_ALL: KEEP_ALL, PATIENT_LOOKUP: LOOKUP}
SEARCH_PARTS, SEARCH_S = 12, 600  # of test, evenly spread: a search takes minutes an hour
SHED_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # tried for patient rules
KINDS: dict[str, registry.Kind] = {
    "engine": "static", "keep-all-drop": "static", "fixed": "static", "lookup": "reactive",
    "hysteresis": "reactive", "hurry": "heuristic", "futures": "heuristic", TUNED: "static",
    PATIENT_KEEP_ALL: "static", PATIENT_LOOKUP: "reactive",
}  # fmt: skip
STANDS_IN = (Reason.FALLBACK, Reason.WATCHDOG)


@dataclass(frozen=True, slots=True, eq=False)
class ServeCell:
    """One policy with one seed, or one search, on one scenario: what it decided, and what that came to."""

    about: ServeAbout
    whole: Served | None  # the split in its pieces, test columns; None of a search
    stretches: Served | None  # what searches plan; None where none were asked for
    courses: tuple[Course, ...]  # of the pieces, then of the stretches

    @property
    def served(self) -> list[Served]:
        """What it served, the pieces first."""
        return [each for each in (self.whole, self.stretches) if each is not None]


def stretches(story: ServeScenario) -> list[Part]:
    """What searches plan of the test split."""
    return rollout.spread(serving_worlds.scoring_world(story), SEARCH_PARTS, SEARCH_S)


def judged_world(story: ServeScenario, about: ServeAbout) -> ServeWorld:
    """The test split with test columns, as a cell is served."""
    return served_by(serving_worlds.scoring_world(story), about)


def served_by(world: ServeWorld, about: ServeAbout) -> ServeWorld:
    """A world as a cell is served in it: a patient rule sheds at its own time."""
    shed_s = about.settings.get("shed_s") if about.policy in PATIENT else None
    return world if shed_s is None else replace(world, shed_s=float(shed_s))


@lru_cache(maxsize=64)
def tuned(story: ServeScenario, name: str, judged: Split = "test") -> tuple[dict[str, Any], float]:
    """The settings of a rule with the least cost on stretches of what it is told of before a split, and that cost."""
    told = serve_briefing(story, judged)
    make: Callable[..., ServePolicy] = serve_rules.RULES[name].make
    return rollout.best_settings(make, serve_rules.settings_of(name, told), told)


@lru_cache(maxsize=16)
def tuned_patience(
    story: ServeScenario, name: str, judged: Split = "test"
) -> tuple[dict[str, Any], float]:
    """The settings of a patient rule: those of the rule that it is otherwise, then the best time to shed at."""
    told, base = serve_briefing(story, judged), PATIENT[name]
    settings, _ = tuned(story, base, judged)
    make = partial(serve_rules.RULES[base].make, **settings)
    parts, costs = rollout.spread(told.train), list[float]()
    for shed_s in SHED_S:
        world = replace(told.train, shed_s=shed_s)
        costs.append(rollout.play(make, world, parts, told).cost)
    best = int(np.argmin(costs))
    return settings | {"shed_s": SHED_S[best]}, costs[best]


def rule_facts(story: ServeScenario, name: str, judged: Split = "test") -> ServeAbout:
    """What describes the cell of a rule before it is played: its settings, found on what it is told of."""
    found = tuned_patience if name in PATIENT else tuned
    settings, cost = found(story, name, judged)
    return ServeAbout(story.id, name, KINDS[name], settings=settings, train_cost=cost)


def made_of(about: ServeAbout) -> Callable[[], ServePolicy]:
    """What gives the policy objects of a rule's cell."""
    own = {name: value for name, value in about.settings.items() if name != "shed_s"}
    make: Callable[..., ServePolicy] = serve_rules.RULES[
        PATIENT.get(about.policy, about.policy)
    ].make
    return partial(make, **own)


def rule_cell(story: ServeScenario, name: str, *, searches: bool = True) -> ServeCell:
    """The test split under one of the package's rules.

    Args:
        searches: serve the stretches that searches plan too.
    """
    about = rule_facts(story, name)
    make, world = made_of(about), judged_world(story, about)
    runs = _runs(story, world, make, make, 0, Guarding(), searches=searches)
    return _cell(_timed(story, about, make), runs)


def user_cell(
    story: ServeScenario,
    entry: registry.Entry,
    seed: int,
    terms: Terms,
    lookup: ServeAbout,
    *,
    searches: bool = True,
) -> ServeCell:
    """The same of a user's policy, on the terms that were asked for.

    Args:
        lookup: describes the reference, which stands in for it.

    Raises:
        InvalidPolicy: it cannot begin, or its process ended.
    """
    guarding = terms.guarding
    if guarding.watchdog is not None:
        guarding = replace(guarding, watchdog=WATCHDOG)
    watched = guarding.watchdog is not None
    with foreign.made(entry, entry.options, terms, "serving") as make:
        about = ServeAbout(story.id, entry.name, entry.kind, seed, terms.as_json())
        # The watchdog judges by calibration columns; the scorer counts again.
        world = serving_worlds.world(story, "test") if watched else judged_world(story, about)
        runs = _runs(story, world, make, made_of(lookup), seed, guarding, searches=searches)
        about = replace(_timed(story, about, make, seed), isolation=make.isolation)
    cell = _cell(about, runs)
    return played_again(story, cell) if watched else cell


def search_cell(story: ServeScenario, search: Search) -> ServeCell:
    """What a search that knows the future comes to on stretches of test."""
    world, parts = serving_worlds.scoring_world(story), stretches(story)
    courses = []
    for part in parts:
        plan = serve_search.plan(world, part, search)
        courses.append(Course.of(plan, np.full(part.seconds, int(Reason.POLICY))))
    served = rollout.replayed(world, parts, courses)
    return ServeCell(search_facts(story, search), None, served, tuple(courses))


def search_facts(story: ServeScenario, search: Search) -> ServeAbout:
    """What describes a search's cell."""
    return ServeAbout(story.id, search_name(search), ORACLE, settings=asdict(search))


def search_name(search: Search) -> str:
    """By which it is asked for, and shown."""
    return f"search-{search.horizon_s}-{search.hold_s}"


def played_again(story: ServeScenario, cell: ServeCell) -> ServeCell:
    """A cell of which nothing is taken but what was decided, by whom, and what describes it."""
    world, courses, served = judged_world(story, cell.about), cell.courses, list[Served | None]()
    for each in (cell.whole, cell.stretches):
        count = len(each.parts) if each is not None else 0
        again = rollout.replayed(world, each.parts, courses[:count]) if each is not None else None
        served.append(again)
        courses = courses[count:]
    return ServeCell(_told(cell.about, cell.courses), served[0], served[1], cell.courses)


def instead_differs(story: ServeScenario, cell: ServeCell, lookup: ServeAbout) -> int:
    """Seconds in which the reference is said to have decided, and would have decided otherwise.

    Args:
        lookup: describes the reference.
    """
    world, courses, found = judged_world(story, cell.about), cell.courses, 0
    for served in cell.served:
        here, courses = courses[: len(served.parts)], courses[len(served.parts) :]
        if any(np.isin(course.source, STANDS_IN).any() for course in here):
            found += _strange(story, world, served.parts, here, made_of(lookup))
    return found


def _strange(
    story: ServeScenario, world: ServeWorld, parts: Sequence[Part], courses: Sequence[Course],
    make: Callable[[], ServePolicy],
) -> int:  # fmt: skip
    told, rng, found = serve_briefing(story), np.random.default_rng(0), 0
    each = [course.by_second() for course in courses]
    reference = make()

    def see(first: int, second: int, seen: FloatArray, acting: Any) -> None:
        nonlocal found
        if not second:
            reference.reset(len(seen), told)
        instead = reference.decide(seen.copy(), rng)
        for lane in np.flatnonzero(acting).tolist():
            decisions, source = each[first + lane]
            if source[second] in STANDS_IN:
                found += bool((decisions[second] != instead[lane]).any())

    rollout.replayed(world, parts, courses, see)
    return found


def _runs(
    story: ServeScenario,
    world: ServeWorld,
    make: Callable[[], ServePolicy],
    reference: Callable[[], ServePolicy],
    seed: int,
    guarding: Guarding,
    *,
    searches: bool,
) -> list[Run]:
    """The pieces of the split, and the stretches where searches are run."""
    told = serve_briefing(story)
    return [
        rollout.guarded(make, reference, world, parts, told, seed, guarding)
        for parts in parts_of(story, searches=searches)
    ]


def _timed(
    story: ServeScenario, about: ServeAbout, make: Callable[[], ServePolicy], seed: int = 0
) -> ServeAbout:
    spent_us = rollout.decision_us(make(), serve_briefing(story), seed)
    return replace(
        about,
        decision_us_p50=float(np.quantile(spent_us, 0.5)),
        decision_us_p99=float(np.quantile(spent_us, 0.99)),
    )


def _cell(about: ServeAbout, runs: Sequence[Run]) -> ServeCell:
    courses = tuple(course for run in runs for course in run.courses)
    fault = next((run.fault for run in runs if run.fault), None)
    stretched = runs[1].served if len(runs) > 1 else None
    about = _told(replace(about, fault=fault), courses)
    return ServeCell(about, runs[0].served, stretched, courses)


def _told(about: ServeAbout, courses: Sequence[Course]) -> ServeAbout:
    """With the shares of seconds in which the reference decided."""
    return replace(
        about,
        fallback=share_of(courses, Reason.FALLBACK),
        watchdog=share_of(courses, Reason.WATCHDOG),
    )


def share_of(courses: Sequence[Course], source: Reason) -> float:
    """Share of seconds whose decisions have this source."""
    seconds = sum(course.seconds for course in courses)
    its = sum(int(course.lengths[course.source == source].sum()) for course in courses)
    return its / max(1, seconds)


def parts_of(story: ServeScenario, *, searches: bool) -> list[list[Part]]:
    """The pieces of the split, and the stretches where searches are run."""
    pieces = list(serving_worlds.scoring_world(story).pieces)
    return [pieces, stretches(story)] if searches else [pieces]
