"""Find the free parameters of methods, and keep them with the package.

On the whole of train, for a run on test; and on train without each of its thirds, for the runs by
which champions are chosen.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rapgym.errors import RapgymError
from rapgym.files import places, writing
from rapgym.jobs import parallel
from rapgym.policies import registry
from rapgym.policies.basis import basis, changed
from rapgym.policies.policy import FITS, Told, briefing
from rapgym.scenarios import worlds
from rapgym.scenarios.story import Scenario

# Settings that a method may try on a split: the same for all. What a static method chooses among are
# kept sets, not settings: the best of them can be had at once, so all are tried.
TUNING_BUDGET = 48


# What tuning a method takes beside `frontier-margin`, by CPU seconds on half an hour of one's own traffic.
EFFORT = {
    "static-best": 0.8, "static-best-repaired": 0.5, "static-layers": 0.1, "frontier-margin": 1.0,
    "frontier-recent": 0.9, "frontier-hysteresis": 1.0, "forecast": 4.0,
}  # fmt: skip

TOLD: tuple[Told, ...] = ("train", *FITS)  # on what settings are found


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was found for one method on one scenario, or why nothing was."""

    policy: str
    scenario: str
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)  # split -> settings
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """One method to tune on one scenario."""

    entry: registry.Entry
    story: Scenario

    def find(self) -> Tuned:
        """Tune on each split; what rapgym raises on purpose becomes a fault."""
        find = registry.tuning(self.entry)
        assert find is not None
        try:
            found = {str(split): find(briefing(self.story, split)) for split in TOLD}
        except RapgymError as error:
            return Tuned(self.entry.name, self.story.id, fault=str(error))
        return Tuned(self.entry.name, self.story.id, found)


def tasks(
    entries: Sequence[registry.Entry], stories: Sequence[Scenario], *, again: bool = False
) -> list[Task]:
    """What there is to tune, the longest workloads first.

    Args:
        again: also what was tuned on the same scenario as it is.
    """
    every = [Task(entry, story) for story in stories for entry in entries if entry.tune]

    def is_done(task: Task) -> bool:
        found = registry.kept_for(task.entry, task.story) or {}
        return not changed(found, task.story) and {*TOLD} <= {*found}

    open_ones = every if again else [task for task in every if not is_done(task)]
    return sorted(open_ones, key=lambda task: -_served_rows(task.story))


def efforts(work: Sequence[Task]) -> dict[tuple[str, str], float]:
    """What each task takes beside the others, by method and scenario: for a progress line."""
    return {
        (task.entry.name, task.story.id): EFFORT.get(task.entry.name, 1.0)
        * _served_rows(task.story)
        for task in work
    }


def _served_rows(story: Scenario) -> int:
    return len(worlds.workload(story)) * story.offsets


def tune(work: Sequence[Task], *, jobs: int | None = 1, ray: str | None = None) -> Iterator[Tuned]:
    """Do the tasks, `jobs` at once; each finding is written as it comes, and by this process alone."""
    for place, found in parallel.results([task.find for task in work], jobs, ray=ray):
        yield _kept(work[place], found)


def _kept(task: Task, found: Tuned) -> Tuned:
    """The finding, once it is in the file of settings."""
    if not found.fault:
        is_own = task.story.is_own
        kept = registry.own_tuned() if is_own else registry.tuned()
        kept.setdefault(found.policy, {})[task.story.key] = {**found.settings, **basis(task.story)}
        path = registry.own_file() if is_own else places.TUNED
        with writing.written_aside(path) as file:
            file.write((json.dumps(kept, indent=2, sort_keys=True) + "\n").encode())
    return found
