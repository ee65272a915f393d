"""A policy serves rows: what it proposed, what was executed, what it cost."""

import time
from collections.abc import Callable, Iterator

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.errors import InvalidResult, InvalidSpec
from rapgym.guard.guard import (
    Guard,
    Guarding,
    Served,
    answered,
    ask,
    begin,
    refuses_misfit,
    strict_lanes,
)
from rapgym.guard.process import PolicyProcess
from rapgym.policies import registry
from rapgym.policies.policy import Briefing, Policy, briefing, told_before
from rapgym.rollout import at_once
from rapgym.rollout.log import EpisodeLog, LogWriter, joined
from rapgym.scenarios import worlds
from rapgym.scenarios.catalogue import story_of
from rapgym.scenarios.lanes import Lanes, Start
from rapgym.scenarios.story import Scenario, Split
from rapgym.workload import series
from rapgym.world import pace, simulator
from rapgym.world.records import State, World
from rapgym.world.shield import Reason


def whole_split(world: World, offsets: int) -> list[Start]:
    """One lane for each pairing of a split: offset k of K turns the tenant by k/K of the rows."""
    rows = len(world.rows)
    return [Start(0, k * rows // offsets, 1.0, rows) for k in range(offsets)]


def paired_rows(world: World, offsets: int) -> tuple[IntArray, IntArray]:
    """Rows of demand and of the limit of a whole split in all its pairings, int64 [T, B] each."""
    starts, rows = whole_split(world, offsets), len(world.rows)
    row = (np.arange(rows)[:, None] + np.array([start.row for start in starts])) % rows
    return row, (row + np.array([start.offset for start in starts])) % rows


def run_policy(
    policy: object,
    scenario: str | Scenario = "chat-beside-code",
    split: Split = "test",
    *,
    seed: int = 0,
) -> EpisodeLog:
    """Let a policy serve a whole split in each of the scenario's pairings, under the shield.

    It is told of train before "test", of the rest of train before "validation-1" and its like and
    before "check", and of these rows themselves before "train", "fit-1" and "learn".

    Args:
        policy: an object with `reset` and `propose`, a class or factory that gives one without
            arguments, or a name that `rapgym bench --policy` would take.
        scenario: a name or a `Scenario`.
        seed: of what the policy draws; of the training run, for a name of a method that learns.

    Returns:
        A log of T rows in B pairings: `proposal` and `kept`, bool [T, B, N]; `limit_bytes` and
        `used_bytes`, int64 [T, B]; `quality`, `stall`, `emergency` and `refused`, which add up to
        `cost`, nats an output token above dense by calibration columns, float64 [T, B];
        `mean_cost`. Scores are made of test columns, by `run_bench` alone.

    Raises:
        InvalidPolicy: it is no policy, cannot be built, is not tuned for this scenario, or its
            `reset` raises.
        InvalidSpec: there is no such scenario or split.

    Example:
        >>> log = rapgym.run_policy("gsi", "chat-beside-code", "check")
        >>> log.kept.shape == log.proposal.shape, log.mean_cost > 0
        (True, True)
    """
    story = story_of(scenario)
    if split not in series.SPLITS:
        raise InvalidSpec(f"no split {split!r}; there are {', '.join(series.SPLITS)}")
    told = briefing(story, told_before(split))
    return run(registry.maker(policy, told, seed), story, split, told, seed)


def run(
    make: Callable[[], Policy],
    story: Scenario,
    split: Split,
    briefing: Briefing,
    seed: int = 0,
    copies: int = 1,
    guarding: Guarding | None = None,
) -> EpisodeLog:
    """Serve a whole split in each of its pairings, calibration columns only.

    Pairings turn the same tenant rows, so one pairing's past is another's future: each is served
    after the other, by a policy object of its own, with a random stream of its own. Those of the
    package's policies that declare that they do not look serve all pairings together: see `at_once`.

    Args:
        make: gives a new policy object.
        copies: lanes of each pairing, for a policy whose lanes try different settings; lane
            k * copies + i is the i-th copy of pairing k.
        guarding: whether a watchdog or a deadline stands above the policy; neither unless stated.

    Raises:
        InvalidPolicy: its `reset` raises, or `on_misfit` is declared wrongly.
    """
    world = worlds.world(story, split)
    starts = whole_split(world, story.offsets)
    compiled = pace.is_worth(world, sum(start.rows for start in starts) * copies)
    policy, logs = make(), []
    if copies == 1 and (guarding is None or guarding == Guarding()):
        lanes, log = Lanes(story, split, len(starts), compiled=compiled), None
        if lanes.twin is not None and at_once.can_tally(policy):
            policies = [policy, *(make() for _ in starts[1:])]
            log = at_once.in_turn(policies, lanes, starts, briefing)
        elif at_once.can_serve(policy, lanes):
            log = at_once.episodes(policy, lanes, starts, briefing)
        elif at_once.can_serve_in_step(policy):
            policies = [policy, *(make() for _ in starts[1:])]
            rngs = [np.random.default_rng([seed, k]) for k in range(len(starts))]
            log = at_once.in_step(policies, lanes, starts, briefing, rngs)
        if log is not None:
            return log
    for k, start in enumerate(starts):
        lanes = Lanes(story, split, copies, compiled=compiled)
        policy = make() if k else policy
        logs.append(episode(policy, lanes, start, briefing, [seed, k], guarding))
    return joined(logs)


def episode(
    policy: Policy,
    lanes: Lanes,
    start: Start,
    briefing: Briefing,
    seed: list[int],
    guarding: Guarding | None = None,
) -> EpisodeLog:
    """The log of one episode in every lane, whatever serves the rows: `lanes.step` may be a device."""
    log = LogWriter()
    for before, served in served_rows(policy, lanes, start, briefing, seed, guarding):
        source = served.decided.source
        log.add(lanes.world, before.row, before.limit_row, source, served.outcome)
    return log.finish()


def served_rows(
    policy: Policy,
    lanes: Lanes,
    start: Start,
    briefing: Briefing,
    seed: list[int],
    guarding: Guarding | None = None,
) -> Iterator[tuple[State, Served]]:
    """Row by row: the state before it, how it was decided and what happened."""
    for lane in range(lanes.count):
        lanes.restart(lane, start)
    guard, rng = Guard(policy, lanes, briefing, guarding), np.random.default_rng(seed)
    for _ in range(start.rows):
        before = lanes.state
        yield before, guard.serve(rng)


def first_fault(make: Callable[[], Policy], story: Scenario, briefing: Briefing) -> str | None:
    """Why a policy's first answer cannot be read, for its author; None where it can."""
    lanes, policy = Lanes(story, briefing.split, 1), make()
    lanes.restart(0, Start(0, 0, 1.0, 1))
    begin(policy, 1, briefing)
    _, _, fault = answered(policy, lanes.observe(), np.random.default_rng(0), lanes.world.blocks)
    return policy.why() if fault and isinstance(policy, PolicyProcess) else fault


def decision_us(policy: Policy, story: Scenario, briefing: Briefing, rows: int = 256) -> FloatArray:
    """Microseconds of single decisions on the briefing's rows, one lane, the first ten not counted."""
    lanes = Lanes(story, briefing.split, 1, compiled=pace.is_loaded())
    count = min(rows + 10, len(lanes.world.rows))
    lanes.restart(0, Start(0, 0, 1.0, count))
    begin(policy, 1, briefing)
    rng, spent = np.random.default_rng(0), []
    for _ in range(count):
        observation = lanes.observe()
        asked_ns = time.perf_counter_ns()
        proposal, _ = ask(policy, observation, rng, lanes.world.blocks)
        spent.append((time.perf_counter_ns() - asked_ns) / 1000)
        lanes.serve(proposal, refuses_misfit=refuses_misfit(policy))
    return np.array(spent[10:] or spent)


def proposed(
    world: World,
    proposals: BoolArray,
    start: State,
    sources: IntArray | None = None,
    *,
    refuses_misfit: bool = False,
) -> EpisodeLog:
    """The log of serving given proposals, bool [T, B, N], in turn from `start` on.

    Args:
        sources: whose they are, [T, B]; the policy's own unless stated.
    """
    state, writer = start, LogWriter()
    if sources is None:
        sources = np.full(proposals.shape[:2], Reason.POLICY, dtype=np.int64)
    step = pace.step_for(world, sources.size)
    for proposal, source in zip(proposals, sources, strict=True):
        before, strict = state, strict_lanes(refuses_misfit, source)
        state, outcome = step(world, state, proposal, source, strict)
        writer.add(world, before.row, before.limit_row, source, outcome)
    return writer.finish()


def replay(world: World, log: EpisodeLog, *, refuses_misfit: bool) -> EpisodeLog:
    """Serve the proposals of a log again in a world, for instance one with test columns.

    What is in memory before each row is taken from the log, so all rows are served at once; a
    wrong entry therefore shows as a difference in its own row and in the next.

    Raises:
        InvalidResult: the log's rows are not rows of this world.
    """
    rows, lanes = log.row.shape
    if lanes == 0 or rows == 0 or log.proposal.shape[-1] != world.blocks:
        raise InvalidResult("the log is empty or of another model")
    for column in (log.row, log.limit_row):
        if column.min() < 0 or column.max() >= len(world.rows):
            raise InvalidResult("the log names rows that its split does not have")
    before = np.concatenate([np.ones((1, lanes, world.blocks), dtype=bool), log.kept_end[:-1]])
    flat = world.state(
        log.row.ravel(), log.limit_row.ravel(), loaded=before.reshape(-1, world.blocks)
    )
    strict = strict_lanes(refuses_misfit, log.source.ravel())
    proposal = log.proposal.reshape(-1, world.blocks)
    _, outcome = simulator.step(world, flat, proposal, log.source.ravel(), strict)
    writer = LogWriter()
    writer.add(world, flat.row, flat.limit_row, log.source.ravel(), outcome)
    return writer.finish().reshaped(rows, lanes)
