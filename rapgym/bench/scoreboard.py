"""From results to the entries of `bench`: scores, champions, ties, break-even; rankings at other C."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from rapgym.bench import champions, score
from rapgym.bench.cells import BOUND, LOOKUP, STATIC
from rapgym.bench.contest import Contest, Served, contest_of
from rapgym.bench.rankings import rankings
from rapgym.bench.records import About, Score
from rapgym.bench.results import UNORDERED, Cell, Results
from rapgym.bench.score import Estimate

ACTION_SPACE = "kept set"  # that policies propose in
NOTHING = Estimate(np.nan, np.nan, np.nan, np.nan)


def entries(found: Results) -> list[Score]:
    """One entry a scenario and policy, best first within a scenario; seeds are taken together."""
    listed = []
    for name in dict.fromkeys(cell.about.scenario for cell in found.cells):
        listed += _scenario_entries(found.of(name))
    return champions.crowned(listed)


def summed_up(found: Results) -> Results:
    """The results with all that their header says of their rows: scores, and rankings at other C."""
    header = {**found.header, "rankings": rankings(found)}
    return replace(found, header=header, scores=tuple(entries(found)))


def _scenario_entries(cells: list[Cell]) -> list[Score]:
    contest = contest_of(cells)
    best = min(
        (name for name, served in contest.served.items() if served.competes),
        key=lambda name: contest.served[name].mean_cost,
    )
    champion = champions.chosen(contest.served.values()).get(champions.ALL)
    unpruned = cheapest_unpruned(contest.served)
    listed = [_entry(name, contest, best, champion, unpruned) for name in contest.served]
    return sorted(listed, key=lambda entry: entry.cost)


def cheapest_unpruned(served: Mapping[str, Served]) -> str | None:
    """The rival with the least cost on test of those that prune nothing; None where there is none.

    Its luck on test is in its favour: what is found cheaper than it would be so than any of them.
    """
    whole = [name for name, one in served.items() if one.about.is_rival and not one.about.prunes]
    return min(whole, key=lambda name: served[name].mean_cost, default=None)


def _entry(
    name: str, contest: Contest, best: str, champion: str | None, unpruned: str | None
) -> Score:
    """All that is said of one policy on one scenario, but what depends on other scenarios.

    Args:
        best: the policy with the least cost on test.
        champion: of all that do not learn, chosen on validation; None where no validation costs are
            known.
        unpruned: the cheapest rival that prunes nothing.
    """
    served, about = contest.served[name], contest.served[name].about
    cost, terms = served.mean_cost, _term_costs(served)
    adaptivity = NOTHING if about.is_rival else contest.points(name, STATIC)
    foresight = NOTHING if about.is_rival else contest.points(name, LOOKUP)
    to_lookup, to_best = contest.error(name, LOOKUP), contest.error(name, best)
    behind_best = score.with_error(contest.difference(name, best), to_best or 0.0)
    behind_champion = _behind(name, contest, champion)
    behind_unpruned = _behind(name, contest, unpruned if about.is_rival else None)
    own_error = float(np.hypot(about.quality_se, about.sets_se))
    behind_bound = score.with_error(contest.difference(name, BOUND), own_error)
    return Score(
        scenario=about.scenario,
        headline=contest.story.headline,
        policy=name,
        kind=served.kind,
        action_space=ACTION_SPACE,
        adaptivity=_or_none(adaptivity.value),
        adaptivity_low=_or_none(adaptivity.low),
        adaptivity_high=_or_none(adaptivity.high),
        foresight=_or_none(foresight.value),
        low=_or_none(foresight.low),
        high=_or_none(foresight.high),
        p_value=None if about.is_oracle else _or_none(foresight.p),
        cost=cost,
        quality=terms["quality"],
        stall=terms["stall"],
        emergency=terms["emergency"],
        refused=terms["refused"],
        validation_cost=served.validation_cost,
        table_error=to_lookup,
        tied_with_lookup=score.tied(contest.difference(name, LOOKUP), to_lookup or 0.0),
        behind_best=behind_best.value,
        behind_best_low=_or_none(behind_best.low),
        behind_best_high=_or_none(behind_best.high),
        tied_for_best=served.competes and score.tied(behind_best),
        behind_champion=_or_none(behind_champion.value),
        behind_champion_low=_or_none(behind_champion.low),
        behind_champion_high=_or_none(behind_champion.high),
        behind_unpruned=_or_none(behind_unpruned.value),
        behind_unpruned_low=_or_none(behind_unpruned.low),
        behind_unpruned_high=_or_none(behind_unpruned.high),
        behind_bound=behind_bound.value,
        behind_bound_low=_or_none(behind_bound.low),
        behind_bound_high=_or_none(behind_bound.high),
        unmeasured=1 - float(np.mean([cell.test_measured.mean() for cell in served.cells])),
        fallback=served.fallback,
        fault=about.fault,
        decision_us_p50=about.decision_us_p50,
        decision_us_p99=about.decision_us_p99,
        calibration_passes=about.calibration_passes,
        calibration_tokens=about.calibration_tokens,
        break_even_tokens=break_even(about, cost, contest.served.get(UNORDERED)),
        seeds=len(served.cells),
        seed_costs=tuple(served.costs),
    )


def _term_costs(served: Served) -> dict[str, float]:
    return {term: score.mean_cost(values, served.output) for term, values in served.terms.items()}


def _behind(name: str, contest: Contest, other: str | None) -> Estimate:
    """Cost less another's, the tables' errors included; nothing where there is no other."""
    if other is None:
        return NOTHING
    return score.with_error(contest.difference(name, other), contest.error(name, other) or 0.0)


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def break_even(about: About, cost: float, without: Served | None) -> float | None:
    """After how many served output tokens a method's calibration has paid for itself.

    Ours: a token of calibration text takes the place of one that could be served, so it costs C
    nats; what the method saves is what dropping blocks at random costs, less its own cost, nats a
    served output token. Random drop itself profits from calibration (what may go at all, the
    shield's order), and a token of a forward pass over text takes less time than one that is
    generated: both are left out, and both make this an upper limit.

    Args:
        about: of a cell.
        without: random drop on the same scenario, where it was run.

    Returns:
        None where it saves nothing, or where either cost is not known.
    """
    tokens = about.calibration_tokens
    if tokens is None or without is None:
        return None
    saving = without.mean_cost - cost
    return tokens * about.ceiling / saving if saving > 0 else None
