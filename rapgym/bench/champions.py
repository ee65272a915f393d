"""The champion of each kind, chosen on validation, and what its test says after Holm's correction.

A champion is chosen by its cost on the validation part of train, with calibration columns and
settings tuned on the part before it: never by its score on test, where the best of many looks
better than it is. Champions are then tested against the frontier lookup, and p-values corrected
for the scenarios of the headline, in a family of their own for each kind.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from rapgym.bench import score
from rapgym.bench.records import Score, Verdict
from rapgym.policies.registry import Kind

ALL = "all"  # champion over every kind that does not learn
NON_LEARNED: tuple[Kind, ...] = ("static", "reactive", "heuristic")
FAMILIES: Mapping[str, tuple[Kind, ...]] = {
    **{kind: (kind,) for kind in NON_LEARNED},
    "learned": ("learned",),
    ALL: NON_LEARNED,
}
ALPHA = 0.05  # 1 - score.LEVEL


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


def chosen(every: Iterable[Candidate]) -> dict[str, str]:
    """Family -> champion among one scenario's policies; families without a candidate are left out.

    A policy without a validation cost, or whose answers could not always be read, is no candidate.
    Of equal costs the first name wins, so that nothing of test decides.
    """
    candidates = [e for e in every if not e.fallback]
    found = {}
    for family, kinds in FAMILIES.items():
        costs = [
            (e.validation_cost, e.policy)
            for e in candidates
            if e.kind in kinds and e.validation_cost is not None
        ]
        if costs:
            found[family] = min(costs)[1]
    return found


def crowned(entries: Sequence[Score]) -> list[Score]:
    """The entries of all scenarios with `champion`, `p_holm`, `holm_tests` and `verdict`.

    `champion` lists the families whose champion an entry is. `p_holm` is its adjusted p-value, the
    largest where it is champion of several; None off the headline, for its p-value is no part of a
    family there. `holm_tests` is how many scenarios that correction is for. `verdict` is what may be said of a champion against the lookup: better, worse or
    tie; None where nothing was tested.
    """
    champions = {
        name: chosen([e for e in entries if e.scenario == name])
        for name in dict.fromkeys(e.scenario for e in entries)
    }
    adjusted: dict[tuple[str, str], list[float]] = {}
    sizes: dict[tuple[str, str], int] = {}
    for family in FAMILIES:
        tested = [
            (e, e.p_value)
            for e in entries
            if e.headline
            and e.p_value is not None
            and champions[e.scenario].get(family) == e.policy
        ]
        for (e, _), p in zip(tested, score.holm([p for _, p in tested]), strict=True):
            adjusted.setdefault((e.scenario, e.policy), []).append(p)
            sizes[e.scenario, e.policy] = len(tested)
    found = []
    for e in entries:
        p_holm = max(adjusted.get((e.scenario, e.policy), []), default=None)
        found.append(
            replace(
                e,
                champion=tuple(f for f, name in champions[e.scenario].items() if name == e.policy),
                p_holm=p_holm,
                holm_tests=sizes.get((e.scenario, e.policy)),
                verdict=verdict(e, p_holm),
            )
        )
    return found


def verdict(entry: Score, p_holm: float | None) -> Verdict | None:
    """Better or worse than the lookup only where chance and the table's error are both ruled out."""
    if p_holm is None:
        return None
    if p_holm >= ALPHA or entry.tied_with_lookup or entry.foresight is None:
        return "tie"
    return "better" if entry.foresight > 0 else "worse"
