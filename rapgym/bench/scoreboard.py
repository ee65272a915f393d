"""From results to the entries of `bench`: scores, champions, ties, break-even; rankings at other C."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rapgym.bench import champions, score
from rapgym.bench.cells import BOUND, LOOKUP, STATIC
from rapgym.bench.contest import ORACLE, RIVAL, Contest, Served, contest_of
from rapgym.bench.rankings import rankings
from rapgym.bench.results import Cell, Results
from rapgym.bench.score import Estimate

# Drops blocks in no order. Even so it profits from calibration: what may go at all, and the shield's
# order where an emergency cuts, follow from the greedy orders.
UNORDERED = "random"


def entries(found: Results) -> list[dict[str, Any]]:
    """One entry a scenario and policy, best first within a scenario; seeds are taken together."""
    listed = []
    for name in dict.fromkeys(cell.about["scenario"] for cell in found.cells):
        listed += _scenario_entries(found.of(name))
    return champions.crowned(listed)


def summary(found: Results) -> dict[str, Any]:
    """What the header of a results file says of its rows."""
    return {"entries": entries(found), "rankings": rankings(found)}


def _scenario_entries(cells: list[Cell]) -> list[dict[str, Any]]:
    contest = contest_of(cells)
    best = min(
        (name for name, served in contest.served.items() if served.competes),
        key=lambda name: contest.served[name].mean_cost,
    )
    candidates = [
        {
            "policy": name,
            "kind": served.kind,
            "validation_cost": served.validation_cost,
            "fallback": served.fallback,
        }
        for name, served in contest.served.items()
    ]
    named = {
        "champion": champions.chosen(candidates).get(champions.ALL),
        "unpruned": cheapest_unpruned(contest.served),
    }
    listed = [_entry(name, contest, best, named) for name in contest.served]
    return sorted(listed, key=lambda entry: entry["cost"])


def cheapest_unpruned(served: Mapping[str, Served]) -> str | None:
    """The rival with the least cost on test of those that prune nothing; None where there is none.

    Its luck on test is in its favour: what is found cheaper than it would be so than any of them.
    """
    whole = [name for name, one in served.items() if one.kind == RIVAL and not one.prunes]
    return min(whole, key=lambda name: served[name].mean_cost, default=None)


def _entry(
    name: str, contest: Contest, best: str, named: Mapping[str, str | None]
) -> dict[str, Any]:
    """All that is said of one policy on one scenario, but what depends on other scenarios.

    Args:
        best: the policy with the least cost on test.
        named: the champion of all that do not learn, chosen on validation, where validation costs are
            known; and the cheapest rival that prunes nothing.
    """
    served, about = contest.served[name], contest.served[name].about
    nothing = Estimate(np.nan, np.nan, np.nan, np.nan)
    rival, cost = served.kind == RIVAL, served.mean_cost
    adaptivity = nothing if rival else contest.points(name, STATIC)
    foresight = nothing if rival else contest.points(name, LOOKUP)
    to_lookup, to_best = contest.error(name, LOOKUP), contest.error(name, best)
    behind_best = score.with_error(contest.difference(name, best), to_best or 0.0)
    own_error = float(np.hypot(served.format_se, served.sets_se))
    behind_bound = score.with_error(contest.difference(name, BOUND), own_error)
    return {
        "scenario": about["scenario"],
        "headline": contest.story.headline,
        "policy": name,
        "kind": served.kind,
        "action_space": about.get("action_space", "kept set"),
        "adaptivity": _or_none(adaptivity.value),
        "adaptivity_low": _or_none(adaptivity.low),
        "adaptivity_high": _or_none(adaptivity.high),
        "foresight": _or_none(foresight.value),
        "low": _or_none(foresight.low),
        "high": _or_none(foresight.high),
        "p_value": _or_none(foresight.p) if served.kind != ORACLE else None,
        "cost": cost,
        **{term: score.mean_cost(values, served.output) for term, values in served.terms.items()},
        "validation_cost": served.validation_cost,
        "table_error": to_lookup,
        "tied_with_lookup": score.tied(contest.difference(name, LOOKUP), to_lookup or 0.0),
        "behind_best": behind_best.value,
        "behind_best_low": _or_none(behind_best.low),
        "behind_best_high": _or_none(behind_best.high),
        "tied_for_best": served.competes and score.tied(behind_best),
        **_behind("champion", name, contest, named["champion"]),
        **_behind("unpruned", name, contest, named["unpruned"] if rival else None),
        "behind_bound": behind_bound.value,
        "behind_bound_low": _or_none(behind_bound.low),
        "behind_bound_high": _or_none(behind_bound.high),
        "unmeasured": 1 - float(np.mean([cell.test_measured.mean() for cell in served.cells])),
        "fallback": served.fallback,
        "fault": about.get("fault"),
        "decision_us_p50": about["decision_us_p50"],
        "decision_us_p99": about["decision_us_p99"],
        "calibration_passes": about["calibration_passes"],
        "calibration_tokens": about.get("calibration_tokens"),
        "break_even_tokens": break_even(about, cost, contest.served.get(UNORDERED)),
        "seeds": len(served.cells),
        "seed_costs": served.costs,
    }


def _behind(what: str, name: str, contest: Contest, other: str | None) -> dict[str, float | None]:
    """Cost less another's, the tables' errors included; None where there is no other.

    Args:
        what: the other is called in the entry.
    """
    found = Estimate(np.nan, np.nan, np.nan, np.nan)
    if other is not None:
        error = contest.error(name, other) or 0.0
        found = score.with_error(contest.difference(name, other), error)
    return {
        f"behind_{what}": _or_none(found.value),
        f"behind_{what}_low": _or_none(found.low),
        f"behind_{what}_high": _or_none(found.high),
    }


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def break_even(about: Mapping[str, Any], cost: float, without: Served | None) -> float | None:
    """After how many served output tokens a method's calibration has paid for itself.

    Ours: a token of calibration text takes the place of one that could be served, so it costs C
    nats; what the method saves is what dropping blocks at random costs, less its own cost, nats a
    served output token. Random drop itself profits from calibration (what may go at all, the
    shield's order), and a token of a forward pass over text takes less time than one that is
    generated: both are left out, and both make this an upper limit.

    Args:
        about: of a cell, with `calibration_tokens` and `ceiling` where they are known.
        without: random drop on the same scenario, where it was run.

    Returns:
        None where it saves nothing, or where either number is not known.
    """
    tokens, ceiling = about.get("calibration_tokens"), about.get("ceiling")
    if tokens is None or ceiling is None or without is None:
        return None
    saving = without.mean_cost - cost
    return float(tokens * ceiling / saving) if saving > 0 else None
