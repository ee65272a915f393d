"""The champion of each kind, chosen on validation: and chosen again in every resample.

A champion is chosen by its cost on train with calibration columns, by blocked cross-validation: each
third of train is served with settings and networks that know the other two alone. Never by its score
on test, where the best of many looks better than it is. What is said of it holds for the choice: in
each resample of rows, the pieces of train and the training seeds are drawn as well, the cheapest
there is chosen, and its cost on test is what counts. Settings are not tuned again, nor networks trained: what is said is conditional
on those that there are.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rapgym.arrays import FloatArray
from rapgym.bench import score
from rapgym.bench.score import Summed
from rapgym.policies.registry import Kind

ALL = "all"  # champion over every kind that does not learn
NON_LEARNED: tuple[Kind, ...] = ("static", "reactive", "heuristic")
FAMILIES: Mapping[str, tuple[Kind, ...]] = {
    **{kind: (kind,) for kind in NON_LEARNED},
    "learned": ("learned",),
    ALL: NON_LEARNED,
}
STREAM = 1 << 17  # of the generator that draws validation pieces


class Candidate(Protocol):
    """What a champion is chosen by: never a score on test."""

    @property
    def policy(self) -> str: ...

    @property
    def kind(self) -> Kind: ...

    @property
    def validation_cost(self) -> float | None: ...

    @property
    def fallback(self) -> float: ...


@dataclass(frozen=True, slots=True, eq=False)
class Champion:
    """A policy, and what the choice of it costs on test where the choice is made again."""

    policy: str
    summed: Summed  # output tokens times cost; its total is the policy's own


def candidates(every: Iterable[Candidate]) -> dict[str, list[str]]:
    """Family -> those who may be its champion, by name; families without any are left out.

    A policy without a validation cost, or whose answers could not always be read, is no candidate.
    """
    able = [e for e in every if not e.fallback and e.validation_cost is not None]
    found = {
        family: sorted(e.policy for e in able if e.kind in kinds)
        for family, kinds in FAMILIES.items()
    }
    return {family: names for family, names in found.items() if names}


def chosen(
    families: Mapping[str, list[str]],
    validation: Mapping[str, Summed],
    test: Mapping[str, Summed],
) -> dict[str, Champion]:
    """The champion of each family.

    Of equal validation costs the first name wins, so that nothing of test decides.

    Args:
        validation, test: costs of each policy there, in the same resamples.
    """
    found = {}
    for family, names in families.items():
        name = min(names, key=lambda each: (validation[each].total, each))
        again = np.argmin([validation[each].drawn for each in names], axis=0)
        drawn = np.stack([test[each].drawn for each in names])
        summed = Summed(test[name].total, drawn[again, np.arange(drawn.shape[1])])
        found[family] = Champion(name, summed)
    return found


def validation_draws(parts: int, count: int = score.RESAMPLES) -> FloatArray:
    """How often each resample draws each piece of train, [R, parts]."""
    return score.draws(parts, np.random.default_rng([STREAM, parts]), count)
