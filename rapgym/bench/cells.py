"""The cells of a bench: one policy, one rival or one oracle on one scenario's test split."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from rapgym.arrays import FloatArray
from rapgym.bench import pieces
from rapgym.bench.records import ORACLE, RIVAL, About
from rapgym.bench.results import Cell
from rapgym.guard.guard import refuses_misfit
from rapgym.policies import policy, registry
from rapgym.policies.policy import FITS, briefing
from rapgym.policies.reference import frontier
from rapgym.quality import sets as measured_sets
from rapgym.quality.table import QualityTable
from rapgym.rivals import pruned as pruned_rivals
from rapgym.rivals import rivals
from rapgym.rivals.rivals import Rival
from rapgym.rollout import rollout
from rapgym.rollout.log import EpisodeLog
from rapgym.scenarios import tables, worlds
from rapgym.scenarios.story import Scenario
from rapgym.world import bound, plan
from rapgym.world.records import State, World
from rapgym.world.shield import Reason

BOUND, BEST_PLAN = "bound", "best-plan"  # not policies: they know the future and the test columns
# The zeros of the two scales.
LOOKUP, ADMISSION = "frontier", "partial-admission"
# What stands beside them in every bench: everything under the shield, and the best set trimmed by it.
KEEP_ALL, STATIC_REPAIRED = "keep-all", "static-best-repaired"


def policy_cell(story: Scenario, entry: registry.Entry, seed: int) -> Cell:
    """Serve the test split with a policy that is told of train and calibration columns alone."""
    told, known = briefing(story), policy_facts(story, entry, seed)
    make = partial(registry.build, entry, known.settings)
    log = rollout.run(make, story, "test", told, seed)
    fallback = float((log.source == Reason.FALLBACK).mean())
    spent_us = rollout.decision_us(make(), story, told)
    parts = validation_parts(story, entry, seed)
    about = replace(
        known,
        fallback=fallback,
        fault=rollout.first_fault(make, story, told) if fallback else None,
        decision_us_p50=float(np.quantile(spent_us, 0.5)),
        decision_us_p99=float(np.quantile(spent_us, 0.99)),
        validation_cost=sum(parts) if parts else None,
        validation_parts=parts,
    )
    return scored(story, about, log)


def policy_facts(story: Scenario, entry: registry.Entry, seed: int) -> About:
    """What describes a policy's cell before it is run.

    Raises:
        InvalidPolicy: it is not tuned for this scenario and table, or cannot be built.
    """
    table = tables.table(story)
    options = registry.settings(entry, briefing(story), seed)
    strict = refuses_misfit(registry.build(entry, options))
    passes, tokens = calibration_cost(table, entry.designs)
    return replace(
        described(story, entry.name, entry.kind),
        seed=seed,
        settings=options,
        on_misfit="refuse" if strict else "repair",
        calibration_passes=passes,
        calibration_tokens=tokens,
    )


def described(story: Scenario, name: str, kind: registry.Kind) -> About:
    """What describes a cell of this name by its scenario alone, as if nobody decided."""
    world = worlds.world(story, "test")
    return About(story.id, name, kind, world.blocks, world.ceiling)


def validation_parts(story: Scenario, entry: registry.Entry, seed: int) -> tuple[float, ...]:
    """Cost on train by blocked cross-validation, calibration columns: what champions are chosen by.

    Each third is served by the policy as it is when told of the other two alone. What each piece of
    these rows adds to the cost; nothing of a policy that has seen them.
    """
    if registry.knows_validation(entry):
        return ()
    paid, output = list[FloatArray](), 0
    for fit in FITS:
        told, held_out = briefing(story, fit), policy.held_out(fit)
        options = registry.settings(entry, told, registry.fold_seed(entry, story, fit, seed))
        log = rollout.run(partial(registry.build, entry, options), story, held_out, told, seed)
        rows = (log.cost * log.output_tokens).sum(axis=1)
        paid.append(pieces.of_split(story, held_out).sums(rows))
        output += int(log.output_tokens.sum())
    return tuple((np.concatenate(paid) / max(output, 1)).tolist())


def calibration_cost(
    table: QualityTable, designs: Sequence[str]
) -> tuple[float, float] | tuple[None, None]:
    """What these designs took of calibration text; None twice where not recorded.

    Returns:
        Passes over 512-token sequences, one of each domain; and the same in tokens that went through
        the whole model, blocks that were reused counted once.
    """
    spent = table.header.provenance.get("spent")
    if not isinstance(spent, list) or not designs:
        return None, None
    calib = {each.name: each.tokens for each in measured_sets.samples_of(table.header, "calib")}
    tokens = sum(
        part["passes"] * sum(calib[part["sample"]])
        for part in spent
        if part["sample"] in calib and part["design"] in designs
    )
    unit = min(sum(each) for each in calib.values())
    return tokens / unit, float(tokens)


def scored(story: Scenario, about: About, log: EpisodeLog) -> Cell:
    """A cell with what the scorer adds: the same rows with test columns."""
    judged = rollout.replay(worlds.scoring_world(story), log, refuses_misfit=about.refuses_misfit)
    return Cell(about, log, judged.nll, judged.measured, judged.quality)


def replayed(story: Scenario, cell: Cell) -> Cell:
    """A cell as its proposals give it here."""
    told = rollout.replay(
        worlds.world(story, "test"), cell.log, refuses_misfit=cell.about.refuses_misfit
    )
    return scored(story, cell.about, told)


def test_start(world: World, story: Scenario) -> State:
    """All pairings of a split before their first row."""
    starts = rollout.whole_split(world, story.offsets)
    rows = np.array([start.row for start in starts])
    offsets = np.array([start.offset for start in starts])
    return world.state(rows, (rows + offsets) % len(world.rows))


def bound_cell(story: Scenario) -> Cell:
    """The bound: no rows are executed, so kept sets are empty and all its cost stands as quality."""
    world = worlds.scoring_world(story)
    start, rows = test_start(world, story), len(world.rows)
    cost, output = bound.least_cost_rows(world, world.quality.at_counts, start, rows)
    blank = EpisodeLog.blank(*rollout.paired_rows(world, story.offsets), world.blocks)
    log = replace(blank, output_tokens=output, quality=cost)
    return Cell(oracle_facts(story, BOUND), log, log.nll, log.measured, cost)


def plan_cell(story: Scenario) -> Cell:
    """The best plan found that the environment executes, chosen with test rows and columns."""
    world, told = worlds.scoring_world(story), worlds.world(story, "test")
    start, rows = test_start(world, story), len(world.rows)
    proposals = plan.best_plan(world, frontier(world.quality).kept, start, rows)
    log = rollout.proposed(told, proposals, start)
    return scored(story, oracle_facts(story, BEST_PLAN), log)


def rival_cell(story: Scenario, rival: Rival) -> Cell:
    """A rival from outside the action space on the same rows; kept sets say something if it prunes."""
    told = rivals.log(story, rival, "test", "calib")
    judged = rivals.log(story, rival, "test", "test")
    about = rival_facts(story, rival, judged)
    return Cell(about, told, judged.nll, judged.measured, judged.quality)


def rival_facts(story: Scenario, rival: Rival, judged: EpisodeLog | None = None) -> About:
    """What describes a rival's cell.

    `quality_se` is the standard error of what its format costs beyond the scenario's own; `sets_se`
    that of the sets from which one that prunes serves, whose calibration is that of the lookup in its
    format.

    Args:
        judged: its log with test columns; played again where None.
    """
    form = rival.form_on(story)
    about = replace(
        described(story, rival.name, RIVAL),
        settings={"rule": rival.rule, "weights": form.weights, "kv": form.kv},
        quality_se=rivals.format_nll_se(story, rival, "test"),
    )
    if rival.prunes:
        judged = rivals.log(story, rival, "test", "test") if judged is None else judged
        designs = registry.entry(LOOKUP).designs
        passes, tokens = calibration_cost(tables.format_table(story, form), designs)
        about = replace(
            about,
            calibration_passes=passes,
            calibration_tokens=tokens,
            sets_se=pruned_rivals.sets_se(story, form, judged),
        )
    return about


def oracle_facts(story: Scenario, name: str) -> About:
    """What describes the cell of the bound or of the best plan."""
    return described(story, name, ORACLE)
