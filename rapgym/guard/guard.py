"""What stands between a policy and the step: one path asks a policy, whatever serves the rows.

Of each row it knows, in this order of precedence, whose proposal goes to the shield:

- override: an operator has pinned a kept set;
- watchdog: the policy has cost more than the reference policy would, so the reference decides;
- fallback: the policy's answer cannot be read, or came too late: the reference stands in for the row;
- policy: its own proposal.

`ruled` is that rule, a pure function. Time enters as one of its arguments, `late`, which `Served`
holds with all the others, so that a decision can be repeated from what was logged.
"""

import time
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray, holds_in_all
from rapgym.errors import InvalidPolicy, InvalidSpec
from rapgym.guard import watchdog
from rapgym.guard.shadow import Shadows
from rapgym.guard.watchdog import Costs, Rules, WatchdogState
from rapgym.policies.policy import Briefing, Policy
from rapgym.policies.reference import FrontierLookup
from rapgym.scenarios.lanes import Lanes
from rapgym.world import shield
from rapgym.world.records import Outcome
from rapgym.world.shield import Reason


def refuses_misfit(policy: object) -> bool:
    """Whether a policy declares that a misfit is refused rather than repaired.

    Raises:
        InvalidPolicy: it declares something else.
    """
    declared = getattr(policy, "on_misfit", "repair")
    if declared not in ("repair", "refuse"):
        raise InvalidPolicy(f"on_misfit is {declared!r}; it can be 'repair' or 'refuse'")
    return bool(declared == "refuse")


def begin(policy: Any, lanes: int, briefing: Any) -> None:
    """Reset a policy of either world with a briefing of it.

    Raises:
        InvalidPolicy: it raises.
    """
    try:
        policy.reset(lanes, briefing)
    except (InvalidPolicy, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise InvalidPolicy(f"{type(policy).__name__}.reset raises {told_of(error)}") from error


def ask(
    policy: Policy, observation: FloatArray, rng: np.random.Generator, n: int
) -> tuple[BoolArray, BoolArray]:
    """Ask a policy for its proposals; whatever it does, this returns.

    Returns:
        bool [B, N], and which lanes' answers could be read, bool [B].
    """
    proposal, readable, _ = answered(policy, observation, rng, n)
    return proposal, readable


def answered(
    policy: Policy, observation: FloatArray, rng: np.random.Generator, n: int
) -> tuple[BoolArray, BoolArray, str | None]:
    """What `ask` gives, and what was wrong with the answer; None where nothing was."""
    lanes, fault = len(observation), None
    try:
        answer = policy.propose(observation.copy(), rng)
        # A subclass may do anything in its operations: it takes the long way.
        if type(answer) is np.ndarray and answer.dtype == bool and answer.shape == (lanes, n):
            return answer.copy(), _every(lanes), None
        answers = list(islice(answer, lanes)) if len(answer) == lanes else []
        given = answer.shape if isinstance(answer, np.ndarray) else type(answer).__name__
        fault = f"propose gives {given}, not {(lanes, n)}"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a policy is a stranger's code; it may even exit
        answers, fault = [], f"propose raises {told_of(error)}"
    proposal, readable = np.ones((lanes, n), dtype=bool), np.zeros(lanes, dtype=bool)
    for lane, one in enumerate(answers):
        read = shield.read_proposal(one, n)
        if read is not None:
            proposal[lane], readable[lane] = read, True
    return proposal, readable, None if holds_in_all(readable) else fault


@lru_cache(maxsize=8)
def _every(lanes: int) -> BoolArray:
    """All lanes, bool [B]; rows share it."""
    every = np.ones(lanes, dtype=bool)
    every.flags.writeable = False
    return every


class Proposals:
    """How policies of windows are asked, see `forms.Form`: N booleans a lane."""

    method = "propose"

    def answered(
        self, policy: Policy, observation: FloatArray, rng: np.random.Generator, briefing: Briefing
    ) -> tuple[BoolArray, BoolArray, str | None]:
        return answered(policy, observation, rng, briefing.train.blocks)

    def size(self, briefing: Briefing) -> int:
        return briefing.train.blocks

    def packed(self, answers: BoolArray) -> bytes:
        return answers.tobytes()

    def unpacked(self, content: bytes, briefing: Briefing) -> BoolArray:
        entries = np.frombuffer(content, dtype=np.uint8)
        if entries.max(initial=0) > 1:
            raise ValueError("bytes that are neither 0 nor 1")
        return (entries == 1).reshape(-1, briefing.train.blocks)


def told_of(error: BaseException) -> str:
    """What a stranger's exception says of itself; its own code may fail in that."""
    try:
        return str(repr(error))
    except BaseException:
        return type(error).__name__


def ruled(
    asked: BoolArray,
    usable: BoolArray,
    reverted: BoolArray,
    pinned: BoolArray,
    instead: BoolArray,
    pins: BoolArray,
) -> tuple[BoolArray, IntArray]:
    """Whose proposal goes to the shield.

    Args:
        asked: what the policy proposes, bool [B, N].
        usable: that can be read and came in time, [B].
        reverted: the watchdog has put the reference policy in charge, [B].
        pinned: an operator has pinned a set, [B].
        instead: what the reference policy proposes, [B, N].
        pins: the pinned sets, [B, N]; ignored where not `pinned`.

    Returns:
        The proposal, bool [B, N], and its `shield.Reason`, int64 [B].
    """
    source = np.where(usable, Reason.POLICY, Reason.FALLBACK)
    source = np.where(reverted, Reason.WATCHDOG, source)
    source = np.where(pinned, Reason.OVERRIDE, source).astype(np.int64)
    proposal = np.where((source == Reason.POLICY)[:, None], asked, instead)
    return np.where(pinned[:, None], pins, proposal), source


def strict_lanes(refuses: bool, source: IntArray) -> BoolArray:
    """Lanes whose misfit is refused: what a policy declares binds neither operator nor watchdog, [B]."""
    if not refuses:
        return np.zeros(len(source), dtype=bool)
    return (source != Reason.WATCHDOG) & (source != Reason.OVERRIDE)


@dataclass(frozen=True, slots=True)
class Guarding:
    """How closely a policy is watched: not at all unless stated."""

    watchdog: Rules | None = None
    deadline_ms: float | None = None  # a later answer is replaced, for all lanes that were asked
    # Load all compiled code, compiling it where that was never done, as the guard is made: seconds then,
    # and none in traffic. Without it, code is loaded once many rows were served.
    warm: bool = False

    def __post_init__(self) -> None:
        if self.deadline_ms is not None and not self.deadline_ms > 0:
            raise InvalidSpec(f"a deadline of {self.deadline_ms} ms leaves no time to decide")


class Decided(NamedTuple):
    """A decision of B lanes and all that it depended on. A tuple: quicker to make than a frozen record."""

    observation: FloatArray  # as the policy saw it, float32 [B, O]
    asked: BoolArray  # what the policy proposed; all True where that cannot be read, [B, N]
    readable: BoolArray  # [B]
    late: bool
    spent_us: float  # by the policy, on a clock that does not jump
    watchdog: WatchdogState | None  # in which the row is decided
    foreseen: Costs | None
    instead: BoolArray | None  # what the reference policy proposes, where it was asked, [B, N]
    pinned: BoolArray | None  # [B]; None where nothing is
    proposal: BoolArray  # what goes to the shield, [B, N]
    source: IntArray  # whose it is (shield.Reason), [B]


@dataclass(frozen=True, slots=True)
class Served:
    """A row that was decided and served."""

    decided: Decided
    outcome: Outcome
    costs: Costs | None  # what the watchdog was told
    wasted: BoolArray | None


class Guard:
    """Asks one policy for the rows of some lanes, and answers for what it does."""

    def __init__(
        self, policy: Policy, lanes: Lanes, briefing: Briefing, guarding: Guarding | None = None
    ) -> None:
        """Reset the policy for an episode in these lanes, which stand where it starts.

        Raises:
            InvalidPolicy: its `reset` raises, or `on_misfit` is declared wrongly.
        """
        guarding = Guarding() if guarding is None else guarding
        self._policy, self._lanes, self._rules = policy, lanes, guarding.watchdog
        self._deadline_us = np.inf if guarding.deadline_ms is None else 1e3 * guarding.deadline_ms
        begin(policy, lanes.count, briefing)
        self._reference = FrontierLookup()
        self._reference.reset(lanes.count, briefing)
        self.strict = refuses_misfit(policy)
        self._own = np.full(lanes.count, Reason.POLICY, dtype=np.int64)
        self._strict = np.full(lanes.count, self.strict)
        for shared in (self._own, self._strict):
            shared.flags.writeable = False  # rows share it
        self._pinned: BoolArray | None = None
        self._pins = np.ones((lanes.count, lanes.world.blocks), dtype=bool)
        self.watchdog: WatchdogState | None = None
        if self._rules is not None:
            self.watchdog = WatchdogState.start(self._rules, lanes.count)
            self._shadows = Shadows(lanes.world, lanes.state)
        if guarding.warm:
            self._warm(briefing)

    def _warm(self, briefing: Briefing) -> None:
        """Have everything that a decision calls at hand; the policy is asked once, and reset again."""
        self._lanes.warm()
        observation, rng = self.observe(), np.random.default_rng(0)
        blocks = self._lanes.world.blocks
        asked, _ = ask(self._policy, observation, rng, blocks)
        instead = self._reference.propose(observation, rng)
        if self._rules is not None:
            self._shadows.foreseen(asked, instead, self._strict)
        begin(self._policy, self._lanes.count, briefing)

    def pin(self, kept: object, lanes: BoolArray | None = None) -> None:
        """From the next row on an operator's set is proposed, in all lanes or in those named [B].

        The shield still cuts it to what fits; the policy is asked all the same, and judged.

        Raises:
            InvalidPolicy: `kept` is no proposal; what was pinned before stays.
        """
        read, n = shield.read_proposal(kept, self._lanes.world.blocks), self._lanes.world.blocks
        if read is None:
            raise InvalidPolicy(
                f"cannot pin this {type(kept).__name__}: a kept set is {n} booleans, or {n} numbers "
                "that are 0 or 1, one for each block, True for a block that stays"
            )
        every = np.ones(self._lanes.count, dtype=bool)
        chosen = every if lanes is None else lanes
        self._pins[chosen] = read
        self._pinned = chosen | (~every if self._pinned is None else self._pinned)

    def pin_dense(self, lanes: BoolArray | None = None) -> None:
        """From the next row on all blocks are proposed; as `pin`."""
        self.pin(np.ones(self._lanes.world.blocks, dtype=bool), lanes)

    def release(self, lanes: BoolArray | None = None) -> None:
        """From the next row on nothing is pinned, in all lanes or in those named [B]."""
        left = None if lanes is None or self._pinned is None else self._pinned & ~lanes
        self._pinned = left if left is not None and left.any() else None

    def observe(self) -> FloatArray:
        """What the policy sees, float32 [B, O]: in shadow what it would see had it decided."""
        if self._rules is None:
            return self._lanes.observe()
        return self._lanes.observe_with(self._shadows.policy.loaded)

    def decide(self, observation: FloatArray, rng: np.random.Generator) -> Decided:
        """Ask the policy, and say what goes to the shield."""
        blocks = self._lanes.world.blocks
        asked_ns = time.perf_counter_ns()
        asked, readable = ask(self._policy, observation, rng, blocks)
        spent_us = (time.perf_counter_ns() - asked_ns) / 1000
        late = spent_us > self._deadline_us
        if self._rules is None and self._pinned is None and not late and holds_in_all(readable):
            return Decided(
                observation, asked, readable, late, spent_us, None, None, None, None,
                asked, self._own,
            )  # fmt: skip
        instead = self._reference.propose(observation, rng)
        usable = readable & (not late)
        all_usable, foreseen = holds_in_all(usable), None
        if self._rules is not None and self.watchdog is not None:
            judged = asked if all_usable else np.where(usable[:, None], asked, instead)
            foreseen = self._shadows.foreseen(judged, instead, self._strict)
            self.watchdog = watchdog.foresee(self._rules, self.watchdog, foreseen)
        in_charge = self.watchdog is None or holds_in_all(self.watchdog.policy_decides)
        if in_charge and all_usable and self._pinned is None:  # what `ruled` says of the usual row
            return Decided(
                observation, asked, readable, late, spent_us, self.watchdog, foreseen, instead,
                None, asked, self._own,
            )  # fmt: skip
        none = np.zeros(len(asked), dtype=bool)
        proposal, source = ruled(
            asked,
            usable,
            none if self.watchdog is None else ~self.watchdog.policy_decides,
            none if self._pinned is None else self._pinned,
            instead,
            self._pins,
        )
        return Decided(
            observation, asked, readable, late, spent_us, self.watchdog, foreseen, instead,
            self._pinned, proposal, source,
        )  # fmt: skip

    def serve(self, rng: np.random.Generator) -> Served:
        """Decide one row, have it served, and judge it."""
        decided, lanes = self.decide(self.observe(), rng), self._lanes
        outcome = lanes.serve(
            decided.proposal,
            source=decided.source,
            refuses_misfit=strict_lanes(self.strict, decided.source),
        )
        if self._rules is None or self.watchdog is None or decided.instead is None:
            return Served(decided, outcome, None, None)
        usable = decided.readable & (not decided.late)
        judged = np.where(usable[:, None], decided.asked, decided.instead)
        costs = self._shadows.serve(judged, decided.instead, self._strict)
        wasted = self._shadows.wasted(costs)
        self.watchdog = watchdog.advance(self._rules, self.watchdog, costs, wasted)
        # Where the reference stands in for an answer, the policy is still in charge, and pays for it.
        own = (decided.source == Reason.POLICY) | (decided.source == Reason.FALLBACK)
        self._shadows.follow(own, lanes.state)
        return Served(decided, outcome, costs, wasted)
