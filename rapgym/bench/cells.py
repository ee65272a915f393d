"""The cells of a bench: one policy, one rival or one oracle on one scenario's test split."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.bench import pieces
from rapgym.bench.records import ORACLE, RIVAL, About
from rapgym.bench.results import Cell
from rapgym.errors import InvalidPolicy
from rapgym.guard import foreign
from rapgym.guard.foreign import Terms
from rapgym.guard.guard import Guarding, refuses_misfit
from rapgym.policies import policy, registry
from rapgym.policies.policy import FITS, Policy, Told, briefing
from rapgym.policies.reference import FrontierLookup, frontier
from rapgym.quality import sets as measured_sets
from rapgym.quality.table import QualityTable
from rapgym.rivals import pruned as pruned_rivals
from rapgym.rivals import rivals
from rapgym.rivals.rivals import Rival
from rapgym.rollout import rollout
from rapgym.rollout.log import EpisodeLog
from rapgym.scenarios import tables, worlds
from rapgym.scenarios.card import card_bytes
from rapgym.scenarios.story import Scenario
from rapgym.world import bound, encoding, plan
from rapgym.world.records import State, World
from rapgym.world.shield import Reason

BOUND, BEST_PLAN = "bound", "best-plan"  # not policies: they know the future and the test columns
# The zeros of the two scales.
LOOKUP, ADMISSION = "frontier", "partial-admission"
# What stands beside them in every bench: everything under the shield, and the best set trimmed by it.
KEEP_ALL, STATIC_REPAIRED = "keep-all", "static-best-repaired"
# Of rows in which the reference policy stands in for another.
STANDS_IN = frozenset({Reason.FALLBACK, Reason.WATCHDOG})


def policy_cell(story: Scenario, entry: registry.Entry, seed: int) -> Cell:
    """Serve the test split with a policy that is told of train and calibration columns alone."""
    known = policy_facts(story, entry, seed)
    make = partial(registry.build, entry, known.settings)
    about, log = _served(story, known, make, Guarding())
    parts = validation_parts(story, entry, seed)
    return scored(story, _validated(about, parts), log)


def user_cell(story: Scenario, entry: registry.Entry, seed: int, terms: Terms) -> Cell:
    """The same of a user's policy, on the terms that were asked for.

    Raises:
        InvalidPolicy: it cannot begin, or its process ended.
    """
    with foreign.made(entry, entry.options, terms) as make:
        strict = refuses_misfit(make())
        known = replace(
            described(story, entry.name, entry.kind),
            seed=seed,
            settings=terms.as_json(),
            on_misfit="refuse" if strict else "repair",
            isolation=make.isolation,
        )
        about, log = _served(story, known, make, terms.guarding)
        parts = _parts(story, lambda _: make, seed, terms.guarding)
    return scored(story, _validated(about, parts), log)


def played_again(story: Scenario, told: Cell) -> Cell:
    """A cell of which nothing is taken but what was proposed, by whom, and what describes the policy.

    Raises:
        InvalidPolicy: its rows are not those of the scenario's test split.
    """
    world, log = worlds.world(story, "test"), told.log
    wanted = (len(world.rows), story.offsets, world.blocks)
    if log.proposal.shape != wanted:
        raise InvalidPolicy(
            f"{told.about.policy} left proposals of {log.proposal.shape}, not {wanted}"
        )
    if not {*np.unique(log.source)} <= STANDS_IN | {Reason.POLICY}:
        raise InvalidPolicy(f"{told.about.policy} left rows that nobody proposes like that")
    served = rollout.proposed(
        world,
        log.proposal,
        test_start(world, story),
        log.source,
        refuses_misfit=told.about.refuses_misfit,
    )
    if instead_differs(story, served).any():
        raise InvalidPolicy(f"{told.about.policy} calls its own what the reference policy proposed")
    fallback = float((served.source == Reason.FALLBACK).mean())
    return scored(story, replace(told.about, fallback=fallback), served)


def instead_differs(story: Scenario, log: EpisodeLog) -> BoolArray:
    """Rows of the test split in which the reference policy is said to stand in, and would not have
    proposed this, bool [T, K].
    """
    world, reference = worlds.world(story, "test"), FrontierLookup()
    layout = encoding.layout(world, card_bytes=card_bytes(story))
    rows, lanes = log.row.shape
    # What it proposes follows from demand and limit alone, so all rows are asked for at once.
    state = world.state(log.row.ravel(), log.limit_row.ravel())
    age = np.repeat(np.arange(rows), lanes)
    seen = encoding.observe(world, layout, encoding.visible(world, state, age))
    reference.reset(rows * lanes, briefing(story))
    instead = reference.propose(seen, np.random.default_rng(0)).reshape(log.proposal.shape)
    stands_in: BoolArray = np.isin(log.source, [*STANDS_IN])
    return stands_in & (instead != log.proposal).any(axis=2)


def _served(
    story: Scenario, known: About, make: Callable[[], Policy], guarding: Guarding
) -> tuple[About, EpisodeLog]:
    """What is known of a policy once it has served the test split, and its rows."""
    told = briefing(story)
    log = rollout.run(make, story, "test", told, known.seed, guarding=guarding)
    fallback = float((log.source == Reason.FALLBACK).mean())
    spent_us = rollout.decision_us(make(), story, told)
    about = replace(
        known,
        fallback=fallback,
        fault=rollout.first_fault(make, story, told) if fallback else None,
        decision_us_p50=float(np.quantile(spent_us, 0.5)),
        decision_us_p99=float(np.quantile(spent_us, 0.99)),
    )
    return about, log


def _validated(about: About, parts: tuple[float, ...]) -> About:
    return replace(about, validation_cost=sum(parts) if parts else None, validation_parts=parts)


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

    options = {
        fit: registry.settings(
            entry, briefing(story, fit), registry.fold_seed(entry, story, fit, seed)
        )
        for fit in FITS
    }
    if entry.reads:
        return _learned_parts(story, entry, json.dumps(options))
    return _parts(story, lambda fit: partial(registry.build, entry, options[fit]), seed, Guarding())


@lru_cache(maxsize=4)
def _learned_parts(story: Scenario, entry: registry.Entry, options: str) -> tuple[float, ...]:
    """The same of a method that learns: seeds that share the runs of their folds share it, for it draws nothing.

    Args:
        options: its settings in each fold, as JSON; the sha256 of each run is among them.
    """
    told = json.loads(options)
    return _parts(story, lambda fit: partial(registry.build, entry, told[fit]), 0, Guarding())


def _parts(
    story: Scenario, make: Callable[[Told], Callable[[], Policy]], seed: int, guarding: Guarding
) -> tuple[float, ...]:
    """The same of the policy objects that `make` gives for each fold."""
    paid, output = list[FloatArray](), 0
    for fit in FITS:
        told, held_out = briefing(story, fit), policy.held_out(fit)
        log = rollout.run(make(fit), story, held_out, told, seed, guarding=guarding)
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
