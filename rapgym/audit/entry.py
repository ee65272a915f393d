"""What a line of an audit log says, once it is read: one decision, or what decisions have in common.

Numbers have ranges in which no arithmetic overflows.
"""

from dataclasses import dataclass, fields

from rapgym.audit import chain
from rapgym.audit import context as audit_context
from rapgym.audit.context import AuditContext
from rapgym.audit.decisions import (
    COUNTS,
    LARGEST_BYTES,
    LARGEST_OBSERVATION,
    LARGEST_TOKENS,
    is_state,
)
from rapgym.audit.read import Line
from rapgym.errors import InvalidResult

_SEEN_CHARACTERS = 4 * (4 * LARGEST_OBSERVATION // 3 + 1)


@dataclass(frozen=True, slots=True)
class Record:
    """One decision as a line states it; meanings are those of `audit_record.Decisions`."""

    seq: int
    decision: int  # its number in the log, counted from 1
    time_us: int
    context: str
    second: int
    batch: int
    prompt_tokens: int
    reserved_tokens: int
    longest_tokens: int
    limit_bytes: int
    budget_bytes: int
    used_bytes: int  # of what is kept, by the footprint; 0 where refused
    lane: int | None
    row: int | None
    limit_row: int | None
    late_us: int | None
    measured_bytes: int | None
    output_tokens: int | None
    nll: float | None
    readable: bool | None
    pinned: bool | None
    measured: bool | None
    cost: tuple[float | None, ...] | None  # quality, stall, emergency, refused
    watchdog: str | None
    refuses_misfit: bool
    refused: bool
    source: str
    reason: str
    proposal: str  # key, as `blocks.key`
    kept: str
    loaded: str | None
    own_proposal: str | None
    observation: str | None  # float32, little-endian, base64


_NAMES = tuple(field.name for field in fields(Record))
_TOKENS = ("batch", "prompt_tokens", "reserved_tokens", "longest_tokens")
_BYTES = ("limit_bytes", "budget_bytes", "used_bytes")
_FLAGS = ("refuses_misfit", "refused")
_MAYBE_FLAGS = ("readable", "pinned", "measured")
_KEYS = ("proposal", "kept")
_MAYBE_KEYS = ("loaded", "own_proposal")


def record_of(found: Line) -> Record:
    """The decision that a line states.

    Raises:
        InvalidResult: it lacks something, or a number is out of its range.
    """
    told = found.fields
    try:
        values = {name: told[name] for name in _NAMES}
    except KeyError as error:
        raise InvalidResult(f"line {found.head.seq} has no {error.args[0]}") from None
    cost = values["cost"]
    sound = (
        all(_is_whole(values[name], 0, LARGEST_TOKENS) for name in _TOKENS)
        and all(_is_whole(values[name], -LARGEST_BYTES, LARGEST_BYTES) for name in _BYTES)
        and _is_whole(values["second"], 0, 1 << 20)
        and all(values[n] is None or _is_whole(values[n], 0, LARGEST_BYTES) for n in COUNTS)
        and all(type(values[name]) is bool for name in _FLAGS)
        and all(values[name] is None or type(values[name]) is bool for name in _MAYBE_FLAGS)
        and all(_is_key(values[name]) for name in _KEYS)
        and all(values[name] is None or _is_key(values[name]) for name in _MAYBE_KEYS)
        and values["source"] in chain.REASONS
        and values["reason"] in chain.REASONS
        and _is_number(values["nll"])
        and (
            cost is None
            or (isinstance(cost, list) and len(cost) == 4 and all(map(_is_number, cost)))
        )
        and isinstance(values["context"], str)
        and (values["watchdog"] is None or _is_state(values["watchdog"]))
        and (values["observation"] is None or _is_text(values["observation"], _SEEN_CHARACTERS))
    )
    if not sound:
        raise InvalidResult(f"line {found.head.seq} holds what no decision has")
    return Record(**values | {"cost": None if cost is None else tuple(cost)})


def _is_whole(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_number(value: object) -> bool:
    return value is None or (type(value) in (int, float) and -1e300 < value < 1e300)  # type: ignore[operator]


def _is_text(value: object, longest: int) -> bool:
    return isinstance(value, str) and len(value) <= longest


def _is_key(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 256


def _is_state(value: object) -> bool:
    return isinstance(value, str) and is_state(value)


def context_of(found: Line) -> tuple[str, AuditContext]:
    """The context that a line states, and its id.

    Raises:
        InvalidResult: it states none, or one of another id.
    """
    context = audit_context.of_json(found.fields)
    if found.fields.get("context") != context.id:
        raise InvalidResult(f"line {found.head.seq} states a context of another id than it says")
    return context.id, context


def lost_of(found: Line) -> int:
    """How many decisions a line of kind `gap` says are missing.

    Raises:
        InvalidResult: it does not say.
    """
    decisions = found.fields.get("decisions")
    if not _is_whole(decisions, 0, 1 << 53):
        raise InvalidResult(f"line {found.head.seq} does not say how many decisions are missing")
    assert isinstance(decisions, int)
    return decisions
