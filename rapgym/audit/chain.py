"""Lines of an audit log: JSON that any program reads, each with a hash that covers the line before.

    {"seq":7,"decision":4,"previous":"<sha256 of line 6>","kind":"decision",...,"sha256":"<of this>"}

A line's sha256 is that of the line's bytes before `,"sha256":`. Among them is the sha256 of the line
before, so that a line cannot be edited, removed or moved without a mark on it or on the next. Lines
are of these kinds: `open` and `close` (of a writer), `context` (what decisions have in common),
`decision`, and `gap` (decisions that could not be written).
"""

import binascii
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Any

import numpy as np

from rapgym.audit.context import AuditContext
from rapgym.audit.decisions import Held
from rapgym.audit.record import DECIDED, FIELDS, LINE, REASONS, Field, Floats, KeptSet, Rule, Whole
from rapgym.errors import InvalidSpec
from rapgym.model import blocks

FORMAT = 1
FIRST = "0" * 64  # what the first line says of the line before
TAIL = len(',"sha256":""}') + 64  # characters that a line's own hash does not cover
_WORDS = {None: "null", True: "true", False: "false"}
_RULES = tuple(f'"{name}"' for name in REASONS)
_CHAIN = re.compile(
    rb'\{"seq":(?P<seq>\d{1,15}),"decision":(?P<decision>\d{1,15}),"previous":"(?P<previous>[0-9a-f]{64})",'
)
# What a line itself says of a decision; the chain's own members stand before.
WRITTEN = tuple(field for field in FIELDS if field.name not in ("seq", "decision"))
_PLACES = {field.name: place for place, field in enumerate(DECIDED)}


def _form(field: Field) -> str:
    """How a value stands in a line: numbers that are always there need no text of their own."""
    if not isinstance(field.kind, Whole):
        return f'"{field.name}":%s'
    return f'"{field.name}":{"%s" if field.optional else "%d"}'


_TEMPLATE = ",".join(['"kind":"decision"', *map(_form, WRITTEN)])


@dataclass(frozen=True, slots=True)
class Head:
    """The last line of a log at some moment: whoever keeps it can tell whether lines went since."""

    seq: int  # of the line, counted from 0; -1 where there is none
    sha256: str
    decisions: int  # up to and with it

    def __str__(self) -> str:
        return f"{self.seq}:{self.sha256}"


def kept_head(text: str) -> Head:
    """The head that somebody kept, as `Head` prints it.

    Raises:
        InvalidSpec: the text is none.
    """
    seq, _, sha256 = text.partition(":")
    if not re.fullmatch(r"\d{1,15}", seq) or not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise InvalidSpec(f"{text!r} is no head: it is SEQ:SHA256, as `rapgym audit LOG` prints it")
    return Head(int(seq), sha256, 0)


START = Head(-1, FIRST, 0)


def link_of(content: bytes) -> tuple[Head, str] | None:
    """The head that a line is and the sha256 of the line before.

    None where these bytes are no line, or its sha256 is not theirs.
    """
    body, end = content[:-TAIL], content[-TAIL:]
    sha256 = hashlib.sha256(body).hexdigest()
    found = _CHAIN.match(body)
    if found is None or end != b',"sha256":"%s"}' % sha256.encode():
        return None
    return Head(int(found["seq"]), sha256, int(found["decision"])), found["previous"].decode()


def line(head: Head, members: str, decisions: int = 0) -> tuple[bytes, Head]:
    """The line that follows `head`, its end of line included, and the head that it is.

    Args:
        members: of the JSON object, beside those of the chain.
        decisions: how many decisions this line is: 1 or 0.
    """
    seq, count = head.seq + 1, head.decisions + decisions
    body = f'{{"seq":{seq},"decision":{count},"previous":"{head.sha256}",{members}'.encode()
    sha256 = hashlib.sha256(body).hexdigest()
    return b'%s,"sha256":"%s"}\n' % (body, sha256.encode()), Head(seq, sha256, count)


def members(kind: str, time_us: int, **more: Any) -> str:
    """The members of a line that is no decision."""
    told = json.dumps(
        {"kind": kind, "time_us": time_us, **more}, separators=(",", ":"), allow_nan=False
    )
    return told[1:-1]


def decisions(run: Sequence[Held], context_id: str) -> Iterator[str]:
    """The members of lines of decisions, all of one context, in their order."""
    context = run[0].context
    own: dict[str, Iterable[Any]] = {
        "time_us": chain(*(repeat(h.time_us, h.lanes) for h in run)),
        "context": repeat(f'"{context_id}"'),
        "used_bytes": _used_bytes(context, run),
    }
    columns = [
        own[field.name] if field.source == LINE else _column(run, field, context)
        for field in WRITTEN
    ]
    # What is the same throughout has no end.
    return map(_TEMPLATE.__mod__, zip(*columns, strict=False))


def _used_bytes(context: AuditContext, run: Sequence[Held]) -> list[int]:
    """By the footprint, without the margin; 0 where refused."""
    raw = b"".join(h.columns[_PLACES["kept"]] for h in run)
    kept = np.frombuffer(raw, dtype=bool).reshape(-1, context.blocks)
    prompt, reserved, refused = (
        np.array([*_values(run, _PLACES[name])])
        for name in ("prompt_tokens", "reserved_tokens", "refused")
    )
    used = context.footprint.used_bytes(kept, prompt + reserved, prompt)
    found: list[int] = np.where(refused, 0, used).tolist()
    return found


def _column(run: Sequence[Held], field: Field, context: AuditContext) -> Iterable[Any]:
    """What lines say of a field, one decision after the other."""
    place = _PLACES[field.name]
    if all(h.columns[place] is None for h in run):
        return repeat("null")
    if isinstance(field.kind, KeptSet):
        return _keys(run, place, context.blocks)
    if isinstance(field.kind, Floats):
        return _floats(run, place)
    if isinstance(field.kind, Rule):
        return map(_RULES.__getitem__, _values(run, place))
    if isinstance(field.kind, Whole) and not field.optional:
        return _values(run, place)
    return map(_json, _values(run, place))


def _values(run: Sequence[Held], place: int) -> Iterable[Any]:
    """A column of all decisions; None for those of moments that lack it."""
    return chain(
        *(repeat(None, h.lanes) if h.columns[place] is None else h.columns[place] for h in run)
    )


def _keys(run: Sequence[Held], place: int, n: int) -> Iterable[str]:
    """`blocks.key` of each kept set in quotes, many at once."""
    raw = [h.columns[place] for h in run]
    known = b"".join(each for each in raw if each is not None)
    packed = blocks.packed(np.frombuffer(known, dtype=bool).reshape(-1, n))
    text, width, digits = packed.tobytes().hex(), 2 * packed.shape[1], -(-n // 4)
    keys = iter([f'"{text[at : at + digits]}"' for at in range(0, len(text), width)])
    if len(known) == n * sum(h.lanes for h in run):
        return keys
    return chain(
        *(["null"] * h.lanes if each is None else [*islice(keys, h.lanes)]
          for h, each in zip(run, raw, strict=True))
    )  # fmt: skip


def _floats(run: Sequence[Held], place: int) -> Iterator[str]:
    for one in run:
        seen = one.columns[place]
        if seen is None:
            yield from repeat("null", one.lanes)
            continue
        size = len(seen) // max(one.lanes, 1)
        for at in range(0, size * one.lanes, max(size, 1)):
            yield f'"{binascii.b2a_base64(seen[at : at + size], newline=False).decode()}"'


def _json(value: Any) -> str:
    if value is None or value is True or value is False:
        return _WORDS[value]
    if type(value) is int:
        return str(value)
    if type(value) is float:
        return repr(value) if math.isfinite(value) else "null"
    if type(value) is list:
        return f"[{','.join(map(_json, value))}]"
    return f'"{value}"'  # a watchdog's state: letters alone
