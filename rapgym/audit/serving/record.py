"""One second of a serving engine as a line of the audit log states it: `ServeRecord`, the table of its fields.

As `audit.record.Record` has them of windows; names that carry over are the same.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from rapgym.audit.record import (
    LARGEST_TOKENS,
    LATEST_US,
    LINE,
    Bytes,
    Count,
    Decider,
    Floats,
    Kind,
    Numbers,
    Of,
    Perhaps,
    PerhapsFlag,
    Text,
    Tokens,
    Whole,
    Word,
    fields_of,
)
from rapgym.serving.world import BACK_S

TERMS = ("quality", "lateness", "undelivered")  # of a second's cost
MOST_SECONDS = 1 << 20  # of an episode
MOST_REQUESTS = 1 << 14  # that arrive in a second
PARTS = ("attention", "ffn", "on_fall")


@dataclass(frozen=True, slots=True)
class Wholes(Kind):
    """Whole numbers from 0 on, so many."""

    parts: int = 0
    high: int = LARGEST_TOKENS

    def holds(self, value: Any) -> bool:
        return (
            isinstance(value, list)
            and len(value) == self.parts
            and all(type(part) is int and 0 <= part <= self.high for part in value)
        )

    def read(self, value: Any) -> Any:
        return tuple(value)


@dataclass(frozen=True, slots=True)
class Arrivals(Kind):
    """Requests: when in the second, in microseconds, prompt tokens, output tokens."""

    def holds(self, value: Any) -> bool:
        each, before = Wholes(parts=3), 0
        if not isinstance(value, list) or len(value) > MOST_REQUESTS:
            return False
        for request in value:
            if not each.holds(request) or not before <= request[0] < 1_000_000:
                return False
            if min(request[1:]) < 1:
                return False
            before = request[0]
        return True

    def read(self, value: Any) -> Any:
        return tuple(tuple(request) for request in value)


Decided = Annotated[tuple[int, ...], Wholes("blocks", "3", parts=3, high=1 << 12)]
Requests = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class ServeRecord:
    """The table, in the order of a line. What may be None is so where it is not known."""

    seq: Annotated[Count, Of("number of the line, counted from 0", LINE)]
    decision: Annotated[Count, Of("number of the decision in the log, counted from 1", LINE)]
    time_us: Annotated[int, Whole("us", high=LATEST_US), Of("since 1970, UTC", LINE)]
    context: Annotated[str, Text(), Of("id of what decisions have in common", LINE)]
    lane: Annotated[Count, Of("of the world, among those that are served at once")]
    episode: Annotated[Count, Of("of the writer's, counted from 0")]
    second: Annotated[int, Whole("s", high=MOST_SECONDS), Of("of the episode")]
    seconds: Annotated[int, Whole("s", low=1, high=MOST_SECONDS), Of("that the episode has")]
    before: Annotated[
        tuple[int, ...] | None,
        Wholes("bytes", str(BACK_S), parts=BACK_S, high=1 << 60),
        Of("limit in each second before the episode, in its first line alone"),
    ]
    seen_limit_bytes: Annotated[Bytes, Of("of the second before, as the policy saw it")]
    limit_bytes: Annotated[Bytes, Of("of this second")]
    waiting: Annotated[Count, Of("requests in the queue as this was decided")]
    queued_tokens: Annotated[Tokens, Of("of theirs")]
    oldest_ms: Annotated[int, Whole("ms"), Of("for which the first of them has waited")]
    running: Annotated[Count, Of("sequences")]
    held_tokens: Annotated[Tokens, Of("in used pages")]
    late_us: Annotated[
        int | None, Whole("us"), Of("by how much the answer missed its deadline; 0 in time")
    ]
    readable: Annotated[PerhapsFlag, Of("the policy's answer was a decision")]
    watchdog: Annotated[str | None, Word(), Of("state of the lane's")]
    source: Annotated[Decider, Of("whose the decision is")]
    reason: Annotated[Decider, Of("by which rule: the same")]
    asked: Annotated[
        tuple[int, ...] | None,
        Wholes("blocks", "3", parts=3, high=1 << 12),
        Of("the policy's: attention and FFN blocks dropped, standing order"),
    ]
    decided: Annotated[Decided, Of("what the engine was given")]
    arrived: Annotated[
        Requests, Arrivals(), Of("requests of this second: when (us), prompt, output")
    ]
    tokens: Annotated[Tokens, Of("delivered in this second")]
    on_time_tokens: Annotated[Tokens, Of("of them by their deadline")]
    shed: Annotated[Count, Of("requests given up")]
    shed_tokens: Annotated[Tokens, Of("of their output")]
    lost_tokens: Annotated[Tokens, Of("that nobody gets: at the episode's end")]
    preemptions: Annotated[Perhaps, Of("sequences sent back to the queue")]
    steps: Annotated[Count, Of("of the engine")]
    still_waiting: Annotated[Count, Of("requests in the queue afterwards")]
    still_running: Annotated[Count, Of("sequences afterwards")]
    pages_used: Annotated[Count, Of("afterwards")]
    attention_dropped: Annotated[Count, Of("blocks, afterwards")]
    ffn_dropped: Annotated[Count, Of("blocks, afterwards")]
    loading: Annotated[
        Count, Of("0; 1 where an attention block is on its way back, 2 for an FFN block")
    ]
    used_bytes: Annotated[Bytes, Of("afterwards, what is loading included")]
    output_tokens: Annotated[Tokens, Of("weight of the cost: delivered, given up and lost")]
    cost: Annotated[
        tuple[float | None, ...] | None,
        Numbers("nats a token", str(len(TERMS)), TERMS),
        Of("of the second, by its terms; null without tokens"),
    ]
    observation: Annotated[str | None, Floats(shape="O"), Of("of the engine as this was decided")]


FIELDS = fields_of(ServeRecord)
WRITTEN = tuple(field for field in FIELDS if field.source != LINE)
