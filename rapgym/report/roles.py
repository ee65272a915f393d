"""Which entries of a scenario stand for what: the static set, the formats, the lookup, the champions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rapgym.bench.cells import ADMISSION, BOUND, LOOKUP, STATIC_REPAIRED
from rapgym.bench.records import Score
from rapgym.report import bench as bench_report
from rapgym.report import findings

STATIC = "static-best"


def named(name: str) -> Callable[[Sequence[Score]], Score | None]:
    """What finds the entry of a policy or rival."""
    return lambda group: next((entry for entry in group if entry.policy == name), None)


def champion_of(family: str) -> Callable[[Sequence[Score]], Score | None]:
    """What finds the entry that validation chose in a family: "all" are those that do not learn."""
    return lambda group: next((entry for entry in group if family in entry.champion), None)


lookup = named(LOOKUP)


def _cheapest(entries: Sequence[Score]) -> Score | None:
    return min(entries, key=lambda entry: entry.cost, default=None)


def best_of_8_bits(group: Sequence[Score]) -> Score | None:
    """The cheapest rival that leaves the model whole, with 8 bits and none of 4."""
    return _cheapest([e for e in findings.unpruned(group) if bench_report.is_of_8_bits(e)])


def best_of_4_bits(group: Sequence[Score]) -> Score | None:
    """The cheapest rival that leaves the model whole, with weights of 4 bits."""
    return _cheapest([e for e in findings.unpruned(group) if findings.FOUR_BITS in e.policy])


def best_format(group: Sequence[Score]) -> Score | None:
    """The cheaper of the two."""
    return _cheapest([e for e in (best_of_8_bits(group), best_of_4_bits(group)) if e])


@dataclass(frozen=True, slots=True)
class Role:
    """What a scenario's entries are compared as."""

    name: str
    of: Callable[[Sequence[Score]], Score | None]


ROLES = (  # as a reader meets them: what one has, what one could have, what nobody can beat
    Role("not pruning, newest requests refused", named(ADMISSION)),
    Role("best static set", named(STATIC)),
    Role("best static set, trimmed by the shield", named(STATIC_REPAIRED)),
    Role("best 8-bit format, whole model", best_of_8_bits),
    Role("best 4-bit format, whole model", best_of_4_bits),
    Role("frontier lookup", lookup),
    Role("champion of those that do not learn", champion_of("all")),
    Role("learned champion", champion_of("learned")),
    Role("bound: no pruning costs less", named(BOUND)),
)


def spoken_of(entries: Sequence[Score]) -> list[list[Score]]:
    """The scenarios that an answer speaks of: those of the headline; all, where none is of it."""
    groups = list(bench_report.by_scenario(entries).values())
    return [group for group in groups if group[0].headline] or groups
