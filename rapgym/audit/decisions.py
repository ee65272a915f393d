"""One decision as the audit log keeps it: what the shield was given, and what it made of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.audit.context import AuditContext
from rapgym.audit.record import DECIDED, LARGEST_OBSERVATION, Field, Floats, KeptSet
from rapgym.errors import InvalidSpec
from rapgym.world.records import Demand
from rapgym.world.shield import Decision


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
    # The policy's, whether or not it reached the shield, [B, N].
    own_proposal: BoolArray | None = None
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


_columns = attrgetter(*(field.source for field in DECIDED))


class Held(NamedTuple):
    """Decisions copied for the log: nothing that happens to the caller's arrays changes them."""

    time_us: int  # since 1970, UTC
    context: Any  # of its world
    lanes: int
    # In the order of `record.DECIDED`: a list of B values; for kept sets B * N booleans; for
    # observations B * O float32, little-endian. Of the serving world: the texts of B lines.
    columns: tuple[Any, ...]


def held(decisions: Decisions, context: AuditContext, time_us: int) -> Held:
    """A checked copy of decisions.

    Raises:
        InvalidSpec: shapes differ, or a number is out of its range.
    """
    lanes = len(decisions.limit_bytes)
    columns: list[Any] = list(_columns(decisions))
    for place, field, least, most, rule in _LISTED:
        column = columns[place]
        if column is None:
            if not field.optional:
                raise _missing(field)
            continue
        told = column.tolist() if type(column) is np.ndarray else _listed(column, lanes)
        columns[place] = told
        if len(told) != lanes:
            raise InvalidSpec(f"every column of {lanes} decisions needs {lanes} entries")
        # One lane has its own way: that is a server's, decision by decision.
        if least is not None and lanes == 1:
            broken = "" if least <= told[0] <= most else field.kind.outside
        else:
            broken = rule(told) if rule and lanes else ""
        if broken:
            raise InvalidSpec(f"{field.name} ({field.meaning}) {broken}")
    for place, field, copied in _PACKED:
        column = columns[place]
        if column is not None:
            columns[place] = copied(column, lanes, context.blocks)
        elif not field.optional:
            raise _missing(field)
    return Held(time_us, context, lanes, tuple(columns))


def _missing(field: Field) -> InvalidSpec:
    return InvalidSpec(f"{field.name} ({field.meaning}) is missing")


def _listed(column: Any, lanes: int) -> list[Any]:
    """A value for each lane; one number stands for all of them."""
    return [column] * lanes if isinstance(column, int) else list(column)


def _set_bytes(kept: BoolArray, lanes: int, n: int) -> bytes:
    if kept.shape != (lanes, n) or kept.dtype != np.bool_:
        raise InvalidSpec(f"kept sets are bool {[lanes, n]}, not {kept.dtype} {list(kept.shape)}")
    return kept.tobytes()


def _float_bytes(seen: FloatArray, lanes: int, _: int) -> bytes:
    if seen.ndim != 2 or len(seen) != lanes or seen.shape[1] > LARGEST_OBSERVATION:
        raise InvalidSpec(
            f"an observation is float32 [{lanes}, O], O at most {LARGEST_OBSERVATION}"
        )
    return np.asarray(seen, dtype="<f4").tobytes()


# Looked up once: every decision passes here.
_PACKED = [
    (place, field, _set_bytes if isinstance(field.kind, KeptSet) else _float_bytes)
    for place, field in enumerate(DECIDED)
    if isinstance(field.kind, KeptSet | Floats)
]
_LISTED = [
    (
        place,
        field,
        *(field.kind.bounds or (None, None)),
        field.kind.rule if field.kind.ruled else None,
    )
    for place, field in enumerate(DECIDED)
    if not isinstance(field.kind, KeptSet | Floats)
]
