"""What a replica is asked for: requests in continuous time, and which prompts begin alike."""

from dataclasses import dataclass, field

import numpy as np

from rapgym.arrays import FloatArray, IntArray
from rapgym.errors import InvalidTrace


def _none() -> IntArray:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """R requests in the order of their arrival.

    Raises:
        InvalidTrace: a request asks for no output or has no prompt, time runs back, or a prompt begins
            like that of a request that came later.
    """

    arrival_s: FloatArray  # ascending, [R]
    prompt_tokens: IntArray  # at least 1, [R]
    output_tokens: IntArray  # at least 1; a policy never sees them, [R]
    # A request's first `shared_pages` whole pages of prompt are those of request `begins_like`, an
    # earlier one; -1 and 0 where it shares nothing, and everywhere unless stated, [R].
    begins_like: IntArray = field(default_factory=_none)
    shared_pages: IntArray = field(default_factory=_none)

    def __post_init__(self) -> None:
        count = len(self.arrival_s)
        if not len(self.begins_like):
            object.__setattr__(self, "begins_like", np.full(count, -1, dtype=np.int64))
            object.__setattr__(self, "shared_pages", np.zeros(count, dtype=np.int64))
        if count and (np.diff(self.arrival_s).min(initial=0.0) < 0 or self.arrival_s[0] < 0):
            raise InvalidTrace("requests arrive in order, at 0 s or later")
        if min(self.prompt_tokens.min(initial=1), self.output_tokens.min(initial=1)) < 1:
            raise InvalidTrace("a request has a prompt token and an output token at least")
        if (self.begins_like >= np.arange(count)).any():
            raise InvalidTrace("a prompt begins like that of an earlier request")

    def __len__(self) -> int:
        return len(self.arrival_s)

    def page(self, request: int, index: int) -> tuple[int, int]:
        """Which page of which request holds the same prompt tokens: the earliest one's."""
        while index < self.shared_pages[request]:
            request = int(self.begins_like[request])
        return request, index
