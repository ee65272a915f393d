"""A policy steers the serving engine: what parts of a split cost, and which settings cost least."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray, first_of_least
from rapgym.policies.serving import ServeBriefing, ServePolicy
from rapgym.rollout.tuning import tried
from rapgym.serving import batch
from rapgym.serving.batch import Batch
from rapgym.serving.world import Part, ServeWorld

LANES = 64  # of one batch
TUNING_S = 600  # of each stretch on which settings are tried
TUNING_PARTS = 24  # of train, evenly spread: its calm and its busy hours


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """What P parts came to."""

    parts: tuple[Part, ...]
    record: FloatArray  # columns of `batch.COLUMNS`, summed over the seconds of each part, [P, K]

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
    lanes = Batch([world] * count)
    for lane, part in enumerate(parts):
        lanes.begin(lane, part)
    lanes.look(np.ones(count, dtype=bool))
    policy.reset(count, told)
    seconds = np.array([part.seconds for part in parts])
    for second in range(int(seconds.max())):
        acting = second < seconds
        decided = np.asarray(policy.decide(lanes.seen.copy(), rng), dtype=np.int64)
        lanes.advance(np.where(acting[:, None], decided, 0), acting)
        yield lanes.record, acting


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
