"""A serving world: requests and limits of one split, and all that decides what serving them costs."""

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rapgym.arrays import FloatArray, IntArray, freeze
from rapgym.errors import InvalidSpec
from rapgym.serving.card import Card
from rapgym.serving.cost import Deadlines, Harm
from rapgym.serving.profile import ServingProfile
from rapgym.serving.requests import Requests

if TYPE_CHECKING:
    from rapgym.serving import kernel

US = 1_000_000  # microseconds in a second
PIECE_S = 3600
BACK_S = 60  # how far a policy sees back


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """One stretch of a split, from its own 0 s on."""

    arrival_us: IntArray  # ascending, [R]
    prompt_tokens: IntArray  # [R]
    output_tokens: IntArray  # [R]
    limit_bytes: IntArray  # what this model may use, by the second, [S]

    def __post_init__(self) -> None:
        if not len(self.limit_bytes):
            raise InvalidSpec("a stretch of a serving world has a second at least")
        freeze(self)

    @property
    def seconds(self) -> int:
        """S."""
        return len(self.limit_bytes)


@dataclass(frozen=True, slots=True)
class Part:
    """Whole seconds of a span: what an episode serves."""

    span: int
    start_s: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Means:
    """What a second of train brings: the units of rewards and observations."""

    requests: float
    prompt_tokens: float
    output_tokens: float


@dataclass(frozen=True, slots=True, eq=False)
class ServeWorld:
    """Everything that decides how a split is served; of another split it holds nothing.

    A policy's world has calibration columns, a scorer's has those of test.
    """

    spans: tuple[Span, ...]
    card: Card  # its limit is that of no part: `served` puts in the part's own
    card_bytes: int  # all memory there is
    profile: ServingProfile
    harm: Harm
    deadlines: Deadlines
    shed_s: float
    means: Means

    def __post_init__(self) -> None:
        if self.card.goes_next.shape != self.harm.nll.shape:
            raise InvalidSpec("blocks go along the counts that have nats")
        if self.harm.history_share.shape != self.harm.nll.shape[1:]:
            raise InvalidSpec("each count of FFN blocks has a share that stays")

    def __deepcopy__(self, memo: dict[int, object]) -> "ServeWorld":
        """Itself: nothing of it changes, so copies of an environment share it."""
        return self

    @property
    def attention(self) -> int:
        """A: attention blocks that may be dropped."""
        return self.harm.nll.shape[0] - 1

    @property
    def ffn(self) -> int:
        """F: FFN blocks that may be dropped."""
        return self.harm.nll.shape[1] - 1

    @property
    def pieces(self) -> tuple[Part, ...]:
        """The split in hours, in order; the last of a stretch may be shorter."""
        return tuple(
            Part(index, start_s, min(PIECE_S, span.seconds - start_s))
            for index, span in enumerate(self.spans)
            for start_s in range(0, span.seconds, PIECE_S)
        )

    def drawn(self, seconds: int, rng: np.random.Generator) -> Part:
        """So many seconds from a drawn start, all equally likely; a shorter stretch is taken whole."""
        most = [max(1, span.seconds - seconds + 1) for span in self.spans]
        start_s, index = int(rng.integers(sum(most))), 0
        while start_s >= most[index]:
            start_s -= most[index]
            index += 1
        return Part(index, start_s, min(seconds, self.spans[index].seconds))

    def requests(self, part: Part) -> Requests:
        """What arrives in a part, from its own 0 s on."""
        span = self.spans[part.span]
        start_us, stop_us = part.start_s * US, (part.start_s + part.seconds) * US
        first, last = np.searchsorted(span.arrival_us, (start_us, stop_us))
        here = slice(int(first), int(last))
        return Requests(
            (span.arrival_us[here] - start_us) / US,
            np.asarray(span.prompt_tokens[here], dtype=np.int64),
            np.asarray(span.output_tokens[here], dtype=np.int64),
        )

    def card_of(self, part: Part) -> Card:
        """The card during a part; afterwards its last limit holds on."""
        span = self.spans[part.span]
        limit = span.limit_bytes[part.start_s : part.start_s + part.seconds]
        return replace(self.card, limit_bytes=limit)

    def before(self, part: Part) -> IntArray:
        """The limit in each of the `BACK_S` seconds before a part.

        Where its stretch begins later than that, its first second's: what an engine finds as it starts.
        """
        span = self.spans[part.span]
        seconds = np.maximum(np.arange(part.start_s - BACK_S, part.start_s), 0)
        found: IntArray = np.asarray(span.limit_bytes[seconds], dtype=np.int64)
        return found

    def served(self, part: Part) -> "tuple[kernel.World, kernel.Lane]":
        """A part as the compiled engine has it, and a lane at its start."""
        from rapgym.serving import kernel  # loads numba

        made = kernel.world_of(
            self.requests(part), self.card_of(part), self.profile, self.harm, self.deadlines
        )
        # Copies of its own: what may be written to and what may not are two types to the compiler.
        copies: list[Any] = [np.array(each) for each in made]
        world = kernel.World(*copies)
        return world, kernel.lane_of(world, self.shed_s)

    @property
    def most_tokens(self) -> int:
        """Tokens whose KV cache the empty card holds beside the fewest blocks."""
        card = replace(self.card, limit_bytes=np.array([self.card_bytes]))
        return max(1, card.room_tokens(card.floor, 0.0))


def traffic_sha256(world: ServeWorld) -> str:
    """Of its requests and limits: whole numbers alone, so the same on every machine."""
    whole = hashlib.sha256()
    for span in world.spans:
        for each in (span.arrival_us, span.prompt_tokens, span.output_tokens, span.limit_bytes):
            whole.update(len(each).to_bytes(8, "little"))
            whole.update(np.asarray(each, dtype="<i8").tobytes())
    return whole.hexdigest()


def nested(nll: FloatArray, ceiling: float, history_share: tuple[float, ...]) -> Harm:
    """The harm of counts along nested sets.

    Args:
        nll: above the full bf16 model at each pair of counts, [A + 1, F + 1].
        history_share: by FFN blocks dropped; the last holds on.
    """
    last = len(history_share) - 1
    share = [history_share[min(count, last)] for count in range(nll.shape[1])]
    return Harm(np.asarray(nll, dtype=np.float64), np.array(share), ceiling)
