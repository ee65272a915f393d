"""One decision as the audit log keeps it: what the shield was given, and what it made of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.audit.context import AuditContext
from rapgym.errors import InvalidSpec
from rapgym.world.records import Demand
from rapgym.world.shield import Decision

LARGEST_TOKENS = 1 << 31  # and requests of a row
LARGEST_BYTES = 1 << 60  # of a limit
LARGEST_OBSERVATION = 1 << 14  # entries
LONGEST_STATE = 32  # characters


@dataclass(slots=True)  # not frozen: that would double what a decision costs here
class Decisions:
    """What was decided in B lanes at one moment; what is not known is None.

    The first seven are the arguments of `shield.decide` (costs follow from demand and footprint)
    and what it returned. A fall of the limit in mid-row is a decision of its own: `second` says
    when, its source is EMERGENCY, and its proposal is what was in memory.
    """

    demand: Demand  # each [B]
    limit_bytes: IntArray  # as seen when this was decided, [B]
    budget_bytes: IntArray  # of that, for blocks, [B]
    proposal: BoolArray  # what reached the shield, [B, N]
    source: IntArray  # whose it is (shield.Reason), [B]
    refuses_misfit: BoolArray  # [B]
    decision: Decision
    observation: FloatArray | None = None  # float32 [B, O], as the policy saw it
    loaded: BoolArray | None = None  # blocks in memory before, [B, N]
    own_proposal: BoolArray | None = (
        None  # the policy's, whether or not it reached the shield, [B, N]
    )
    readable: BoolArray | None = None  # False where the policy's answer was no proposal, [B]
    late_us: IntArray | None = None  # by how much the answer missed its deadline; 0 in time, [B]
    watchdog: Sequence[str] | None = None  # state of each lane's, in lower case, [B]
    pinned: BoolArray | None = None  # an operator has pinned a kept set, [B]
    lane: IntArray | None = None  # [B]
    row: IntArray | None = None  # of the scenario's split, [B]
    limit_row: IntArray | None = None  # [B]
    second: int = 0  # of the row; above 0 for what a fall in mid-row forced
    measured_bytes: IntArray | None = None  # in use on a device, [B]
    nll: FloatArray | None = None  # calibration nats a token above dense of what is kept, [B]
    measured: BoolArray | None = None  # False where that is a prediction, [B]
    output_tokens: IntArray | None = None  # weight of the row's cost, [B]
    cost: FloatArray | None = None  # of the row: quality, stall, emergency, refused, nats, [B, 4]


# Columns of numbers that are always there, and of those that may be missing, by their names.
DEMAND = ("batch", "prompt_tokens", "reserved_tokens", "longest_tokens")
BYTES = ("limit_bytes", "budget_bytes")
COUNTS = ("lane", "row", "limit_row", "late_us", "measured_bytes", "output_tokens")
MAYBE = (*COUNTS, "nll", "readable", "pinned", "measured", "cost")
_MAYBE = attrgetter(*MAYBE)
SETS = ("proposal", "kept", "loaded", "own_proposal")


class Held(NamedTuple):
    """Decisions copied for the log: nothing that happens to the caller's arrays changes them."""

    time_us: int  # since 1970, UTC
    context: AuditContext
    lanes: int
    second: int
    whole: tuple[list[int], ...]  # DEMAND, then BYTES
    maybe: tuple[list[Any] | None, ...]  # MAYBE, then the watchdog's states
    flags: tuple[list[Any], ...]  # refuses_misfit, refused, source, reason
    sets: tuple[bytes | None, ...]  # SETS, B * N booleans each
    observation: bytes | None  # B * O float32, little-endian


def held(decisions: Decisions, context: AuditContext, time_us: int) -> Held:
    """A checked copy of decisions.

    Raises:
        InvalidSpec: shapes differ, or a number is out of its range.
    """
    asked, made, lanes = decisions.demand, decisions.decision, len(decisions.limit_bytes)
    whole = (
        asked.batch.tolist(),
        asked.prompt_tokens.tolist(),
        asked.reserved_tokens.tolist(),
        asked.longest_tokens.tolist(),
        decisions.limit_bytes.tolist(),
        decisions.budget_bytes.tolist(),
    )
    flags = (
        decisions.refuses_misfit.tolist(),
        made.refused.tolist(),
        decisions.source.tolist(),
        made.reason.tolist(),
    )
    columns = _MAYBE(decisions)
    told = [None if column is None else column.tolist() for column in columns]
    told.append(None if decisions.watchdog is None else list(decisions.watchdog))
    for column in (*whole, *flags, *told):
        if column is not None and len(column) != lanes:
            raise InvalidSpec(f"every column of {lanes} decisions needs {lanes} entries")
    if lanes:
        _check_ranges(whole, told, decisions)
    sets = (decisions.proposal, made.kept, decisions.loaded, decisions.own_proposal)
    return Held(
        time_us,
        context,
        lanes,
        decisions.second,
        whole,
        tuple(told),
        flags,
        tuple([_set_bytes(kept, (lanes, context.blocks)) for kept in sets]),
        _observation_bytes(decisions.observation, lanes),
    )


def _check_ranges(
    whole: Sequence[list[int]], told: Sequence[list[Any] | None], decisions: Decisions
) -> None:
    tokens, sizes = [*chain(*whole[: len(DEMAND)])], [*chain(*whole[len(DEMAND) :])]
    if min(tokens) < 0 or max(tokens) > LARGEST_TOKENS:
        raise InvalidSpec(f"requests and tokens of a row go from 0 to {LARGEST_TOKENS}")
    if min(sizes) < -LARGEST_BYTES or max(sizes) > LARGEST_BYTES:
        raise InvalidSpec(f"limits and budgets go to {LARGEST_BYTES} bytes")
    counts = [*chain(*filter(None, told[: len(COUNTS)]))]
    if counts and (min(counts) < 0 or max(counts) > LARGEST_BYTES):
        raise InvalidSpec(
            f"lanes, rows, lateness, measured bytes and output tokens go from 0 to {LARGEST_BYTES}"
        )
    if decisions.watchdog is not None and not all(map(is_state, decisions.watchdog)):
        raise InvalidSpec(f"a watchdog's state is a word of at most {LONGEST_STATE} letters")


def is_state(text: str) -> bool:
    """Whether a word may name a watchdog's state."""
    return len(text) <= LONGEST_STATE and text.isascii() and text.isidentifier()


def _set_bytes(kept: BoolArray | None, shape: tuple[int, int]) -> bytes | None:
    if kept is None:
        return None
    if kept.shape != shape or kept.dtype != np.bool_:
        raise InvalidSpec(f"kept sets are bool {list(shape)}, not {kept.dtype} {list(kept.shape)}")
    return kept.tobytes()


def _observation_bytes(seen: FloatArray | None, lanes: int) -> bytes | None:
    if seen is None:
        return None
    if seen.ndim != 2 or len(seen) != lanes or seen.shape[1] > LARGEST_OBSERVATION:
        raise InvalidSpec(
            f"an observation is float32 [{lanes}, O], O at most {LARGEST_OBSERVATION}"
        )
    return np.asarray(seen, dtype="<f4").tobytes()
