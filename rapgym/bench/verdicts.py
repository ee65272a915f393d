"""What may be said of a policy beside the lookup: better, worse, equal or undecided.

*Equal* is what differs too little to matter, whatever its sign: the whole interval lies within 5 points
of foresight, or within 2 % of what the lookup costs. *Better* and *worse* are intervals on one side of
zero that are not of that kind; of champions the p-value after Holm's correction decides that. All
else is *undecided*, and the least effect that could have been shown stands beside it.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rapgym.bench import score
from rapgym.bench.pieces import LEAST_PIECES
from rapgym.bench.records import Score, Unit, Verdict
from rapgym.bench.score import Estimate

EQUAL_POINTS = 5.0  # of foresight
EQUAL_SHARE = 0.02  # of the lookup's cost
SAME = 1e-9  # nats: costs this near are the same, whatever the order in which a processor adds
LEAST_ROOM = 0.005  # nats between lookup and bound, below which points of foresight say nothing
# Whether intervals of pieces of this kind hold for other days than those that they were drawn from. By
# simulation, `baselines/results/coverage.json`: what an hour shows does not hold for its day.
HOLDS_BEYOND: dict[Unit, bool] = {"day": True, "hour": False, "burst": False}
CONDITIONAL = "conditional on these rows"


def is_conditional(unit: Unit, pieces: int) -> bool:
    """Whether what is said of so many pieces speaks of these rows alone."""
    return not HOLDS_BEYOND[unit] or pieces < LEAST_PIECES


def margin(lookup_cost: float, bound_cost: float) -> float:
    """Up to which difference of cost, nats, a policy is as good as the lookup."""
    room = lookup_cost - bound_cost
    points = EQUAL_POINTS / 100 * room if room >= LEAST_ROOM else 0.0
    return max(points, EQUAL_SHARE * abs(lookup_cost))


def verdict(found: Estimate, within: float, p: float | None = None) -> Verdict:
    """What a difference from the lookup allows to say.

    Args:
        found: cost less the lookup's.
        within: up to where it is none that matters, see `margin`.
        p: its p-value after a correction; its own unless stated.

    Returns:
        Undecided wherever there is no p-value, for there are too few pieces; but costs that are the
        same in every resample are equal.
    """
    furthest = max(abs(found.low), abs(found.high))
    if furthest <= SAME:
        return "equal"
    odds = found.p if p is None else p
    if np.isnan(odds):
        return "undecided"
    if furthest <= within:
        return "equal"
    if odds >= score.ALPHA:
        return "undecided"
    return "better" if found.value < 0 else "worse"


def family(entry: Score) -> str | None:
    """The family of tests in which the champions of a scenario are: those of its traffic.

    None of a scenario that carries no claim.
    """
    return entry.traffic if entry.claims else None


def corrected(entries: Sequence[Score]) -> list[Score]:
    """The entries of all scenarios with `p_holm`, `holm_tests` and, of champions, `verdict`.

    Champions of one kind on the scenarios of one traffic are a family (Holm 1979). Who is champion of
    several kinds gets the largest of its p-values, and the verdict of that.
    """
    tests: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for i, entry in enumerate(entries):
        for kind, p in zip(entry.champion, entry.champion_p, strict=True):
            where = family(entry)
            if where is not None and p is not None:
                tests.setdefault((where, kind), []).append((i, p))
    adjusted: dict[int, tuple[float, int]] = {}
    for tested in tests.values():
        for (i, _), p in zip(tested, score.holm([p for _, p in tested]), strict=True):
            adjusted[i] = max(adjusted.get(i, (0.0, 0)), (p, len(tested)))
    bounds = {e.scenario: (e.cost, e.behind_bound) for e in entries if e.policy == "frontier"}
    found = list(entries)
    for i, (p, count) in adjusted.items():
        entry = entries[i]
        lookup, room = bounds[entry.scenario]
        choice = _choice(entry, lookup)
        said = verdict(choice, margin(lookup, lookup - room), p)
        found[i] = replace(entry, p_holm=p, holm_tests=count, verdict=said)
    return found


def _choice(entry: Score, lookup: float) -> Estimate:
    """A champion's difference from the lookup, with the interval of the choice."""
    assert entry.champion_low is not None  # where there is a p-value there is an interval
    assert entry.champion_high is not None
    value = entry.cost - lookup
    return Estimate(value, entry.champion_low, entry.champion_high, np.nan, np.nan)
