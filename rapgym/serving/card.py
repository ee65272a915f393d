"""A card whose free memory moves, and the blocks that stand on it."""

from dataclasses import dataclass

import numpy as np

from rapgym.arrays import FloatArray, IntArray
from rapgym.errors import InvalidSpec
from rapgym.model.memory import Footprint

ATTENTION, FFN = 0, 1
Counts = tuple[int, int]  # attention and FFN blocks that are dropped


@dataclass(frozen=True, slots=True, eq=False)
class Card:
    """Memory by the second, and what blocks and pages take of it.

    Which blocks go is nested: the first `a` of one order and the first `f` of another, so that counts
    say it all.
    """

    footprint: Footprint
    limit_bytes: IntArray  # what this model may use, by the second; the last holds on, [S]
    goes_next: IntArray  # kind of the block that goes next from each pair of counts, [A + 1, F + 1]
    link_bytes_per_s: float  # at which blocks come back
    reaction_s: float  # how long serving pauses while blocks or sequences leave in a hurry
    step_tokens: int  # whose activations are kept room for

    def __post_init__(self) -> None:
        if not len(self.limit_bytes):
            raise InvalidSpec("a card has a limit in one second at least")
        if self.link_bytes_per_s <= 0 or self.reaction_s < 0:
            raise InvalidSpec(
                "blocks come back at a rate above 0, and no reaction takes less than 0 s"
            )
        if min(self.floor) < 0 or self.floor[ATTENTION] >= self.footprint.layers:
            raise InvalidSpec("one attention block is kept at least")

    @property
    def floor(self) -> Counts:
        """The most that may be dropped of each kind."""
        attention, ffn = self.goes_next.shape
        return attention - 1, ffn - 1

    def limit(self, now_s: float) -> int:
        """Bytes that may be used now."""
        return int(self.limit_bytes[min(int(now_s), len(self.limit_bytes) - 1)])

    def weight_bytes(self, counts: Counts) -> int:
        """Weights of the blocks that are kept."""
        foot = self.footprint
        return (foot.layers - counts[ATTENTION]) * foot.attention_bytes + (
            foot.layers - counts[FFN]
        ) * foot.ffn_bytes

    @property
    def block_token_bytes(self) -> int:
        """KV cache of one token in one attention block, rounded up to the byte."""
        return int(self.footprint.kv_bytes(np.array(1)))

    def token_bytes(self, counts: Counts) -> int:
        """KV cache of one token over the kept attention blocks."""
        return (self.footprint.layers - counts[ATTENTION]) * self.block_token_bytes

    def used_bytes(self, counts: Counts, cached_tokens: int) -> int:
        """Everything, with so many tokens' KV cache."""
        foot, none = self.footprint, np.array(0)
        kept = foot.layers - counts[ATTENTION], foot.layers - counts[FFN]
        empty = int(foot.counted_bytes(*kept, none, np.array(self.step_tokens)))
        return empty + foot.margin_bytes + cached_tokens * self.token_bytes(counts)

    def room_tokens(self, counts: Counts, now_s: float) -> int:
        """Tokens whose KV cache fits now beside the kept blocks; 0 where not even those fit."""
        return max(0, self.limit(now_s) - self.used_bytes(counts, 0)) // self.token_bytes(counts)

    def without_next(self, counts: Counts) -> Counts | None:
        """The counts once the next block has gone, by the fixed order; None where none may go."""
        attention, ffn = counts
        if counts == self.floor:
            return None
        if self.goes_next[attention, ffn] == ATTENTION:
            return attention + 1, ffn
        return attention, ffn + 1


def order_of_going(nll: FloatArray) -> IntArray:
    """The kind whose next block costs less, by nats at each pair of counts, [A + 1, F + 1].

    It knows nothing of demand, as the shield's order does not. Where one kind has none left, the other.
    """
    more_attention = np.full(nll.shape, np.inf)
    more_ffn = np.full(nll.shape, np.inf)
    more_attention[:-1], more_ffn[:, :-1] = nll[1:], nll[:, 1:]
    found: IntArray = np.where(more_attention <= more_ffn, ATTENTION, FFN).astype(np.int64)
    return found
