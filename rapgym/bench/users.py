"""A user's policy in a bench: named as `module:Class`, run as a stranger's code."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rapgym.bench import alone, cells, results
from rapgym.bench.listed import Listed
from rapgym.bench.records import About
from rapgym.bench.results import Cell, Results
from rapgym.guard.foreign import Terms
from rapgym.policies import modules, registry
from rapgym.scenarios.story import Scenario


@dataclass(frozen=True, slots=True)
class UserEntrant(Listed):
    """A policy of a user's; see `entrants.Entrant`."""

    terms: Terms

    @property
    def is_own(self) -> bool:
        return True

    @property
    def decides(self) -> bool:
        return False  # its code may not be here: proposals are taken as they are

    @property
    def implied(self) -> tuple[str, ...]:
        # How it was run and how it meets a misfit are its own.
        return ("kind", "ceiling", "calibration_tokens")

    def is_ready(self, story: Scenario) -> bool:
        return True

    def seeds(self, story: Scenario, asked: Sequence[int]) -> Sequence[int]:
        return asked

    def facts(self, story: Scenario, seed: int) -> About:
        return cells.described(story, self.name, self.kind)

    def basis(self, story: Scenario, seed: int) -> dict[str, object]:
        """What its cells depend on beside the package and the scenario."""
        own = modules.sha256(self.target, self.terms.folders)
        paths = (*self.terms.reads, *self.entry.options.values())
        reads = {path: modules.content_sha256(path) for path in paths}
        return {
            "module_sha256": own,
            "reads_sha256": reads,
            "in_process": self.terms.in_process,
            **self.terms.as_json(),
        }

    def run(self, story: Scenario, seed: int) -> Cell:
        """Its cell, scored here from its proposals alone.

        Raises:
            InvalidPolicy: it cannot begin, or its process ended.
        """
        if self.terms.in_process:
            write = partial(_write, story, self.entry, seed, self.terms)
            told = alone.run(alone.Order(self.name, self.terms.folders, write), _read)
            return cells.played_again(story, told)
        return cells.user_cell(story, self.entry, seed, self.terms)


def _write(story: Scenario, entry: registry.Entry, seed: int, terms: Terms, out: Path) -> None:
    """Run a policy where its rows are played, in the process that `alone` starts."""
    empty: dict[str, Any] = {name: {} for name in ("scenarios", "tables", "workloads")}
    results.write(out, Results(empty, (cells.user_cell(story, entry, seed, terms),)))


def _read(out: Path) -> Cell:
    (cell,) = results.read(out).cells
    return cell
