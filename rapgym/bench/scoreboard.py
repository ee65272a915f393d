"""From results to the entries of `bench`: scores, champions, ties, break-even; rankings at other C."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from rapgym.bench import champions, score, verdicts
from rapgym.bench.cells import ADMISSION, BOUND, LOOKUP
from rapgym.bench.champions import Champion
from rapgym.bench.contest import Contest, Served, contest_of
from rapgym.bench.rankings import rankings
from rapgym.bench.records import About, Score
from rapgym.bench.results import UNORDERED, Cell, Results
from rapgym.bench.score import NOTHING, Estimate

BITS = {"bf16": 16, "int8": 8, "int4": 4}  # of weights
ACTION_SPACE = "kept set"  # that policies propose in


def entries(found: Results) -> list[Score]:
    """One entry a scenario and policy, best first within a scenario; seeds are taken together."""
    listed = []
    for name in dict.fromkeys(cell.about.scenario for cell in found.cells):
        listed += _scenario_entries(found.of(name))
    return verdicts.corrected(listed)


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
    unpruned = cheapest_unpruned(contest.served)
    listed = [_entry(name, contest, best, unpruned) for name in contest.served]
    return sorted(listed, key=lambda entry: entry.cost)


def cheapest_unpruned(served: Mapping[str, Served]) -> str | None:
    """The rival with the least cost on test of those that prune nothing; None where there is none.

    Its luck on test is in its favour: what is found cheaper than it would be so than any of them.
    """
    whole = [name for name, one in served.items() if one.about.is_rival and not one.about.prunes]
    return min(whole, key=lambda name: served[name].mean_cost, default=None)


def _entry(name: str, contest: Contest, best: str, unpruned: str | None) -> Score:
    """All that is said of one policy on one scenario, but what depends on other scenarios.

    Args:
        best: the policy with the least cost on test.
        unpruned: the cheapest rival that prunes nothing.
    """
    served, about = contest.served[name], contest.served[name].about
    cost, terms = served.mean_cost, _term_costs(served)
    has_gain = ADMISSION in contest.served and not about.is_rival
    gain = contest.points(name, ADMISSION) if has_gain else NOTHING
    lookup, bound = (contest.served[end].mean_cost for end in (LOOKUP, BOUND))
    room = lookup - bound if lookup - bound >= verdicts.LEAST_ROOM else None
    from_lookup = NOTHING if about.is_rival else contest.difference(name, LOOKUP)
    decides = about.decides
    behind_best = contest.difference(name, best)
    behind_champion = _behind_champion(name, contest)
    behind_unpruned = (
        contest.difference(name, unpruned) if about.is_rival and unpruned is not None else NOTHING
    )
    own_error = float(np.hypot(about.quality_se, about.sets_se))
    behind_bound = score.difference(
        contest.summed[name], contest.summed[BOUND], contest.output, contest.pieces, own_error
    )
    crowns = {f: won for f, won in contest.champions.items() if won.policy == name}
    choices = [_choice(won, contest) for won in crowns.values()]
    return Score(
        scenario=about.scenario,
        group=contest.story.group,
        claims=contest.story.claims,
        bits=BITS[contest.story.form.weights],
        traffic=contest.story.trace,
        policy=name,
        kind=served.kind,
        action_space=ACTION_SPACE,
        gain=_or_none(gain.value),
        gain_low=_or_none(gain.low),
        gain_high=_or_none(gain.high),
        foresight=None if room is None or about.is_rival else 100 * (lookup - cost) / room,
        low=_or_none(from_lookup.low),
        high=_or_none(from_lookup.high),
        p_value=_or_none(from_lookup.p) if decides else None,
        least_effect=_or_none(from_lookup.least) if decides else None,
        least_effect_points=(
            None if room is None or not decides else _or_none(100 * from_lookup.least / room)
        ),
        unit=contest.pieces.unit,
        pieces=len(contest.pieces),
        conditional=verdicts.is_conditional(contest.pieces.unit, len(contest.pieces)),
        cost=cost,
        quality=terms["quality"],
        stall=terms["stall"],
        emergency=terms["emergency"],
        refused=terms["refused"],
        validation_cost=served.validation_cost,
        table_error=contest.error(name, LOOKUP),
        behind_best=behind_best.value,
        behind_best_low=_or_none(behind_best.low),
        behind_best_high=_or_none(behind_best.high),
        tied_for_best=served.competes and not score.excludes_zero(behind_best),
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
        isolation=about.isolation,
        decision_us_p50=about.decision_us_p50,
        decision_us_p99=about.decision_us_p99,
        calibration_passes=about.calibration_passes,
        calibration_tokens=about.calibration_tokens,
        break_even_tokens=break_even(about, cost, contest.served.get(UNORDERED)),
        seeds=len(served.cells),
        seed_costs=tuple(served.costs),
        verdict=verdicts.verdict(from_lookup, verdicts.margin(lookup, bound)) if decides else None,
        champion=tuple(crowns),
        champion_p=tuple(_or_none(each.p) for each in choices),
        champion_low=_or_none(min((each.low for each in choices), default=np.nan)),
        champion_high=_or_none(max((each.high for each in choices), default=np.nan)),
    )


def _choice(champion: Champion, contest: Contest) -> Estimate:
    """A champion's cost less the lookup's, the choice of it made again in every resample."""
    return contest.difference_of(champion.policy, champion.summed, LOOKUP, contest.summed[LOOKUP])


def _behind_champion(name: str, contest: Contest) -> Estimate:
    """Cost less that of the champion of all that do not learn, chosen again in every resample.

    So is a learned champion that stands beside it. Nothing where no validation costs are known.
    """
    there = contest.champions.get(champions.ALL)
    if there is None:
        return NOTHING
    if there.policy == name:
        return contest.difference(name, name)
    learned = contest.champions.get("learned")
    own = learned is not None and learned.policy == name
    here = learned.summed if learned is not None and own else contest.summed[name]
    return contest.difference_of(name, here, there.policy, there.summed)


def _term_costs(served: Served) -> dict[str, float]:
    return {term: score.mean_cost(values, served.output) for term, values in served.terms.items()}


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
