"""What a bench runs that an entry of the registry names: what that entry says of it."""

from dataclasses import dataclass

from rapgym.bench import cells
from rapgym.bench.results import Cell
from rapgym.policies import registry
from rapgym.policies.registry import Kind
from rapgym.scenarios.story import Scenario


@dataclass(frozen=True, slots=True)
class Listed:
    """The part of `entrants.Entrant` that policies of rapgym's and of users share."""

    entry: registry.Entry

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def kind(self) -> Kind:
        return self.entry.kind

    @property
    def summary(self) -> str:
        return self.entry.summary

    @property
    def target(self) -> str:
        return self.entry.target

    def label(self, seed: int) -> str:
        return f"{self.name}.{seed}"

    def again(self, story: Scenario, cell: Cell) -> Cell:
        return cells.replayed(story, cell)
