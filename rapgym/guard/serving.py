"""What stands between a serving policy and the engine: a decision a second, whatever the policy does.

The rule is that of windows, see `guard`: the watchdog goes before the policy, and where its answer
cannot be read or came too late, the reference, the tuned lookup, stands in for that second. The
engine itself is the shield: any counts within bounds are safe in it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.guard import watchdog
from rapgym.guard.guard import Guarding, begin, told_of
from rapgym.guard.process import PolicyProcess
from rapgym.guard.watchdog import Costs, Mode, Rules, WatchdogState
from rapgym.policies.serving import ServeBriefing, ServePolicy
from rapgym.serving import batch
from rapgym.serving.batch import Batch
from rapgym.serving.world import Part, ServeWorld
from rapgym.world.shield import Reason

# Seconds are short and their costs come late, once deadlines have passed: a longer view than of windows,
# and a tolerance of seconds in which a mean one's tokens are all lost. Set by hand, tuned on nothing.
RULES = Rules(window_rows=300, factor=1.05, tolerance=10.0, hand_back_rows=120)
SOURCES = (Reason.POLICY, Reason.FALLBACK, Reason.WATCHDOG)  # whose a second's decision can be


def highest(world: ServeWorld) -> IntArray:
    """The largest of each number of a decision, [3]; the smallest is 0."""
    return np.array([world.attention, world.ffn, 1], dtype=np.int64)


def read_decision(answer: object, most: IntArray) -> IntArray | None:
    """One lane's decision, int64 [3]; None where it is no three whole numbers within bounds."""
    try:
        found = np.asarray(answer)
        if found.shape != (3,) or found.dtype.kind not in "iuf":
            return None
        if not ((found >= 0) & (found <= most) & (found == np.floor(found))).all():
            return None
        return found.astype(np.int64)
    except Exception:  # a stranger's object: its own code runs
        return None


def answered(
    policy: ServePolicy, observation: FloatArray, rng: np.random.Generator, most: IntArray
) -> tuple[IntArray, BoolArray, str | None]:
    """Ask a policy for its decisions; whatever it does, this returns.

    Returns:
        int64 [B, 3], zeros where a lane's answer cannot be read; which can, bool [B]; and what was
        wrong, None where nothing was.
    """
    lanes, fault = len(observation), None
    try:
        answer = policy.decide(observation.copy(), rng)
        if type(answer) is np.ndarray and answer.dtype == np.int64 and answer.shape == (lanes, 3):
            within: BoolArray = np.all((answer >= 0) & (answer <= most), axis=1)
            if within.all():
                return answer.copy(), within, None
        answers: list[Any] = list(islice(answer, lanes)) if len(answer) == lanes else []
        given = answer.shape if isinstance(answer, np.ndarray) else type(answer).__name__
        fault = (
            f"decide gives {given}; it is three whole numbers a lane, {(lanes, 3)}, up to "
            f"{', '.join(map(str, most.tolist()))}"
        )
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a policy is a stranger's code; it may even exit
        answers, fault = [], f"decide raises {told_of(error)}"
    decisions, readable = np.zeros((lanes, 3), dtype=np.int64), np.zeros(lanes, dtype=bool)
    for lane, one in enumerate(answers):
        read = read_decision(one, most)
        if read is not None:
            decisions[lane], readable[lane] = read, True
    return decisions, readable, None if readable.all() else fault


class ServeDecisions:
    """How serving policies are asked, see `forms.Form`: three whole numbers a lane."""

    method = "decide"

    def answered(
        self, policy: ServePolicy, observation: FloatArray, rng: np.random.Generator,
        briefing: ServeBriefing,
    ) -> tuple[IntArray, BoolArray, str | None]:  # fmt: skip
        return answered(policy, observation, rng, highest(briefing.train))

    def size(self, briefing: ServeBriefing) -> int:
        return 12

    def packed(self, answers: IntArray) -> bytes:
        return answers.astype("<i4").tobytes()

    def unpacked(self, content: bytes, briefing: ServeBriefing) -> IntArray:
        # Bounds are checked by whoever reads decisions.
        return np.frombuffer(content, dtype="<i4").reshape(-1, 3).astype(np.int64)


@dataclass(frozen=True, slots=True)
class ServeDecided:
    """What is decided for a second of B lanes, and all that it depended on."""

    observation: FloatArray  # as the policy saw it, float32 [B, O]
    asked: IntArray  # by the policy; zeros where that cannot be read, [B, 3]
    readable: BoolArray  # [B]
    late: bool
    spent_us: float  # by the policy
    decisions: IntArray  # what the engine is given, [B, 3]
    source: IntArray  # whose they are (shield.Reason), [B]
    mode: IntArray | None  # of the watchdog as this is decided, [B]


class ServeGuard:
    """Asks one policy for the seconds of some lanes, and answers for what it does."""

    def __init__(
        self,
        policy: ServePolicy,
        reference: ServePolicy,
        lanes: Batch,
        told: ServeBriefing,
        guarding: Guarding | None = None,
    ) -> None:
        """Reset both for parts that have just begun in these lanes.

        Args:
            reference: decides by what it sees alone, and stands in where the policy does not.
            lanes: with a watchdog, of worlds with calibration columns: it judges by them.

        Raises:
            InvalidPolicy: the policy's `reset` raises.
        """
        guarding = Guarding() if guarding is None else guarding
        self._policy, self._reference, self._lanes = policy, reference, lanes
        self._deadline_us = np.inf if guarding.deadline_ms is None else 1e3 * guarding.deadline_ms
        self._deadline_ms, self._rules = guarding.deadline_ms, guarding.watchdog
        count = len(lanes.parts)
        begin(policy, count, told)
        begin(reference, count, told)
        self._most = highest(told.train)
        self.fault: str | None = None  # what was wrong with the first answer that was
        self.watchdog: WatchdogState | None = None
        if self._rules is not None:
            self.watchdog = WatchdogState.start(self._rules, count)
            self._shadows = _Shadows(lanes.worlds, lanes.parts)

    def decide(self, rng: np.random.Generator) -> ServeDecided:
        """Ask the policy, and say what the engine is given."""
        seen = self._lanes.seen
        shown = seen if self.watchdog is None else self._shadows.policy.seen
        asked_ns = time.perf_counter_ns()
        asked, readable, fault = answered(self._policy, shown, rng, self._most)
        spent_us = (time.perf_counter_ns() - asked_ns) / 1000
        late = spent_us > self._deadline_us
        if (late or fault) and self.fault is None:
            self.fault = f"answers after {self._deadline_ms:g} ms" if late else self._why(fault)
        usable = readable & (not late)
        source = np.where(usable, Reason.POLICY, Reason.FALLBACK)
        decisions = asked
        if self.watchdog is not None:
            source = np.where(self.watchdog.policy_decides, source, Reason.WATCHDOG)
        own = source == Reason.POLICY
        if not own.all():
            decisions = np.where(own[:, None], asked, self._reference.decide(seen.copy(), rng))
        if self.watchdog is not None:
            instead = self._reference.decide(shown.copy(), rng)
            self._judged = np.where(usable[:, None], asked, instead)
            self._rng = rng
        mode = None if self.watchdog is None else self.watchdog.mode
        return ServeDecided(
            shown.copy(), asked, readable, late, spent_us, decisions, source.astype(np.int64), mode
        )

    def judge(self, acting: BoolArray) -> None:
        """Tell the watchdog, where there is one, that these lanes have served the second, bool [B]."""
        if self._rules is None or self.watchdog is None:
            return
        shadows, before = self._shadows, self.watchdog
        instead = self._reference.decide(shadows.reference.seen.copy(), self._rng)
        costs = shadows.serve(self._judged, instead, acting)
        self.watchdog = watchdog.advance(self._rules, before, costs)
        back = self.watchdog.policy_decides & ~before.policy_decides
        # Where the policy gets a lane back, its trajectory is the served one again.
        for lane in np.flatnonzero(back).tolist():
            shadows.policy.follow(lane, self._lanes)

    def _why(self, fault: str | None) -> str | None:
        """What was wrong, as the policy's own process tells it where it has one."""
        if isinstance(self._policy, PolicyProcess):
            return self._policy.why() or fault
        return fault


class _Shadows:
    """Two engines a lane beside the served one: as if the policy, and as if the reference had decided.

    While the policy is in charge, its own is the served one.
    """

    def __init__(self, worlds: Sequence[ServeWorld], parts: Sequence[Part]) -> None:
        self.policy, self.reference = batch.begun(worlds, parts), batch.begun(worlds, parts)
        # What a mean second of train costs whose tokens are all lost.
        self._unit = np.array([world.harm.ceiling * world.means.output_tokens for world in worlds])

    def serve(self, decided: IntArray, instead: IntArray, acting: BoolArray) -> Costs:
        """Serve a second on both; what it cost where lanes act, 0 elsewhere."""
        self.policy.advance(decided, acting)
        self.reference.advance(instead, acting)
        paid = [
            np.where(acting, lanes.record[:, batch.COST], 0.0) / self._unit
            for lanes in (self.policy, self.reference)
        ]
        return Costs(*paid)


def mode_name(mode: int) -> str:
    """A watchdog's mode in lower case."""
    return Mode(mode).name.lower()
