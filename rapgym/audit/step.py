"""Every decision of a step on record: the signature of `simulator.step`, and a line for each lane.

Whatever takes a step can be audited so: a rollout, an environment, its vector form, a device.

    with rapgym.AuditLog("decisions.jsonl") as log:
        env = gymnasium.make("RAP-KeptSet-v0", scenario="chat-beside-code")
        rapgym.audit_env(env, log, policy="mine")
"""

from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import Env
from gymnasium.vector import VectorEnv

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.audit.context import AuditContext
from rapgym.audit.decisions import Decisions
from rapgym.audit.log import AuditLog
from rapgym.envs.play import close_step
from rapgym.errors import InvalidSpec
from rapgym.guard import foreign
from rapgym.guard.foreign import Terms
from rapgym.guard.guard import Decided, Guard, Guarding
from rapgym.guard.watchdog import Mode
from rapgym.policies import registry
from rapgym.policies.policy import briefing, told_before
from rapgym.rollout import rollout
from rapgym.scenarios import tables, worlds
from rapgym.scenarios.lanes import Lanes
from rapgym.scenarios.story import Scenario, Split
from rapgym.world import encoding, pace, simulator
from rapgym.world.records import Demand, Fall, Outcome, State, World
from rapgym.world.shield import Decision, Reason
from rapgym.world.simulator import Step


class AuditedStep:
    """A step that logs what it decides: each row once, and each fall of the limit inside a row once.

    A row is logged when it has been served, with what it cost. Under `on_failure="stop"` no row is
    served while the log cannot be written.
    """

    def __init__(self, step: Step, log: AuditLog, context: AuditContext) -> None:
        self._step, self._log, self._context = step, log, context
        self._told: dict[str, Any] = {}
        self._measures = step is not simulator.step

    def told(self, **more: Any) -> None:
        """What is known of the next call beside its arguments, by names of `Decisions`: its lateness,
        the observation, the watchdog's state. Each [B, ...] over the lanes of that call."""
        self._told = more

    def __call__(
        self,
        world: World,
        state: State,
        proposal: BoolArray,
        source: IntArray | None = None,
        refuses_misfit: BoolArray | None = None,
        /,
    ) -> tuple[State, Outcome]:
        """As the step that is audited.

        Raises:
            AuditFailed: the log cannot be written, and its rule is to stop.
        """
        self._log.check()
        told, self._told = self._told, {}
        following, outcome = self._step(world, state, proposal, source, refuses_misfit)
        lanes = state.lanes
        whose = np.full(lanes, Reason.POLICY, dtype=np.int64) if source is None else source
        strict = np.zeros(lanes, dtype=bool) if refuses_misfit is None else refuses_misfit
        if self._measures:
            told["measured_bytes"] = outcome.used_bytes
        decided = _decisions(self._context, world, state, outcome, whose, strict)
        self._log.append(self._context, replace(decided, **told))
        for fall in outcome.falls:
            self._log.append(self._context, _of_fall(self._context, world, state, decided, fall))
        return following, outcome

    def close(self) -> None:
        """Write what is held and close the step that is audited; the log stays open."""
        self._log.flush()
        close_step(self._step)


def _decisions(
    context: AuditContext,
    world: World,
    state: State,
    outcome: Outcome,
    source: IntArray,
    strict: BoolArray,
) -> Decisions:
    """What a served row says of the decision at its start."""
    demand, budget, cost = _account(context, world, state, outcome)
    return Decisions(
        demand=demand,
        limit_bytes=outcome.limit_bytes,
        budget_bytes=budget,
        proposal=outcome.proposal,
        source=source,
        refuses_misfit=strict,
        decision=Decision(outcome.kept, outcome.refused, outcome.reason),
        loaded=state.loaded,
        lane=np.arange(state.lanes),
        row=state.row,
        limit_row=state.limit_row,
        nll=outcome.nll,
        measured=outcome.measured,
        output_tokens=outcome.output_tokens,
        cost=cost,
    )


def _account(
    context: AuditContext, world: World, state: State, outcome: Outcome
) -> tuple[Demand, IntArray, FloatArray]:
    """What rows asked for, what blocks could take, [B], and the four terms of cost, [B, 4]."""
    seconds, twin = outcome.seconds, None
    # On a device the limit is as it was measured.
    if pace.is_loaded() and outcome.limit_bytes.tolist() == world.limits(state)[:, 0].tolist():
        twin = pace.twin_for(world, pace.REFERENCE_ROWS)
    if twin is not None:
        return twin.account(state, seconds)
    demand = world.demand(state)
    unserved = np.stack([seconds.stall, seconds.emergency, seconds.refused], axis=1)
    cost = np.column_stack([seconds.loss, world.ceiling * unserved]) / world.window_s
    return demand, context.footprint.budget_bytes(outcome.limit_bytes, demand.prompt_tokens), cost


def _of_fall(
    context: AuditContext, world: World, state: State, decided: Decisions, fall: Fall
) -> Decisions:
    """What the shield decided inside a row, where the limit fell below what was in use."""
    demand, limit = decided.demand.at(fall.lanes), world.limits(state)[fall.lanes, fall.second]
    nll, measured = world.quality.nll(fall.kept)
    reason = np.where(fall.refused, Reason.REFUSED, Reason.EMERGENCY)
    return Decisions(
        demand=demand,
        limit_bytes=limit,
        budget_bytes=context.footprint.budget_bytes(limit, demand.prompt_tokens),
        proposal=fall.before,
        source=np.full(len(fall.lanes), Reason.EMERGENCY),
        refuses_misfit=decided.refuses_misfit[fall.lanes],
        decision=Decision(fall.kept, fall.refused, reason),
        loaded=fall.before,
        lane=fall.lanes,
        row=state.row[fall.lanes],
        limit_row=state.limit_row[fall.lanes],
        second=fall.second,
        nll=nll,
        measured=measured,
    )


def context_of(lanes: Lanes, policy: str) -> AuditContext:
    """What the decisions of some lanes have in common; observations are those of whole rows."""
    whole_rows = encoding.layout(lanes.world, card_bytes=lanes.layout.card_bytes)
    return AuditContext.of(
        lanes.world,
        scenario=lanes.story.id,
        policy=policy,
        split=lanes.split,
        table_sha256=tables.table(lanes.story).sha256,
        layout=whole_rows,
    )


class _SeenStep(AuditedStep):
    """Of all lanes at once: what they observe is known."""

    def __init__(self, step: Step, log: AuditLog, context: AuditContext, lanes: Lanes) -> None:
        super().__init__(step, log, context)
        self._lanes = lanes

    def __call__(self, world: World, state: State, proposal: BoolArray,
                 source: IntArray | None = None, refuses_misfit: BoolArray | None = None, /
                 ) -> tuple[State, Outcome]:  # fmt: skip
        if "observation" not in self._told and state.lanes == self._lanes.count:
            self._told = {"observation": self._lanes.observe(), **self._told}
        return super().__call__(world, state, proposal, source, refuses_misfit)


def audit(lanes: Lanes, log: AuditLog, *, policy: str) -> AuditedStep:
    """Log what is decided in some lanes from now on; those of an environment are `env.unwrapped.lanes`.

    The observation on record is that of the row, without the small steps of `RAP-v0`. Where only some
    lanes serve a row, as in that environment's vector form, none is, unless `told` says it.
    """
    audited = _SeenStep(lanes.step, log, context_of(lanes, policy), lanes)
    lanes.step = audited
    return audited


def audit_env(env: Env[Any, Any] | VectorEnv[Any, Any, Any], log: AuditLog, *, policy: str) -> None:
    """Log every decision of an environment from now on: a line for each row of each lane, and one
    for each second inside a row in which the shield had to drop blocks; of RAP-Serve-v0 a line a second.

    Args:
        env: any of rapgym's, single or vector, wrapped or not.
        log: that is open; closing `env` writes what it holds.
        policy: the name under which decisions are logged.

    Raises:
        InvalidSpec: the environment is not one of rapgym's, or is audited already.

    Example:
        >>> env = gymnasium.make("RAP-Counts-v0", scenario="chat-beside-code")
        >>> with rapgym.AuditLog(folder / "decisions.jsonl") as log:
        ...     rapgym.audit_env(env, log, policy="dense")
        ...     _ = env.reset(seed=0)
        ...     _ = env.step([0, 0])
        ...     env.close()
        >>> (folder / "decisions.jsonl").read_text().count('"reason"') > 0
        True
    """
    lanes = getattr(env.unwrapped, "lanes", None)
    if not isinstance(lanes, Lanes):
        from rapgym.audit.serving import step as serving_step
        from rapgym.envs.serve_play import ServePlay  # as that: loads numba

        play = getattr(env.unwrapped, "_play", None)
        if isinstance(play, ServePlay):
            serving_step.audit(play, log, policy=policy)
            return
        raise InvalidSpec(
            f"{env.unwrapped!r} is no environment of rapgym; several in one are made by "
            "gymnasium.make_vec without vectorization_mode"
        )
    if isinstance(lanes.step, AuditedStep):
        raise InvalidSpec("the environment is audited already; make another for another log")
    audit(lanes, log, policy=policy)


class AuditedGuard(Guard):
    """A guard whose decisions are on record with all that they depended on, its step being `audited`."""

    def decide(self, observation: FloatArray, rng: np.random.Generator) -> Decided:
        decided = super().decide(observation, rng)
        step = self._lanes.step
        if isinstance(step, AuditedStep):
            step.told(**told_of(decided, self._deadline_us))
        return decided


def told_of(decided: Decided, deadline_us: float) -> dict[str, Any]:
    """What a guard knows of a decision, by names of `Decisions`."""
    lanes, state = len(decided.asked), decided.watchdog
    late_us = max(1, int(np.ceil(decided.spent_us - deadline_us))) if decided.late else 0
    return {
        "observation": decided.observation,
        "own_proposal": decided.asked,
        "readable": decided.readable,
        "late_us": np.full(lanes, late_us),
        "watchdog": None if state is None else [Mode(m).name.lower() for m in state.mode.tolist()],
        "pinned": np.zeros(lanes, dtype=bool) if decided.pinned is None else decided.pinned,
    }


def log_run(
    log: AuditLog,
    story: Scenario,
    split: Split,
    name: str,
    *,
    seed: int = 0,
    guarding: Guarding | None = None,
    terms: Terms | None = None,
) -> int:
    """Log what a policy decides on a split, one pairing after the other; how many rows it served.

    Args:
        name: of the policy, as bench takes it. Where a user's runs in this process, the log says so
            beside it.
        terms: on which a user's policy is run; in a process of its own unless stated.

    Raises:
        InvalidPolicy: there is none of this name, it is not tuned for this scenario, or its process
            ended.
        AuditFailed: the log cannot be written, and its rule is to stop.
    """
    entry, told = registry.entry(name), briefing(story, told_before(split))
    options = registry.settings(entry, told, seed)
    terms, rows = terms or Terms(), 0
    called = f"{name} (in-process)" if entry.is_own and terms.in_process else name
    starts = rollout.whole_split(worlds.world(story, split), story.offsets)
    with foreign.made(entry, options, terms) as make:
        for pairing, start in enumerate(starts):
            lanes = Lanes(story, split, 1)
            audit(lanes, log, policy=called)
            lanes.restart(0, start)
            guard = AuditedGuard(make(), lanes, told, guarding)
            rng = np.random.default_rng([seed, pairing])
            for _ in range(start.rows):
                guard.serve(rng)
                make.check()
            rows += start.rows
    return rows
