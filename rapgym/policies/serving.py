"""What a policy of the serving engine is: two methods, and the public data it is given."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rapgym.arrays import FloatArray, IntArray
from rapgym.policies.policy import Told, told_before
from rapgym.scenarios import serving_worlds
from rapgym.scenarios.serving import ServeScenario
from rapgym.scenarios.story import Split
from rapgym.serving import sight
from rapgym.serving.engine import DROP
from rapgym.serving.world import ServeWorld

_RECENT_S = np.diff([age for age in sight.AGES_S if age <= 10])  # seconds of the newest bins


@dataclass(frozen=True, slots=True)
class ServeReading:
    """An observation in tokens, bytes and blocks, [B] each unless stated."""

    limits_bytes: FloatArray  # in each second before, the newest last, [B, BACK_S]
    prompts_per_s: FloatArray  # prompt tokens that arrived, mean of the last 10 s
    queued_tokens: FloatArray  # of requests that wait
    prefill_tokens: FloatArray  # that running sequences have still to prefill
    running: FloatArray  # sequences
    held_tokens: FloatArray  # in used pages
    attention: FloatArray  # blocks dropped; one that is loading counts
    ffn: FloatArray

    @property
    def limit_bytes(self) -> FloatArray:
        """In the second before, [B]."""
        newest: FloatArray = self.limits_bytes[:, -1]
        return newest


@dataclass(frozen=True, slots=True)
class ServeBriefing:
    """What a policy is told of the engine it will steer: public data, train alone."""

    scenario: ServeScenario
    train: (
        ServeWorld  # requests and limits of `split`, calibration columns: nothing of test is in it
    )
    split: Told = "train"

    def read(self, observation: FloatArray) -> ServeReading:
        """float32 [B, O] -> the same in units of the world; what was cut stays cut."""
        units = sight.units(self.train)

        def part(name: str) -> FloatArray:
            found: FloatArray = np.asarray(observation[:, sight.SLICES[name]], dtype=np.float64)
            return found

        droppable = np.array([self.train.attention, self.train.ffn])
        gone = np.rint((1 - part("kept")) * droppable)
        return ServeReading(
            limits_bytes=part("limit") * units[sight.CARD_BYTES],
            prompts_per_s=part("prompts")[:, : len(_RECENT_S)]
            @ _RECENT_S
            / _RECENT_S.sum()
            * units[sight.PROMPT_TOKENS],
            queued_tokens=part("queue")[:, 1] * units[sight.MOST_TOKENS],
            prefill_tokens=part("prefill")[:, 0] * units[sight.STEP_TOKENS],
            running=np.rint(part("running")[:, 0] * units[sight.MOST_SEQUENCES]),
            held_tokens=part("held")[:, 0] * units[sight.MOST_TOKENS],
            attention=gone[:, 0],
            ffn=gone[:, 1],
        )


def serve_briefing(story: ServeScenario, judged: Split = "test") -> ServeBriefing:
    """The briefing before a split: of train before test, of what precedes it before its parts."""
    told = told_before(judged)
    return ServeBriefing(story, serving_worlds.world(story, told), told)


class ServePolicy(Protocol):
    """Says each second how many blocks are dropped, and what goes first where memory falls.

    Example:
        >>> class KeepAll:
        ...     def reset(self, batch, briefing):
        ...         self.batch = batch
        ...
        ...     def decide(self, observation, rng):
        ...         return np.zeros((self.batch, 3), dtype=np.int64)
    """

    def reset(self, batch: int, briefing: ServeBriefing) -> None:
        """Forget the last episodes; `batch` new ones start in the world that `briefing` describes."""

    def decide(self, observation: FloatArray, rng: np.random.Generator) -> IntArray:
        """float32 [B, O] -> attention and FFN blocks dropped and the standing order, int64 [B, 3]."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Bytes and nats of every pair of counts."""

    base_bytes: FloatArray  # everything but KV cache, reserved pages included, [A + 1, F + 1]
    token_bytes: FloatArray  # KV cache of a token, [A + 1, 1]
    nll: FloatArray  # above the full bf16 model, [A + 1, F + 1]
    ceiling: float

    @classmethod
    def of(cls, world: ServeWorld) -> "Grid":
        card, reserved = world.card, world.profile.reserved_pages * world.profile.page_tokens
        counts = [
            [(attention, ffn) for ffn in range(world.ffn + 1)]
            for attention in range(world.attention + 1)
        ]
        base = [[card.used_bytes(pair, reserved) for pair in row] for row in counts]
        token = [[card.token_bytes(row[0])] for row in counts]
        return cls(
            np.array(base, dtype=np.float64),
            np.array(token, dtype=np.float64),
            world.harm.nll,
            world.harm.ceiling,
        )

    def room_tokens(self, limit_bytes: FloatArray) -> FloatArray:
        """Tokens whose KV cache fits beside each pair's blocks, below 0 where not even those, [B, A+1, F+1]."""
        return (limit_bytes[:, None, None] - self.base_bytes) / self.token_bytes

    def loss(self, asked: FloatArray, limit_bytes: FloatArray, price: FloatArray) -> FloatArray:
        """Nats a token at each pair where `asked` tokens want room: what finds none loses `price`.

        Args:
            asked: with nothing to serve 1, so that blocks stand or fall by their own bytes; [B].
            price: nats of a token without room, [B].

        Returns:
            [B, A + 1, F + 1].
        """
        wanted = asked[:, None, None]
        unmet = np.clip((wanted - self.room_tokens(limit_bytes)) / wanted, 0.0, 1.0)
        found: FloatArray = (1 - unmet) * self.nll + unmet * price[:, None, None]
        return found

    def least(self, worth: FloatArray) -> tuple[IntArray, IntArray]:
        """The pair of least worth in each lane, the fewest blocks first among equals: [B, A+1, F+1] -> [B] twice."""
        flat = worth.reshape(len(worth), -1).argmin(axis=1)
        attention, ffn = np.unravel_index(flat, self.nll.shape)
        return attention.astype(np.int64), ffn.astype(np.int64)


def decisions(attention: IntArray, ffn: IntArray) -> IntArray:
    """Counts [B] each, and blocks as what goes first where memory falls: int64 [B, 3]."""
    return np.stack([attention, ffn, np.full_like(attention, DROP)], axis=1)
