"""What a name in a serving bench is: a rule, the engine of today, a search, or a user's own policy."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from rapgym.bench import alone
from rapgym.bench.records import ORACLE
from rapgym.bench.serving import cells, results
from rapgym.bench.serving.cells import ENGINE, KEEP_ALL, KINDS, LOOKUP, PATIENT, TUNED, ServeCell
from rapgym.bench.serving.records import ServeAbout
from rapgym.errors import InvalidPolicy
from rapgym.guard.foreign import Terms
from rapgym.policies import modules, registry, serve_rules
from rapgym.policies.registry import Kind
from rapgym.rollout import serve_search
from rapgym.rollout.serve_search import Search
from rapgym.scenarios.serving import ServeScenario

# Run whatever is asked for: by them the others are measured.
ALWAYS = (LOOKUP, ENGINE, TUNED, KEEP_ALL)


class ServeEntrant(Protocol):
    """What a serving bench runs under a name."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Kind: ...

    @property
    def is_own(self) -> bool:
        """Whether its code is a user's."""
        ...

    def seeds(self, asked: Sequence[int]) -> Sequence[int]:
        """With which seeds it is run."""
        ...

    def basis(self) -> dict[str, Any]:
        """What its cells depend on beside the package and the scenario."""
        ...

    def run(
        self, story: ServeScenario, seed: int, lookup: ServeAbout | None, *, searches: bool
    ) -> ServeCell:
        """Serve the test split.

        Args:
            lookup: describes the reference; what is the package's own needs none.

        Raises:
            InvalidPolicy: it cannot begin, or its process ended.
        """
        ...


class _Package:
    """What is the package's own, and draws nothing at random."""

    __slots__ = ()

    @property
    def is_own(self) -> bool:
        return False

    def seeds(self, asked: Sequence[int]) -> Sequence[int]:
        return (0,)

    def basis(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True, slots=True)
class RuleEntrant(_Package):
    """A rule."""

    name: str

    @property
    def kind(self) -> Kind:
        return cells.KINDS[self.name]

    def run(
        self, story: ServeScenario, seed: int, lookup: ServeAbout | None, *, searches: bool
    ) -> ServeCell:
        return cells.rule_cell(story, self.name, searches=searches)


@dataclass(frozen=True, slots=True)
class SearchEntrant(_Package):
    """A search that knows the future, on stretches alone."""

    search: Search

    @property
    def name(self) -> str:
        return cells.search_name(self.search)

    @property
    def kind(self) -> Kind:
        return ORACLE

    def run(
        self, story: ServeScenario, seed: int, lookup: ServeAbout | None, *, searches: bool
    ) -> ServeCell:
        return cells.search_cell(story, self.search)


@dataclass(frozen=True, slots=True)
class ServeUser:
    """A policy of a user's, named as `module:Class` and run as a stranger's code."""

    entry: registry.Entry
    terms: Terms

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def kind(self) -> Kind:
        return self.entry.kind

    @property
    def is_own(self) -> bool:
        return True

    def seeds(self, asked: Sequence[int]) -> Sequence[int]:
        return asked

    def basis(self) -> dict[str, Any]:
        return {
            "module_sha256": modules.sha256(self.entry.target, self.terms.folders),
            "reads_sha256": {path: modules.content_sha256(path) for path in self.terms.reads},
            "in_process": self.terms.in_process,
            **self.terms.as_json(),
        }

    def run(
        self, story: ServeScenario, seed: int, lookup: ServeAbout | None, *, searches: bool
    ) -> ServeCell:
        assert lookup is not None
        order = (story, self.entry, seed, self.terms, lookup, searches)
        if not self.terms.in_process:
            return cells.user_cell(*order[:-1], searches=searches)
        # Nothing is taken of what its process says but decisions: they are played again here.
        write = partial(_write, *order)
        told = alone.run(alone.Order(self.name, self.terms.folders, write), results.single)
        fits = [list(each.parts) for each in told.served] == cells.parts_of(
            story, searches=searches
        )
        if not fits:
            raise InvalidPolicy(f"{self.name} left other parts than those of the split")
        if strange := cells.instead_differs(story, told, lookup):
            raise InvalidPolicy(
                f"{self.name} says of {strange} seconds that the lookup decided them, which decides otherwise"
            )
        return cells.played_again(story, told)


def _write(
    story: ServeScenario, entry: registry.Entry, seed: int, terms: Terms, lookup: ServeAbout,
    searches: bool, out: Path,
) -> None:  # fmt: skip
    """Run a policy where its seconds are played, in the process that `alone` starts."""
    cell = cells.user_cell(story, entry, seed, terms, lookup, searches=searches)
    results.write(out, results.ServeResults({}, (cell,)))


def rules() -> list[str]:
    """Names of the package's own, in the order in which they are explained."""
    return [*serve_rules.RULES, *PATIENT]


def entrant(name: str, terms: Terms | None = None) -> ServeEntrant:
    """What is run under a name; `module:Class` gives a user's own policy.

    Raises:
        InvalidPolicy: nothing is called so, and the message lists what there is.
    """
    if name in KINDS:
        return RuleEntrant(name)
    for search in serve_search.SEARCHES:
        if name == cells.search_name(search):
            return SearchEntrant(search)
    module, colon, attribute = name.partition(":")
    if colon and module and attribute and not name.startswith(registry.SAVED):
        entry = registry.Entry(name, "heuristic", name, "a policy of the user's", ())
        return ServeUser(entry, terms or Terms())
    raise InvalidPolicy(
        f"no policy of the serving world is called {name!r}; there are {', '.join(rules())}, or name "
        "your own, with reset and decide, as module:Class"
    )


def entrants(
    names: Sequence[str], terms: Terms | None = None, *, searches: bool = True
) -> list[ServeEntrant]:
    """Those of these names and those that are always run, each once; raises as `entrant` does."""
    planned = [cells.search_name(each) for each in serve_search.SEARCHES] if searches else []
    return [entrant(name, terms) for name in dict.fromkeys((*ALWAYS, *names, *planned))]
