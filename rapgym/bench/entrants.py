"""What a name in a bench is: a policy, a rival, or an oracle, which knows the future. Found once, here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rapgym.bench import cells
from rapgym.bench.listed import Listed
from rapgym.bench.records import ORACLE, RIVAL, About
from rapgym.bench.results import Cell
from rapgym.bench.users import UserEntrant
from rapgym.errors import InvalidPolicy, InvalidSpec
from rapgym.guard.foreign import Terms
from rapgym.policies import registry
from rapgym.policies.registry import Kind
from rapgym.rivals import rivals
from rapgym.rivals.rivals import Rival
from rapgym.scenarios.story import Scenario

# Fields of `About` that a name implies, with a scenario and a seed, before anything is run.
IMPLIED = (
    "scenario", "policy", "kind", "blocks", "ceiling", "seed", "settings", "on_misfit",
    "calibration_passes", "calibration_tokens",
)  # fmt: skip


class Entrant(Protocol):
    """What a bench runs under a name."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Kind: ...

    @property
    def summary(self) -> str: ...

    @property
    def target(self) -> str:
        """The policy's `module:Class`; empty where there is no policy."""
        ...

    @property
    def is_own(self) -> bool:
        """Whether its code is a user's: what that holds now need not be what it held."""
        ...

    @property
    def decides(self) -> bool:
        """Whether only running it again can tell that its proposals are its own."""
        ...

    @property
    def implied(self) -> tuple[str, ...]:
        """The fields of `facts` that a cell of this name must agree with."""
        ...

    def label(self, seed: int) -> str:
        """What one of its cells is called among those of a scenario."""
        ...

    def is_ready(self, story: Scenario) -> bool:
        """Whether it can be run on a scenario, and is not there under another name."""
        ...

    def seeds(self, story: Scenario, asked: Sequence[int]) -> Sequence[int]:
        """With which seeds it is run, where those are asked for that draw at random."""
        ...

    def facts(self, story: Scenario, seed: int) -> About:
        """What describes its cell before it is run.

        Raises:
            InvalidPolicy: it is not tuned or trained for this scenario, or cannot be built.
        """
        ...

    def basis(self, story: Scenario, seed: int) -> dict[str, object]:
        """What its cell depends on beside the package and the scenario; raises as `facts` does."""
        ...

    def run(self, story: Scenario, seed: int) -> Cell:
        """Serve the test split; raises as `facts` does."""
        ...

    def again(self, story: Scenario, cell: Cell) -> Cell:
        """A cell of its own, as its proposals or its rule give it here."""
        ...


@dataclass(frozen=True, slots=True)
class PolicyEntrant(Listed):
    """A policy of rapgym's, or a training run."""

    @property
    def is_own(self) -> bool:
        return False

    @property
    def decides(self) -> bool:
        return True

    @property
    def implied(self) -> tuple[str, ...]:
        return IMPLIED

    def is_ready(self, story: Scenario) -> bool:
        return not self.entry.reads or bool(registry.trained_seeds(self.entry, story))

    def seeds(self, story: Scenario, asked: Sequence[int]) -> Sequence[int]:
        """Those of its training runs, where it learns: none where it was not trained."""
        return registry.trained_seeds(self.entry, story) if self.entry.reads else asked

    def facts(self, story: Scenario, seed: int) -> About:
        return cells.policy_facts(story, self.entry, seed)

    def basis(self, story: Scenario, seed: int) -> dict[str, object]:
        # Settings found on this machine, or the sha256 of the file that holds its weights.
        return {"settings": dict(self.facts(story, seed).settings)}

    def run(self, story: Scenario, seed: int) -> Cell:
        return cells.policy_cell(story, self.entry, seed)


@dataclass(frozen=True, slots=True)
class RivalEntrant:
    """What else one could do where memory moves; it follows a rule, which draws nothing at random."""

    rival: Rival

    @property
    def name(self) -> str:
        return self.rival.name

    @property
    def kind(self) -> Kind:
        return RIVAL

    @property
    def summary(self) -> str:
        return self.rival.summary

    @property
    def target(self) -> str:
        return ""

    @property
    def is_own(self) -> bool:
        return False

    @property
    def decides(self) -> bool:
        return False

    @property
    def implied(self) -> tuple[str, ...]:
        return (*IMPLIED, "validation_cost", "quality_se", "sets_se")

    def label(self, seed: int) -> str:
        return self.name

    def is_ready(self, story: Scenario) -> bool:
        return not rivals.same_as(self.rival, story)

    def seeds(self, story: Scenario, asked: Sequence[int]) -> Sequence[int]:
        return (0,) if self.is_ready(story) else ()

    def facts(self, story: Scenario, seed: int) -> About:
        if other := rivals.same_as(self.rival, story):
            raise InvalidSpec(
                f"{story.id} is served in the format of {self.name}: there it is {other}; ask for that"
            )
        return cells.rival_facts(story, self.rival)

    def basis(self, story: Scenario, seed: int) -> dict[str, object]:
        return {}

    def run(self, story: Scenario, seed: int) -> Cell:
        return cells.rival_cell(story, self.rival)

    def again(self, story: Scenario, cell: Cell) -> Cell:
        return self.run(story, 0)


@dataclass(frozen=True, slots=True)
class Oracle:
    """What knows the future and the test columns: the ends of the scale that no policy reaches."""

    name: str
    summary: str
    executes: bool  # whether its plan is executed row by row; the bound is a number alone

    @property
    def kind(self) -> Kind:
        return ORACLE

    @property
    def target(self) -> str:
        return ""

    @property
    def is_own(self) -> bool:
        return False

    @property
    def decides(self) -> bool:
        return self.executes

    @property
    def implied(self) -> tuple[str, ...]:
        return (*IMPLIED, "validation_cost")

    def label(self, seed: int) -> str:
        return self.name

    def is_ready(self, story: Scenario) -> bool:
        return True

    def seeds(self, story: Scenario, asked: Sequence[int]) -> Sequence[int]:
        return (0,)

    def facts(self, story: Scenario, seed: int) -> About:
        return cells.oracle_facts(story, self.name)

    def basis(self, story: Scenario, seed: int) -> dict[str, object]:
        return {}

    def run(self, story: Scenario, seed: int) -> Cell:
        return cells.plan_cell(story) if self.executes else cells.bound_cell(story)

    def again(self, story: Scenario, cell: Cell) -> Cell:
        return cells.replayed(story, cell) if self.executes else self.run(story, 0)


ORACLES = (
    Oracle(cells.BOUND, "a cost that no plan can beat", executes=False),
    Oracle(cells.BEST_PLAN, "the best plan found by one who knows the future", executes=True),
)
# Run whatever is asked for: between some of them scores are measured, the others stand beside them.
ALWAYS = (
    cells.LOOKUP,
    cells.ADMISSION,
    cells.KEEP_ALL,
    cells.STATIC_REPAIRED,
    *(oracle.name for oracle in ORACLES),
)


def every() -> list[Entrant]:
    """All that can be asked for by a name of ours: policies, then rivals."""
    return [*map(PolicyEntrant, registry.POLICIES), *map(RivalEntrant, rivals.every())]


def learns(found: Entrant) -> bool:
    """Whether an entrant stands on training runs."""
    return isinstance(found, PolicyEntrant) and bool(found.entry.reads)


def entrant(name: str, terms: Terms | None = None) -> Entrant:
    """What is run under a name; `module:Class` gives a user's own policy, FILE.npz a training run.

    Args:
        terms: on which a user's policy is run.

    Raises:
        InvalidPolicy: nothing is called so, and the message lists what there is; or it names a
            training run that cannot be read.
        InvalidSpec: it is a rival whose quality table is not here.
    """
    for found in (*every(), *ORACLES):
        if found.name == name:
            return found
    if name in (absent.name for absent in rivals.PRUNED):
        return RivalEntrant(rivals.rival(name))  # which says what table it needs
    entry = registry.find(name)
    if entry is not None:
        return UserEntrant(entry, terms or Terms()) if entry.is_own else PolicyEntrant(entry)
    policies, others = (
        ", ".join(each.name for each in there) for there in (registry.POLICIES, rivals.every())
    )
    oracles = " and ".join(oracle.name for oracle in ORACLES)
    raise InvalidPolicy(
        f"no policy is called {name!r}; there are {policies}; the rivals {others}; the oracles "
        f"{oracles}; or name your own as module:Class"
    )


def entrants(names: Sequence[str], terms: Terms | None = None) -> list[Entrant]:
    """Those of these names and those that are always run, each once; raises as `entrant` does.

    Beside every method that learns stands its network before it learned.
    """
    began = [each.name for each in registry.starts() if each.start_of in names]
    return [entrant(name, terms) for name in dict.fromkeys((*names, *began, *ALWAYS))]
