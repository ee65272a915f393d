"""From results to the entries of `bench`: both scores with intervals, ties, and rankings at other C."""

from dataclasses import replace
from typing import Any

import numpy as np

from rapgym import rollout, scenario, score
from rapgym.bench import BOUND, LOOKUP, STATIC
from rapgym.errors import InvalidResult
from rapgym.results import Cell, Results
from rapgym.scenario import Scenario
from rapgym.score import Resamples
from rapgym.specs import FloatArray, IntArray, model_spec

TERMS = ("quality", "stall", "emergency", "refused")
OTHER_CEILINGS = (1.0, 2.0, 3.9)  # and ln(vocabulary) - dense; nats


def entries(found: Results) -> list[dict[str, Any]]:
    """One entry a scenario and policy, best first within a scenario; seeds are taken together."""
    listed = []
    for name in dict.fromkeys(cell.about["scenario"] for cell in found.cells):
        listed += _scenario_entries(found.of(name))
    return listed


def summary(found: Results) -> dict[str, Any]:
    """What the header of a results file says of its rows."""
    return {"entries": entries(found), "rankings": rankings(found)}


def _pairing(cell: Cell) -> tuple[int, IntArray]:
    """Rows of the split, and the offset of each lane."""
    rows = len(cell.log)
    return rows, (cell.log.limit_row[0] - cell.log.row[0]) % rows


def draws_of(cells: list[Cell]) -> Resamples:
    """The resamples that all policies of a scenario share."""
    story = scenario.scenario(cells[0].about["scenario"])
    return score.resamples(*_pairing(cells[0]), story.window_s)


def by_policy(cells: list[Cell]) -> dict[str, list[Cell]]:
    """Cells of each policy: one a seed."""
    grouped: dict[str, list[Cell]] = {}
    for cell in cells:
        grouped.setdefault(cell.about["policy"], []).append(cell)
    return grouped


def cost_of(cells: list[Cell]) -> FloatArray:
    """Cost of each row with test columns, averaged over seeds, [T, K]."""
    return np.mean([cell.test_cost for cell in cells], axis=0)


def _scenario_entries(cells: list[Cell]) -> list[dict[str, Any]]:
    policies, draws = by_policy(cells), draws_of(cells)
    missing = {STATIC, LOOKUP, BOUND} - policies.keys()
    if missing:
        raise InvalidResult(f"scores need {', '.join(sorted(missing))} beside the other policies")
    output = cells[0].log.output_tokens
    ends = {name: cost_of(policies[name]) for name in (STATIC, LOOKUP, BOUND)}
    listed = [_entry(name, group, ends, output, draws) for name, group in policies.items()]
    listed.sort(key=lambda entry: entry["cost"])
    _name_ties(listed, policies, output, draws)
    return listed


def _entry(
    name: str,
    cells: list[Cell],
    ends: dict[str, FloatArray],
    output: IntArray,
    draws: Resamples,
) -> dict[str, Any]:
    cost, about = cost_of(cells), cells[0].about
    adaptivity = score.score(cost, ends[STATIC], ends[BOUND], output, draws)
    foresight = score.score(cost, ends[LOOKUP], ends[BOUND], output, draws)
    terms = {
        "quality": score.mean_cost(np.mean([c.test_quality for c in cells], axis=0), output),
        **{
            term: score.mean_cost(np.mean([getattr(c.log, term) for c in cells], axis=0), output)
            for term in TERMS[1:]
        },
    }
    return {
        "scenario": about["scenario"],
        "policy": name,
        "kind": about["kind"],
        "action_space": about.get("action_space", "kept set"),
        "adaptivity": _or_none(adaptivity.value),
        "adaptivity_low": _or_none(adaptivity.low),
        "adaptivity_high": _or_none(adaptivity.high),
        "foresight": _or_none(foresight.value),
        "low": _or_none(foresight.low),
        "high": _or_none(foresight.high),
        "cost": score.mean_cost(cost, output),
        **terms,
        "unmeasured": 1 - float(np.mean([cell.test_measured.mean() for cell in cells])),
        "fallback": float(np.mean([cell.about.get("fallback", 0.0) for cell in cells])),
        "fault": about.get("fault"),
        "decision_us_p50": about["decision_us_p50"],
        "decision_us_p99": about["decision_us_p99"],
        "calibration_passes": about["calibration_passes"],
        "seeds": len(cells),
    }


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _name_ties(
    listed: list[dict[str, Any]],
    policies: dict[str, list[Cell]],
    output: IntArray,
    draws: Resamples,
) -> None:
    """Say of each policy whether it can be told from the best one that is no oracle."""
    # A policy whose answers could not be read was served by the reference policy instead.
    real = [entry for entry in listed if entry["kind"] != "bound" and not entry["fallback"]]
    best = cost_of(policies[real[0]["policy"]])
    for entry in listed:
        found = score.difference(cost_of(policies[entry["policy"]]), best, output, draws)
        entry["behind_best"] = found.value
        entry["behind_best_low"], entry["behind_best_high"] = found.low, found.high
        entry["tied_for_best"] = entry in real and score.tied(found)


def ceilings(story: Scenario) -> tuple[float, ...]:
    """The values of C at which rankings are printed."""
    table = scenario.table(story)
    chance = float(np.log(model_spec(table.model).vocabulary))  # nats of a uniform guess
    calib = [sample for sample in table.header.samples if sample.split == "calib"]
    dense = np.mean(max(calib, key=lambda sample: sum(sample.tokens)).dense_nll)
    return (*OTHER_CEILINGS, round(chance - float(dense), 2))


def rankings(found: Results) -> list[dict[str, Any]]:
    """Costs of every policy at other values of C, from the same proposals."""
    listed = []
    for name in dict.fromkeys(cell.about["scenario"] for cell in found.cells):
        story = scenario.scenario(name)
        world = scenario.scoring_world(story)
        for ceiling in ceilings(story):
            costs = {}
            for policy, cells in by_policy(found.of(name)).items():
                if policy == BOUND:
                    continue
                there = replace(world, ceiling=ceiling)
                strict = cells[0].about["on_misfit"] == "refuse"
                logs = [rollout.replay(there, cell.log, refuses_misfit=strict) for cell in cells]
                costs[policy] = float(np.mean([log.mean_cost for log in logs]))
            order = sorted(costs, key=lambda policy: costs[policy])
            listed.append({"scenario": name, "ceiling": ceiling, "costs": costs, "ranking": order})
    return listed
