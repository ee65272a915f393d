"""Rankings at other prices of a token that is not served."""

from dataclasses import replace
from typing import Any

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.bench import score
from rapgym.bench.cells import BOUND
from rapgym.bench.contest import by_policy, terms_of
from rapgym.bench.results import DECIMALS, Cell, Results
from rapgym.model.shapes import model_spec
from rapgym.rivals import pruned as pruned_rivals
from rapgym.rivals import rivals
from rapgym.scenarios import catalogue, tables, worlds
from rapgym.scenarios.story import Scenario
from rapgym.world import simulator
from rapgym.world.records import World

OTHER_CEILINGS = (1.0, 2.0, 3.9)  # and ln(vocabulary) - dense; nats


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
    for name in dict.fromkeys(cell.about.scenario for cell in found.cells):
        story = catalogue.scenario(name)
        world, groups = worlds.scoring_world(story), by_policy(found.of(name))
        for ceiling in ceilings(story):
            costs = {
                policy: float(np.mean([cost_at(cell, world, ceiling) for cell in cells]))
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
    prunes = cell.about.prunes
    if not cell.about.is_rival or prunes:
        again = _capped(cell, min(ceiling, world.ceiling))
        if again.any():
            there = replace(_format_world(cell) if prunes else world, ceiling=ceiling)
            cost[again] = _served_again(cell, there, again)
    return score.mean_cost(cost, cell.log.output_tokens)


def _format_world(cell: Cell) -> World:
    """The scoring world of a rival that prunes."""
    story = catalogue.scenario(cell.about.scenario)
    form = rivals.rival(cell.about.policy).form_on(story)
    return pruned_rivals.world(story, form, "test", "test")


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
    state = world.state(log.row[rows], log.limit_row[rows], loaded=before[rows])
    strict = np.ones(state.lanes, dtype=bool) & cell.about.refuses_misfit
    _, outcome = simulator.step(world, state, log.proposal[rows], log.source[rows], strict)
    spent = outcome.seconds
    lost = spent.stall + spent.emergency + spent.refused
    return (spent.loss + world.ceiling * lost) / world.window_s
