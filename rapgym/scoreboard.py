"""From results to the entries of `bench`: scores, champions, ties, break-even; rankings at other C."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from rapgym import champions, score
from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.cells import BOUND, LOOKUP, STATIC
from rapgym.errors import InvalidResult
from rapgym.model.shapes import model_spec
from rapgym.quality import error as table_error
from rapgym.quality.error import SetError
from rapgym.results import DECIMALS, Cell, Results
from rapgym.rivals import pruned as pruned_rivals
from rapgym.rivals import rivals
from rapgym.rollout import log as rollout_log
from rapgym.scenarios import catalogue, tables, worlds
from rapgym.scenarios.story import Scenario
from rapgym.score import Estimate, Resamples, Summed
from rapgym.world import simulator
from rapgym.world.records import State, World

TERMS = ("quality", "stall", "emergency", "refused")
RIVAL = "rival"  # another format, or no pruning at all: it has a cost, and no place on the scales
PRUNED = "pruned"  # the rule of a rival that prunes on top of its format
ORACLE = "bound"  # the kind of what knows the future
# Drops blocks in no order. Even so it profits from calibration: what may go at all, and the shield's
# order where an emergency cuts, follow from the greedy orders.
UNORDERED = "random"
OTHER_CEILINGS = (1.0, 2.0, 3.9)  # and ln(vocabulary) - dense; nats


def entries(found: Results) -> list[dict[str, Any]]:
    """One entry a scenario and policy, best first within a scenario; seeds are taken together."""
    listed = []
    for name in dict.fromkeys(cell.about["scenario"] for cell in found.cells):
        listed += _scenario_entries(found.of(name))
    return champions.crowned(listed)


def summary(found: Results) -> dict[str, Any]:
    """What the header of a results file says of its rows."""
    return {"entries": entries(found), "rankings": rankings(found)}


def _pairing(cell: Cell) -> tuple[int, IntArray]:
    """Rows of the split, and the offset of each lane."""
    rows = len(cell.log)
    return rows, (cell.log.limit_row[0] - cell.log.row[0]) % rows


def draws_of(cells: list[Cell]) -> Resamples:
    """The resamples that all policies of a scenario share."""
    story = catalogue.scenario(cells[0].about["scenario"])
    return score.resamples(*_pairing(cells[0]), story.window_s)


def by_policy(cells: list[Cell]) -> dict[str, list[Cell]]:
    """Cells of each policy: one a seed."""
    grouped: dict[str, list[Cell]] = {}
    for cell in cells:
        grouped.setdefault(cell.about["policy"], []).append(cell)
    return grouped


def terms_of(cell: Cell) -> dict[str, FloatArray]:
    """The four terms of each row with test columns, [T, K], rounded as they are stored.

    So a file gives to the last bit what the run that wrote it gave.
    """
    columns = (cell.test_quality, cell.log.stall, cell.log.emergency, cell.log.refused)
    rounded: dict[str, FloatArray] = {}
    for name, values in zip(TERMS, columns, strict=True):
        rounded[name] = np.round(values, DECIMALS)
    return rounded


@dataclass(frozen=True)
class Served:
    """One policy on one scenario, its seeds taken together.

    Seeds count as in the interquartile mean of their costs, in every row alike: so terms add up to
    the cost, and costs stay paired.
    """

    cells: list[Cell]

    @property
    def about(self) -> dict[str, Any]:
        return self.cells[0].about

    @property
    def kind(self) -> str:
        return str(self.about["kind"])

    @property
    def output(self) -> IntArray:
        return self.cells[0].log.output_tokens

    @cached_property
    def costs(self) -> list[float]:
        """Cost of each seed."""
        return [
            score.mean_cost(np.asarray(sum(terms_of(cell).values())), self.output)
            for cell in self.cells
        ]

    @cached_property
    def weights(self) -> FloatArray:
        """How much each seed counts."""
        return score.middle_half(self.costs)

    @cached_property
    def terms(self) -> dict[str, FloatArray]:
        """Mean cost of each row by term, [T, K]."""
        found: dict[str, FloatArray] = {name: np.zeros(self.output.shape) for name in TERMS}
        for weight, cell in zip(self.weights, self.cells, strict=True):
            for name, values in terms_of(cell).items():
                found[name] += weight * values
        return found

    @cached_property
    def cost(self) -> FloatArray:
        """[T, K]."""
        return np.asarray(sum(self.terms.values()))

    @property
    def mean_cost(self) -> float:
        return score.mean_cost(self.cost, self.output)

    @property
    def validation_cost(self) -> float | None:
        """Cost on the validation part of train, None where a seed has none."""
        costs = [cell.about.get("validation_cost") for cell in self.cells]
        known = [float(cost) for cost in costs if cost is not None]
        return score.interquartile_mean(known) if len(known) == len(costs) else None

    @property
    def fallback(self) -> float:
        """Share of rows whose answer could not be read."""
        return float(np.mean([cell.about.get("fallback", 0.0) for cell in self.cells]))

    @property
    def prunes(self) -> bool:
        """Whether it is a rival that prunes on top of its format."""
        return self.kind == RIVAL and self.about["settings"].get("rule") == PRUNED

    @property
    def format(self) -> tuple[str, str] | None:
        """Weights and KV of a rival, None where a cell does not say, or is no rival's."""
        told = self.about["settings"]
        if self.kind != RIVAL or not {"weights", "kv"} <= told.keys():
            return None
        return str(told["weights"]), str(told["kv"])

    @property
    def sets_se(self) -> float:
        """Standard error that a rival's cost has from the sets it serves from, 0 of other cells."""
        return float(self.about.get("sets_se") or 0.0)

    @property
    def format_se(self) -> float:
        """Standard error of what a rival's format costs the dense model, 0 of other cells."""
        return float(self.about.get("quality_se") or 0.0)

    @property
    def competes(self) -> bool:
        """Whether it decides from the past alone, within the action space, and did answer."""
        return self.kind not in (ORACLE, RIVAL) and not self.fallback

    def shares(self, ceiling: float) -> dict[bytes, float] | None:
        """Share of output tokens served from each kept set of the scenario's table; None of a rival,
        and where no sets were executed.
        """
        if self.kind == RIVAL or self.about["policy"] == BOUND:
            return None
        found: dict[bytes, float] = {}
        for weight, cell in zip(self.weights, self.cells, strict=True):
            for name, share in rollout_log.served_shares(cell.log, ceiling).items():
                found[name] = found.get(name, 0.0) + float(weight) * share
        return found


@dataclass(frozen=True)
class Contest:
    """All policies of one scenario on the same rows and the same resamples."""

    story: Scenario
    served: Mapping[str, Served]
    blocks: int  # independent pieces of a draw
    summed: Mapping[str, Summed]  # output tokens times cost of each policy
    output: Summed  # output tokens

    @cached_property
    def shares(self) -> dict[str, dict[bytes, float] | None]:
        ceiling = worlds.scoring_world(self.story).ceiling
        return {name: served.shares(ceiling) for name, served in self.served.items()}

    @cached_property
    def errors(self) -> dict[bytes, SetError]:
        """The table's errors of every set that served."""
        world = worlds.scoring_world(self.story)
        held_out = tables.table(self.story).held_out("test", self.story.domain)
        names = {name: None for found in self.shares.values() for name in found or {}}
        return table_error.set_errors(
            list(names), world.quality, table_error.predictor_error(held_out, world.ceiling)
        )

    def difference(self, one: str, other: str) -> Estimate:
        """Cost of one less cost of the other."""
        return score.difference(self.summed[one], self.summed[other], self.output, self.blocks)

    def error(self, one: str, other: str) -> float | None:
        """The table's standard error of that difference; None where the bound is one of them.

        A rival's format was measured on the same text, and so were the sets of one that prunes: its
        own errors are taken as independent of the other's. But two rivals of one format share its
        error, which goes out of their difference.
        """
        if BOUND in (one, other):
            return None
        a, b = self.shares[one] or {}, self.shares[other] or {}
        both = [self.served[name] for name in {one, other}]
        shared = len({served.format for served in both}) == 1 and both[0].format is not None
        formats = [] if shared else [served.format_se for served in both]
        own = [0.0] if len(both) == 1 else [served.sets_se for served in both]
        sets = table_error.difference_error(a, b, self.errors)
        return float(np.hypot.reduce([sets, *own, *formats]))

    def points(self, policy: str, reference: str) -> Estimate:
        """Score of a policy, 0 being the reference and 100 the bound."""
        policies = self.summed
        return score.score(policies[policy], policies[reference], policies[BOUND], self.blocks)


def _contest(cells: list[Cell]) -> Contest:
    served = {name: Served(group) for name, group in by_policy(cells).items()}
    missing = {STATIC, LOOKUP, BOUND} - served.keys()
    if missing:
        raise InvalidResult(f"scores need {', '.join(sorted(missing))} beside the other policies")
    draws, output = draws_of(cells), cells[0].log.output_tokens
    costs = [*(one.cost for one in served.values()), np.ones(output.shape)]
    *sums, whole = draws.summed(costs, output)
    story = catalogue.scenario(cells[0].about["scenario"])
    return Contest(story, served, draws.blocks, dict(zip(served, sums, strict=True)), whole)


def _scenario_entries(cells: list[Cell]) -> list[dict[str, Any]]:
    contest = _contest(cells)
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


def ceilings(story: Scenario) -> tuple[float, ...]:
    """The values of C at which rankings are printed."""
    table = tables.table(story)
    chance = float(np.log(model_spec(table.model).vocabulary))  # nats of a uniform guess
    calib = [sample for sample in table.header.samples if sample.split == "calib"]
    dense = np.mean(max(calib, key=lambda sample: sum(sample.tokens)).dense_nll)
    return (*OTHER_CEILINGS, round(chance - float(dense), 2))


def rankings(found: Results) -> list[dict[str, Any]]:
    """Costs of every policy and rival at other values of C, from the same proposals."""
    listed = []
    for name in dict.fromkeys(cell.about["scenario"] for cell in found.cells):
        story = catalogue.scenario(name)
        world, groups = worlds.scoring_world(story), by_policy(found.of(name))
        for ceiling in ceilings(story):
            costs = {
                policy: score.interquartile_mean([cost_at(cell, world, ceiling) for cell in cells])
                for policy, cells in groups.items()
                if policy != BOUND
            }
            order = sorted(costs, key=lambda policy: costs[policy])
            listed.append({"scenario": name, "ceiling": ceiling, "costs": costs, "ranking": order})
    return listed


def cost_at(cell: Cell, world: World, ceiling: float) -> float:
    """What a cell's proposals cost where a token that is not served costs `ceiling`.

    What happens does not depend on C: the three terms of tokens that are not served grow with it,
    and the served term moves only where a token is worth C. Rows in which that may be are served
    again: of a rival that prunes, in its format's world. Of other rivals the served term stands as it
    is: no format loses as much as C.

    Args:
        world: the scoring world of the cell's scenario.
    """
    quality, *lost = terms_of(cell).values()
    cost = quality + np.asarray(sum(lost)) * (ceiling / world.ceiling)
    prunes = Served([cell]).prunes
    if cell.about["kind"] != RIVAL or prunes:
        again = _capped(cell, min(ceiling, world.ceiling))
        if again.any():
            offset = 0.0
            if prunes:
                world, offset = _format_world(cell)
            there = replace(world, ceiling=ceiling - offset)
            cost[again] = offset + _served_again(cell, there, again)
    return score.mean_cost(cost, cell.log.output_tokens)


def _format_world(cell: Cell) -> tuple[World, float]:
    """The scoring world of a rival that prunes, and what its format costs the dense model."""
    story = catalogue.scenario(cell.about["scenario"])
    rival = rivals.rival(cell.about["policy"])
    offset = rivals.format_nll(story, rival, "test")
    return pruned_rivals.world(story, rival.form_on(story), "test", "test", offset), offset


def _capped(cell: Cell, ceiling: float) -> BoolArray:
    """Rows in which some set's loss may have been cut at `ceiling`, [T, K]."""
    log = cell.log
    changed = (log.kept != log.kept_end).any(axis=-1)
    capped: BoolArray = changed | (log.refused > 0) | (np.round(cell.test_nll, DECIMALS) > ceiling)
    return capped


def _served_again(cell: Cell, world: World, rows: BoolArray) -> FloatArray:
    """Cost of some rows of a cell in another world, [rows.sum()]."""
    log = cell.log
    before = np.concatenate([np.ones((1, *log.kept.shape[1:]), dtype=bool), log.kept_end[:-1]])
    ones = np.ones(int(rows.sum()))
    state = State(log.row[rows], log.limit_row[rows], ones, before[rows])
    strict = ones.astype(bool) & (cell.about["on_misfit"] == "refuse")
    _, outcome = simulator.step(world, state, log.proposal[rows], log.source[rows], strict)
    spent = outcome.seconds
    lost = spent.stall + spent.emergency + spent.refused
    return (spent.loss + world.ceiling * lost) / world.window_s
