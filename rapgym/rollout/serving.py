"""A policy steers the serving engine: what parts of a split cost, and which settings cost least."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import BoolArray, FloatArray, IntArray, first_of_least
from rapgym.guard.guard import Guarding, begin
from rapgym.guard.serving import ServeGuard, answered, highest
from rapgym.policies.serving import ServeBriefing, ServePolicy
from rapgym.rollout.tuning import tried
from rapgym.serving import batch
from rapgym.serving.latency import Gathered, Waits
from rapgym.serving.world import Part, ServeWorld

LANES = 64  # of one batch
TUNING_S = 600  # of each stretch on which settings are tried
TUNING_PARTS = 24  # of train, evenly spread: its calm and its busy hours


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """What P parts came to."""

    parts: tuple[Part, ...]
    record: FloatArray  # columns of `batch.COLUMNS`, summed over the seconds of each part, [P, K]
    waits: Waits | None = None  # of its requests; None where nobody asked

    @property
    def counts(self) -> FloatArray:
        """Attention and FFN blocks dropped, mean over the seconds of each part, [P, 2]."""
        seconds = np.array([part.seconds for part in self.parts])
        found: FloatArray = self.record[:, [batch.ATTENTION_DROPPED, batch.FFN_DROPPED]]
        return found / seconds[:, None]

    @property
    def tokens(self) -> FloatArray:
        """Output tokens of all requests that arrived: delivered, shed or lost, [P]."""
        found: FloatArray = self.record[:, [batch.TOKENS, batch.SHED_TOKENS, batch.LOST]].sum(
            axis=1
        )
        return found

    @property
    def cost(self) -> float:
        """Nats a token, pooled over all parts."""
        return float(self.record[:, batch.COST].sum() / max(1.0, self.tokens.sum()))


def play(
    make: Callable[[], ServePolicy],
    world: ServeWorld,
    parts: Sequence[Part],
    told: ServeBriefing,
    seed: int = 0,
) -> Served:
    """Let a policy serve parts of a world, each from an idle engine, side by side in lanes.

    Args:
        make: gives a policy object for each batch of lanes.
    """
    done = [
        _served(make(), world, parts[first : first + LANES], told, [seed, first])
        for first in range(0, len(parts), LANES)
    ]
    return Served(tuple(parts), np.concatenate([each.record for each in done]))


def _served(
    policy: ServePolicy, world: ServeWorld, parts: Sequence[Part], told: ServeBriefing,
    seed: list[int],
) -> Served:  # fmt: skip
    total = np.zeros((len(parts), len(batch.COLUMNS)))
    for record, acting in _seconds(policy, world, parts, told, seed):
        total[acting] += record[acting]
    return Served(tuple(parts), total)


def by_second(
    policy: ServePolicy, world: ServeWorld, part: Part, told: ServeBriefing
) -> FloatArray:
    """One part, second by second: columns of `batch.COLUMNS`, [S, K].

    The last second also holds what was served on afterwards, until all requests had left.
    """
    seconds = _seconds(policy, world, [part], told, [0, 0])
    return np.stack([record[0].copy() for record, _ in seconds])


def _seconds(
    policy: ServePolicy, world: ServeWorld, parts: Sequence[Part], told: ServeBriefing,
    seed: list[int],
) -> Iterator[tuple[FloatArray, BoolArray]]:  # fmt: skip
    """Each second's record of all lanes [P, K], to be read at once, and which of them it served [P]."""
    count, rng = len(parts), np.random.default_rng(seed)
    lanes = batch.begun([world] * len(parts), parts)
    policy.reset(count, told)
    seconds = np.array([part.seconds for part in parts])
    for second in range(int(seconds.max())):
        acting = second < seconds
        decided = np.asarray(policy.decide(lanes.seen.copy(), rng), dtype=np.int64)
        lanes.advance(np.where(acting[:, None], decided, 0), acting)
        yield lanes.record, acting


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """What was decided in each second of a part, and by whom: Q runs of seconds that are alike."""

    lengths: IntArray  # seconds, at least 1 each, [Q]
    decisions: IntArray  # int64 [Q, 3]
    source: IntArray  # shield.Reason, [Q]

    @classmethod
    def of(cls, decisions: IntArray, source: IntArray) -> "Course":
        """Of what was decided second by second, [S, 3] and [S]."""
        each = np.column_stack([decisions, source])
        first = np.flatnonzero(np.append(True, (each[1:] != each[:-1]).any(axis=1)))
        lengths = np.diff(np.append(first, len(each)))
        return cls(lengths, decisions[first].copy(), source[first].copy())

    @property
    def seconds(self) -> int:
        """S."""
        return int(self.lengths.sum())

    def by_second(self) -> tuple[IntArray, IntArray]:
        """What `of` was given."""
        return np.repeat(self.decisions, self.lengths, axis=0), np.repeat(self.source, self.lengths)


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What P parts came to under a policy that was guarded."""

    served: Served
    courses: tuple[Course, ...]
    fault: str | None  # what was wrong with the first answer that was


def guarded(
    make: Callable[[], ServePolicy],
    reference: Callable[[], ServePolicy],
    world: ServeWorld,
    parts: Sequence[Part],
    told: ServeBriefing,
    seed: int = 0,
    guarding: Guarding | None = None,
) -> Run:
    """As `play`, whatever the policy does: where it does not decide, the reference does.

    Args:
        reference: gives the policy that stands in, which decides by what it sees alone.
        world: with a watchdog, one with calibration columns.

    Raises:
        InvalidPolicy: the policy's `reset` raises.
    """
    total, courses, fault, waits = list[FloatArray](), list[Course](), None, Gathered()
    for first in range(0, len(parts), LANES):
        here = parts[first : first + LANES]
        lanes, rng = batch.begun([world] * len(here), here), np.random.default_rng([seed, first])
        guard = ServeGuard(make(), reference(), lanes, told, guarding)
        seconds = np.array([part.seconds for part in here])
        decisions = np.zeros((int(seconds.max()), len(here), 3), dtype=np.int64)
        source = np.zeros(decisions.shape[:2], dtype=np.int64)
        record = np.zeros((len(here), len(batch.COLUMNS)))
        for second in range(len(decisions)):
            acting = second < seconds
            decided = guard.decide(rng)
            decisions[second], source[second] = decided.decisions, decided.source
            lanes.advance(np.where(acting[:, None], decided.decisions, 0), acting)
            guard.judge(acting)
            record[acting] += lanes.record[acting]
        fault = fault or guard.fault
        total.append(record)
        _gather(waits, lanes)
        for lane, count in enumerate(seconds.tolist()):
            courses.append(Course.of(decisions[:count, lane], source[:count, lane]))
    served = Served(tuple(parts), np.concatenate(total), waits.waits())
    return Run(served, tuple(courses), fault)


def _gather(waits: Gathered, lanes: batch.Batch) -> None:
    """Take what became of the requests of parts that have been served."""
    for world, lane, _ in lanes.entries:
        waits.add(world, lane)


def replayed(
    world: ServeWorld,
    parts: Sequence[Part],
    courses: Sequence[Course],
    see: Callable[[int, int, NDArray[np.float32], BoolArray], None] | None = None,
) -> Served:
    """What parts come to under decisions that are known.

    Args:
        courses: one a part, each as long as it is.
        see: is told, before each second, the number of the first lane's part, the second, what lanes
            see, [B, O], and which of them act, [B].
    """
    total, waits = list[FloatArray](), Gathered()
    for first in range(0, len(parts), LANES):
        here = parts[first : first + LANES]
        decided = [course.by_second()[0] for course in courses[first : first + LANES]]
        lanes, seconds = (
            batch.begun([world] * len(here), here),
            np.array([part.seconds for part in here]),
        )
        record = np.zeros((len(here), len(batch.COLUMNS)))
        actions = np.zeros((len(here), 3), dtype=np.int64)
        for second in range(int(seconds.max())):
            acting = second < seconds
            if see is not None:
                see(first, second, lanes.seen, acting)
            for lane in np.flatnonzero(acting).tolist():
                actions[lane] = decided[lane][second]
            lanes.advance(actions, acting)
            record[acting] += lanes.record[acting]
        total.append(record)
        _gather(waits, lanes)
    return Served(tuple(parts), np.concatenate(total), waits.waits())


def decision_us(
    policy: ServePolicy, told: ServeBriefing, seed: int = 0, seconds: int = 256
) -> FloatArray:
    """Microseconds of single decisions on what a policy is told of, the first ten not counted."""
    (part, *_) = told.train.pieces
    lanes, rng = batch.begun([told.train], [part]), np.random.default_rng(seed)
    most, acting = highest(told.train), np.ones(1, dtype=bool)
    begin(policy, 1, told)
    spent = []
    for _ in range(min(seconds + 10, part.seconds)):
        asked_ns = time.perf_counter_ns()
        decided, _, _ = answered(policy, lanes.seen, rng, most)
        spent.append((time.perf_counter_ns() - asked_ns) / 1000)
        lanes.advance(decided, acting)
    return np.array(spent[10:] or spent)


def spread(world: ServeWorld, count: int = TUNING_PARTS, seconds: int = TUNING_S) -> list[Part]:
    """So many stretches of a world, evenly spread over it; fewer where it is too short."""
    places = [
        Part(index, start_s, seconds)
        for index, span in enumerate(world.spans)
        for start_s in range(0, span.seconds - seconds + 1, seconds)
    ]
    if not places:
        return [Part(index, 0, span.seconds) for index, span in enumerate(world.spans)]
    chosen = np.unique(np.linspace(0, len(places) - 1, min(count, len(places))).astype(int))
    return [places[place] for place in chosen.tolist()]


def best_settings(
    make: Callable[..., ServePolicy],
    settings: Mapping[str, FloatArray | IntArray],
    told: ServeBriefing,
    parts: Sequence[Part] | None = None,
) -> tuple[dict[str, Any], float]:
    """The settings with the least cost on stretches of what a policy is told of, and that cost.

    Every setting serves the same requests, in lanes side by side. The first of those that tie.

    Args:
        settings: values of each argument of `make`, [K]; entry i of all of them is one setting.

    Raises:
        InvalidPolicy: there are more settings than any method may try.
    """
    count = tried(settings)
    cost, tokens = np.zeros(count), np.zeros(count)
    for part in spread(told.train) if parts is None else parts:
        served = _served(make(**settings), told.train, [part] * count, told, [0])
        cost += served.record[:, batch.COST]
        tokens += served.tokens
    each = cost / np.maximum(tokens, 1.0)
    best = first_of_least(each)
    return {name: values[best].item() for name, values in settings.items()}, float(each[best])
