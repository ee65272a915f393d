"""What a policy sees of a serving engine each second: the parts of an observation, and their units.

Nothing of the future is in it, and no output length. The limit is what it was until the second before. The
rest is what a server knows: its queue with whatever has arrived, and its engine as the step leaves it
that was in flight.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rapgym.arrays import FloatArray
from rapgym.serving.world import BACK_S, ServeWorld

AGES_S = (0, 1, 2, 5, 10, 30, 60)  # edges of the bins in which arrivals are counted, seconds ago
CUT = 20.0  # where numbers without a natural end are cut


@dataclass(frozen=True, slots=True)
class Part:
    """One stretch of an observation."""

    name: str
    size: int
    highest: float  # the lowest is 0
    says: str


PARTS = (
    Part("limit", BACK_S, 1.0,
         "memory limit in each of the last 60 s, the oldest first, over the card"),
    Part("arrivals", len(AGES_S) - 1, CUT,
         "requests a second that arrived up to 1, 2, 5, 10, 30 and 60 s ago, each bin without the one "
         "before, over the mean of train"),
    Part("prompts", len(AGES_S) - 1, CUT, "their prompt tokens a second, over the mean of train"),
    Part("queue", 3, CUT,
         "waiting requests over the most that run; their tokens over the most that a card holds; age "
         "of the oldest over the time to shedding"),
    Part("running", 1, 1.0, "running sequences over the most that run"),
    Part("held", 1, 1.0, "tokens in used pages over the most that a card holds"),
    Part("prefill", 1, CUT, "tokens that running sequences have still to prefill, over those of a step"),
    Part("histories", 4, 1.0,
         "most blocks dropped under which running sequences were computed: attention and FFN, mean "
         "over sequences, then highest, over those that may be dropped"),
    Part("free", 1, 1.0, "tokens of free pages under the limit of the second before, over the most"),
    Part("kept", 2, 1.0, "attention and FFN blocks kept above the floor, over those that may be dropped"),
    Part("loading", 2, 1.0, "whether an attention or an FFN block is on its way back"),
    Part("last", 5, CUT,
         "the last second's steps over 20; tokens computed over those of a step; output tokens over the "
         "mean of train; preemptions and shed requests over the mean of train's arrivals"),
)  # fmt: skip
WIDTH = sum(part.size for part in PARTS)  # O
_ENDS = np.cumsum([0, *(part.size for part in PARTS)]).tolist()
SLICES = {part.name: slice(*ends) for part, ends in zip(PARTS, pairwise(_ENDS), strict=True)}
HIGHEST = np.repeat([part.highest for part in PARTS], [part.size for part in PARTS])
STEPS_A_SECOND = 20.0

# Places in the units of a world.
(CARD_BYTES, REQUESTS, PROMPT_TOKENS, OUTPUT_TOKENS, MOST_TOKENS, MOST_SEQUENCES, STEP_TOKENS,
 OLDEST_S) = range(8)  # fmt: skip


def units(world: ServeWorld) -> FloatArray:
    """What 1 means in each part, float64 [8]."""
    means, deadlines = world.means, world.deadlines
    oldest_s = min(world.shed_s, deadlines.ttft_s + deadlines.late_s)
    return np.array(
        [
            world.card_bytes,
            means.requests,
            means.prompt_tokens,
            means.output_tokens,
            world.most_tokens,
            world.profile.max_sequences,
            world.profile.step_tokens,
            oldest_s,
        ],
        dtype=np.float64,
    )
