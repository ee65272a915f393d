"""A policy in hostile worlds: does it survive, and how often does the shield have to step in?"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.guard import guard
from rapgym.policies import registry
from rapgym.policies.policy import Briefing, Policy, briefing
from rapgym.policies.reference import FrontierLookup
from rapgym.scenarios.catalogue import story_of
from rapgym.scenarios.story import Scenario
from rapgym.testing import worlds
from rapgym.testing.witness import Tally, Witness
from rapgym.world import encoding, simulator
from rapgym.world.records import World
from rapgym.world.shield import Reason


@dataclass(frozen=True, slots=True)
class Visit:
    """What a policy did in one hostile world."""

    kind: str  # of `worlds.HOSTILE`
    tally: Tally
    cost: float  # nats an output token, calibration columns
    reference_cost: float  # of the frontier lookup on the same rows
    fault: str  # why its first unreadable answer could not be read; empty where all could
    unreadable: int  # answers that could not be read
    repeats: bool  # the same seed gave the same proposals once more


@dataclass(frozen=True, slots=True)
class Checkup:
    """What `check_policy` found; as text it is one paragraph."""

    policy: str
    scenario: str
    visits: tuple[Visit, ...]
    tally: Tally = field(default_factory=Tally)  # over all worlds

    @property
    def unreadable(self) -> int:
        """Decisions that the reference policy had to make."""
        return sum(visit.unreadable for visit in self.visits)

    @property
    def repaired(self) -> int:
        """Proposals that the shield had to cut until they fit."""
        return self.tally.reasons["repaired"]

    @property
    def survives(self) -> bool:
        """Every answer could be read, and the same seed gave the same proposals."""
        return not self.unreadable and all(visit.repeats for visit in self.visits)

    def __str__(self) -> str:
        count = self.tally.decisions
        told = [
            f"{self.policy} {'survives' if self.survives else 'does not survive'} {len(self.visits)} "
            f"hostile worlds made of {self.scenario} ({count:,} decisions).",
            "Memory was never overdrawn, and each row equals its plain recount.",
            f"The shield cut {_share(self.repaired, count)} of its proposals until they fitted; "
            f"{_share(self.tally.reasons['refused'], count)} of the rows were refused, and in "
            f"{_share(self.tally.in_mid_row, count)} blocks had to go in mid-row.",
        ]
        faulty = [visit for visit in self.visits if visit.fault]
        if faulty:
            told.append(
                f"{_share(self.unreadable, count)} of its answers could not be read, and the "
                f"reference policy decided instead: first in the world {faulty[0].kind!r}, where "
                f"{faulty[0].fault}."
            )
        restless = [visit.kind for visit in self.visits if not visit.repeats]
        if restless:
            told.append(
                f"In {len(restless)} worlds ({restless[0]!r} first) the same seed gave other "
                "proposals: draw from the `rng` that `propose` is given, and forget everything in "
                "`reset`."
            )
        worst = max(self.visits, key=lambda visit: visit.cost - visit.reference_cost)
        told.append(
            f"Its cost was furthest above the frontier lookup's in {worst.kind!r}: {worst.cost:.3f} "
            f"against {worst.reference_cost:.3f} nats a token."
            if worst.cost > worst.reference_cost
            else "In no world did it cost more than the frontier lookup."
        )
        return " ".join(told)


def check_policy(
    policy: object,
    scenario: str | Scenario = "chat-beside-code",
    *,
    rows: int = 48,
    lanes: int = 3,
    seed: int = 0,
) -> Checkup:
    """Run a policy through hostile worlds made of a scenario: the same model, table and layout.

    Memory is ample, gone, gone for good, gone within seconds, or there to the byte; demand bursts,
    ends, or has no measure. The policy is briefed as on the scenario's train split.

    Args:
        policy: an object with `reset` and `propose`, a class or factory that gives one without
            arguments, or a name that `rapgym bench --policy` would take.
        rows: of each world. lanes: served side by side. seed: of all that is drawn.

    Raises:
        InvalidPolicy: it is no policy, cannot be built, or its `reset` raises.
        InvalidSpec: there is no such scenario.
        BrokenPromise: the shield let something through: that is a bug of rapgym, please report it.

    Example:
        >>> from rapgym.policies.reference import FrontierLookup
        >>> found = check_policy(FrontierLookup, rows=8)
        >>> found.survives, found.unreadable
        (True, 0)
    """
    told = briefing(story_of(scenario))
    make = registry.maker(policy, told)
    visits = tuple(
        _visit(make, told, kind, rows, lanes, [seed, number])
        for number, kind in enumerate(worlds.HOSTILE)
    )
    total = Tally()
    for visit in visits:
        total.add(visit.tally)
    return Checkup(_name(policy, make()), told.scenario.name, visits, total)


def _share(part: int, whole: int) -> str:
    return f"{part / max(whole, 1):.1%}"


def _name(policy: object, made: Policy) -> str:
    return policy if isinstance(policy, str) else type(made).__name__


def _visit(
    make: Callable[[], Policy],
    told: Briefing,
    kind: str,
    rows: int,
    count: int,
    seed: list[int],
) -> Visit:
    world = worlds.hostile(told.train, kind, np.random.default_rng(seed), rows)
    run = _Run(world, told, count, is_watched=True)
    cost, proposals = run.cost(make(), seed)
    again = _Run(world, told, count).cost(make(), seed)[1]
    reference = _Run(world, told, count).cost(FrontierLookup(), seed)[0]
    repeats = bool((proposals == again).all())
    return Visit(kind, run.tally, cost, reference, run.fault, run.unreadable, repeats)


class _Run:
    """One policy in one world, lanes that begin at different rows of the tenant."""

    def __init__(
        self, world: World, told: Briefing, count: int, *, is_watched: bool = False
    ) -> None:
        self.world, self.told, self.count, self.is_watched = world, told, count, is_watched
        self.tally, self.fault, self.unreadable = Tally(), "", 0

    def cost(self, policy: Policy, seed: list[int]) -> tuple[float, BoolArray]:
        """Mean cost, nats an output token, and what was proposed, [T, B, N]."""
        world, rows = self.world, len(self.world.rows)
        reference = FrontierLookup()
        step = Witness(simulator.step, self.tally) if self.is_watched else simulator.step
        guard.begin(policy, self.count, self.told)
        reference.reset(self.count, self.told)
        strict = np.full(self.count, guard.refuses_misfit(policy))
        turned = np.arange(self.count) * rows // self.count
        state = world.state(np.zeros_like(turned), turned)
        rng, total, output = np.random.default_rng(seed), 0.0, 0
        proposals = []
        for age in range(rows):
            seen = encoding.visible(world, state, np.full(self.count, age))
            observation = encoding.observe(world, self.told.layout, seen)
            proposal, readable = guard.ask(policy, observation, rng, world.blocks)
            if not readable.all():
                self.unreadable += int(np.count_nonzero(~readable))
                self.fault = self.fault or _fault(policy, observation, world.blocks)
                instead = reference.propose(observation, rng)
                proposal = np.where(readable[:, None], proposal, instead)
            proposals.append(proposal)
            source = np.where(readable, Reason.POLICY, Reason.FALLBACK)
            state, outcome = step(world, state, proposal, source, strict)
            total += float(outcome.terms.total.sum()) * world.mean_output_tokens
            output += int(outcome.output_tokens.sum())
        return total / max(output, 1), np.array(proposals)


def _fault(policy: Policy, observation: FloatArray, n: int) -> str:
    """Why an answer cannot be read, asked once more."""
    wanted = (len(observation), n)
    try:
        answer: Any = policy.propose(observation.copy(), np.random.default_rng(0))
        shape = getattr(answer, "shape", None)
        if shape == wanted:
            return f"it gave {answer.dtype} entries that are not all 0 or 1"
        return f"it gave {shape or type(answer).__name__}, not bool {wanted}"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a stranger's code
        return f"it raised {type(error).__name__}: {str(error)[:200]}"
